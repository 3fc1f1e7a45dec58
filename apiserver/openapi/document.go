package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/kinds"
)

// object is a JSON object.
type object = map[string]any

// part is one document of v3.
type part struct {
	rows []*kinds.Kind
	// group and version of the kinds; both empty for the documents about other paths.
	group, version string
	// path has a document of its own, which lists kinds, groups or versions, or is about the server itself.
	path string
}

// partsOf names the documents of v3, as upstream does: by the path that they are about, without slashes around it.
func partsOf(rows []*kinds.Kind) map[string]part {
	parts := map[string]part{
		".well-known/openid-configuration": {path: "/.well-known/openid-configuration/"},
		"openid/v1/jwks":                   {path: "/openid/v1/jwks/"},
		"version":                          {path: "/version/"},
		"api":                              {path: "/api/"},
		"apis":                             {path: "/apis/"},
	}
	for _, k := range rows {
		for _, v := range k.Versions {
			name := strings.Trim(prefixOf(k.Group, v.Name), "/")
			p := parts[name]
			p.group, p.version, p.rows = k.Group, v.Name, append(p.rows, k)
			parts[name] = p
			if k.Group != "" {
				parts["apis/"+k.Group] = part{group: k.Group, path: "/apis/" + k.Group + "/"}
			}
		}
	}
	return parts
}

// prefixOf is the path below which the kinds of a group and version lie.
func prefixOf(group, version string) string {
	if group == "" {
		return "/api/" + version + "/"
	}
	return "/apis/" + group + "/" + version + "/"
}

// encoder writes a document whose schemas come one after the other.
type encoder func(top object, schemas iterSchemas) ([]byte, error)

// iterSchemas yields the schemas of a document in order of their names.
type iterSchemas func(yield func(name string, schema []byte) error) error

func (s *server) buildV3(p part, encode encoder) ([]byte, error) {
	set, err := loadSchemas()
	if err != nil {
		return nil, err
	}
	paths := &pathBuilder{table: s.table, schemas: set, style: v3{}}
	if p.version == "" {
		paths.special(p)
	} else {
		paths.kinds(p)
	}
	top := object{
		"openapi":    "3.0.0",
		"info":       object{"title": title, "version": version},
		"paths":      paths.out,
		"components": object{"securitySchemes": object{"BearerToken": bearer()}},
	}
	names := set.closure(refsIn(paths.out, "#/components/schemas/"))
	for _, k := range p.rows {
		names = set.closureWith(names, modelsOf(k, p.version))
	}
	gvks := gvksOf(s.table.All())
	return encode(top, func(yield func(string, []byte) error) error {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if err := yield(name, withGVKs(set[name].v3, gvks[name])); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *server) buildV2(rows []*kinds.Kind, encode encoder) ([]byte, error) {
	set, err := loadSchemas()
	if err != nil {
		return nil, err
	}
	paths := &pathBuilder{table: s.table, schemas: set, style: v2{}}
	names := map[string]bool{}
	parts := partsOf(rows)
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		p := parts[name]
		if p.version == "" {
			paths.special(p)
			continue
		}
		paths.kinds(p)
		for _, k := range p.rows {
			names = set.closureWith(names, modelsOf(k, p.version))
		}
	}
	names = set.closureWith(names, refsIn(paths.out, "#/definitions/"))
	top := object{
		"swagger":             "2.0",
		"info":                object{"title": title, "version": version},
		"paths":               paths.out,
		"securityDefinitions": object{"BearerToken": bearer()},
		"security":            []any{object{"BearerToken": []any{}}},
	}
	gvks := gvksOf(rows)
	return encode(top, func(yield func(string, []byte) error) error {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			two, err := set[name].v2()
			if err != nil {
				return fmt.Errorf("convert schema %s: %w", name, err)
			}
			if err := yield(name, withGVKs(two, gvks[name])); err != nil {
				return err
			}
		}
		return nil
	})
}

func bearer() object {
	return object{"description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey"}
}

// refsIn finds the schemas that paths refer to.
func refsIn(v any, prefix string) []string {
	var out []string
	switch t := v.(type) {
	case object:
		for key, e := range t {
			if ref, ok := e.(string); ok && key == "$ref" {
				out = append(out, strings.TrimPrefix(ref, prefix))
			} else {
				out = append(out, refsIn(e, prefix)...)
			}
		}
	case []any:
		for _, e := range t {
			out = append(out, refsIn(e, prefix)...)
		}
	}
	return out
}

