package openapi

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/kinds"
)

// Names of schemas that many paths share.
const (
	metaV1        = "io.k8s.apimachinery.pkg.apis.meta.v1."
	modelStatus   = metaV1 + "Status"
	modelDelete   = metaV1 + "DeleteOptions"
	modelPatch    = metaV1 + "Patch"
	modelWatch    = metaV1 + "WatchEvent"
	modelVersion  = "io.k8s.apimachinery.pkg.version.Info"
	plainText     = "string" // stands for a body without schema
	jsonType      = "application/json"
	yamlType      = "application/yaml"
	protobufType  = "application/vnd.kubernetes.protobuf"
	anyType       = "*/*"
	jsonPatch     = "application/json-patch+json"
	mergePatch    = "application/merge-patch+json"
	strategic     = "application/strategic-merge-patch+json"
	applyPatch    = "application/apply-patch+yaml"
	watchJSON     = "application/json;stream=watch"
	watchProtobuf = "application/vnd.kubernetes.protobuf;stream=watch"
)

// operation is one method of a path, before it is put into the words of v2 or v3.
type operation struct {
	method          string // lower case
	id, description string
	tag             string
	action          string // x-kubernetes-action
	gvk             *schema.GroupVersionKind
	params          []param
	// body is the schema of the request's body, in any of bodyTypes; "" for none.
	body         string
	bodyTypes    []string
	bodyRequired bool
	// codes and their schema (model): "" for none, plainText for text; produces are the types.
	codes    []int
	model    string
	produces []string
}

type param struct {
	name, in, description, typ string
	required                   bool
}

// style puts operations into the words of one version of OpenAPI.
type style interface {
	operation(o *operation) object
	param(p param) object
}

// pathBuilder collects paths.
type pathBuilder struct {
	table   *kinds.Table
	schemas schemaSet
	style   style
	out     object
}

// add puts the operations of one path into the words of the style. Parameters that all of them share stand on the path.
func (b *pathBuilder) add(path string, always []param, ops ...*operation) {
	if len(ops) == 0 {
		return
	}
	shared := slices.Clone(always)
	for _, p := range ops[0].params {
		if !slices.ContainsFunc(ops, func(o *operation) bool { return !slices.Contains(o.params, p) }) {
			shared = append(shared, p)
		}
	}
	item := object{}
	for _, o := range ops {
		o.params = slices.DeleteFunc(slices.Clone(o.params), func(p param) bool { return slices.Contains(shared, p) })
		item[o.method] = b.style.operation(o)
	}
	if len(shared) > 0 {
		item["parameters"] = b.params(shared)
	}
	if b.out == nil {
		b.out = object{}
	}
	b.out[path] = item
}

func (b *pathBuilder) params(list []param) []any {
	slices.SortFunc(list, func(x, y param) int { return cmp.Compare(x.name, y.name) })
	out := make([]any, len(list))
	for i, p := range list {
		out[i] = b.style.param(p)
	}
	return out
}

// query returns the fields of an options type as query parameters, without those named.
func (b *pathBuilder) query(model string, without ...string) []param {
	properties, err := b.schemas.properties(model)
	if err != nil {
		return nil
	}
	var out []param
	for name, p := range properties {
		if name == "kind" || name == "apiVersion" || slices.Contains(without, name) {
			continue
		}
		typ := p.Type
		if typ == "array" {
			typ = "string"
		}
		if typ != "" { // structs are no parameters
			out = append(out, param{name: name, in: "query", description: p.Description, typ: typ})
		}
	}
	slices.SortFunc(out, func(x, y param) int { return cmp.Compare(x.name, y.name) })
	return out
}

// Parameters that stand on paths.
func prettyParam() param {
	return param{name: "pretty", in: "query", typ: "string", description: "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget)."}
}

func namespaceParam() param {
	return param{name: "namespace", in: "path", typ: "string", required: true, description: "object name and auth scope, such as for teams and projects"}
}

func nameParam(kind string) param {
	return param{name: "name", in: "path", typ: "string", required: true, description: "name of the " + kind}
}

// special adds the paths of documents that are not about kinds.
func (b *pathBuilder) special(p part) {
	get := func(tag, id, description, model string, types ...string) *operation {
		return &operation{method: "get", tag: tag, id: id, description: description, codes: []int{200, 401}, model: model, produces: types}
	}
	list := []string{jsonType, yamlType, protobufType}
	switch {
	case p.group != "":
		name := groupName(p.group)
		b.add(p.path, nil, get(lowerFirst(name), "get"+name+"APIGroup", "get information of a group", metaV1+"APIGroup", list...))
	case p.path == "/api/":
		b.add(p.path, nil, get("core", "getCoreAPIVersions", "get available API versions", metaV1+"APIVersions", list...))
	case p.path == "/apis/":
		b.add(p.path, nil, get("apis", "getAPIVersions", "get available API versions", metaV1+"APIGroupList", list...))
	case p.path == "/version/":
		b.add(p.path, nil, get("version", "getCodeVersion", "get the version information for this server", modelVersion, jsonType))
	case strings.HasPrefix(p.path, "/openid/"):
		b.add(p.path, nil, get("openid", "getServiceAccountIssuerOpenIDKeyset",
			"get service account issuer OpenID JSON Web Key Set (contains public token verification keys)", plainText, "application/jwk-set+json"))
	default:
		b.add(p.path, nil, get("WellKnown", "getServiceAccountIssuerOpenIDConfiguration",
			"get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'", plainText, jsonType))
	}
}

// kinds adds the paths of all kinds of a group and version.
func (b *pathBuilder) kinds(p part) {
	group := groupName(p.group)
	tag := lowerFirst(group) + "_" + p.version
	prefix := prefixOf(p.group, p.version)
	b.add(prefix, nil, &operation{method: "get", tag: tag, id: "get" + group + upperFirst(p.version) + "APIResources",
		description: "get available resources", codes: []int{200, 401}, model: metaV1 + "APIResourceList",
		produces: []string{jsonType, yamlType, protobufType}})
	for _, k := range p.rows {
		r := &resource{b: b, kind: k, version: p.version, prefix: prefix, tag: tag, stem: group + upperFirst(p.version)}
		r.model = modelOf(k.Version(p.version).New())
		if r.model != "" { // kinds without a schema have no description
			r.addAll()
		}
	}
}

// groupName is how operations call a group: "Core", "Apps", "RbacAuthorization".
func groupName(group string) string {
	if group == "" {
		return "Core"
	}
	name := ""
	for _, word := range strings.FieldsFunc(strings.TrimSuffix(group, ".k8s.io"), func(r rune) bool { return r == '.' || r == '-' }) {
		name += upperFirst(word)
	}
	return name
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// codeText is what responses are described with.
func codeText(code int) string {
	switch code {
	case 200:
		return "OK"
	case 201:
		return "Created"
	case 202:
		return "Accepted"
	case 401:
		return "Unauthorized"
	}
	return fmt.Sprint(code)
}