// modeler is what the Go types of the API say about themselves.
type modeler interface{ OpenAPIModelName() string }

// modelOf is the name of an object's schema; "" for objects without a Go type of their own.
func modelOf(obj any) string {
	if m, ok := obj.(modeler); ok {
		return m.OpenAPIModelName()
	}
	return ""
}

// modelsOf are the schemas of a kind and its list.
func modelsOf(k *kinds.Kind, version string) []string {
	var out []string
	v := k.Version(version)
	if name := modelOf(v.New()); name != "" {
		out = append(out, name)
	}
	if v.NewList != nil {
		if name := modelOf(v.NewList()); name != "" {
			out = append(out, name)
		}
	}
	return out
}

// gvksOf says for each schema which kinds it is the schema of. Options and watch events are kinds of every group and version.
func gvksOf(rows []*kinds.Kind) map[string][]schema.GroupVersionKind {
	const meta = "io.k8s.apimachinery.pkg.apis.meta.v1."
	out := map[string][]schema.GroupVersionKind{}
	groups := map[schema.GroupVersion]bool{}
	add := func(model string, gvk schema.GroupVersionKind) {
		if model != "" && !slices.Contains(out[model], gvk) {
			out[model] = append(out[model], gvk)
		}
	}
	for _, k := range rows {
		for _, v := range k.Versions {
			gv := schema.GroupVersion{Group: k.Group, Version: v.Name}
			groups[gv] = true
			add(modelOf(v.New()), gv.WithKind(k.Kind))
			if v.NewList != nil {
				add(modelOf(v.NewList()), gv.WithKind(k.Kind+"List"))
			}
		}
		for _, s := range k.Subresources {
			if s.NewBody != nil {
				add(modelOf(s.NewBody()), s.Body)
			}
		}
	}
	ordered := slices.SortedFunc(maps.Keys(groups), func(a, b schema.GroupVersion) int { return strings.Compare(a.String(), b.String()) })
	for _, gv := range ordered {
		add(meta+"DeleteOptions", gv.WithKind("DeleteOptions"))
		add(meta+"WatchEvent", gv.WithKind("WatchEvent"))
	}
	for _, kind := range []string{"APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "Status"} {
		add(meta+kind, schema.GroupVersionKind{Version: "v1", Kind: kind})
	}
	return out
}

// withGVKs adds to a schema which kinds it is of.
func withGVKs(schema []byte, gvks []schema.GroupVersionKind) []byte {
	if len(gvks) == 0 {
		return schema
	}
	list := make([]any, len(gvks))
	for i, g := range gvks {
		list[i] = gvkObject(g)
	}
	data, err := json.Marshal(list)
	if err != nil {
		return schema // strings always encode
	}
	out := bytes.TrimSuffix(schema, []byte("}"))
	out = append(slices.Clip(out), `,"x-kubernetes-group-version-kind":`...)
	return append(append(out, data...), '}')
}

func gvkObject(g schema.GroupVersionKind) object {
	return object{"group": g.Group, "kind": g.Kind, "version": g.Version}
}

// encodeJSON writes the schemas last, each as it comes.
func encodeJSON(top object, schemas iterSchemas) ([]byte, error) {
	var out bytes.Buffer
	components, isV3 := top["components"].(object)
	if isV3 {
		delete(top, "components")
	}
	head, err := json.Marshal(top)
	if err != nil {
		return nil, err
	}
	out.Write(bytes.TrimSuffix(head, []byte("}")))
	if isV3 {
		security, err := json.Marshal(components["securitySchemes"])
		if err != nil {
			return nil, err
		}
		out.WriteString(`,"components":{"securitySchemes":`)
		out.Write(security)
		out.WriteString(`,"schemas":{`)
	} else {
		out.WriteString(`,"definitions":{`)
	}
	first := true
	err = schemas(func(name string, schema []byte) error {
		if !first {
			out.WriteByte(',')
		}
		first = false
		fmt.Fprintf(&out, "%q:", name)
		out.Write(schema)
		return nil
	})
	if err != nil {
		return nil, err
	}
	out.WriteString("}}")
	if isV3 {
		out.WriteByte('}')
	}
	return out.Bytes(), nil
}
