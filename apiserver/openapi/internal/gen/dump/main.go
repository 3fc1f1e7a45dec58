// Command dump writes the schemas of all API types, one a line: the name, a tab, the OpenAPI v3 schema and, where it does not follow from
// that, a tab and the v2 schema, all JSON without spaces. The file is compressed with gzip. See ../generate.sh.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/kebernetes/kebernetes/apiserver/openapi/internal/gen/defs"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "dump:", err)
		os.Exit(1)
	}
}

// name is what a definition is called on the wire, from its Go type or as its package says.
func name(n string) (string, spec.Extensions) {
	if strings.Contains(n, "/") {
		n = util.ToRESTFriendlyName(n)
	}
	return n, nil
}

func run(file string) error {
	var names []string
	for n := range defs.GetOpenAPIDefinitions(func(string) spec.Ref { return spec.Ref{} }) {
		names = append(names, n)
	}
	slices.Sort(names)
	v3, err := builder3.BuildOpenAPIDefinitionsForResources(&common.OpenAPIV3Config{
		Info: &spec.Info{}, GetDefinitions: defs.GetOpenAPIDefinitions, GetDefinitionName: name}, names...)
	if err != nil {
		return fmt.Errorf("build v3: %w", err)
	}
	v2, err := builder.BuildOpenAPIDefinitionsForResources(&common.Config{
		Info: &spec.Info{}, GetDefinitions: defs.GetOpenAPIDefinitions, GetDefinitionName: name}, names...)
	if err != nil {
		return fmt.Errorf("build v2: %w", err)
	}
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	overrides := 0
	ordered := make([]string, 0, len(v3))
	for n := range v3 {
		ordered = append(ordered, n)
	}
	slices.Sort(ordered)
	for _, n := range ordered {
		three, err := json.Marshal(v3[n])
		if err != nil {
			return fmt.Errorf("encode %s: %w", n, err)
		}
		two, err := json.Marshal(v2.Definitions[n])
		if err != nil {
			return fmt.Errorf("encode %s: %w", n, err)
		}
		var tree, want any
		if err := json.Unmarshal(three, &tree); err != nil {
			return err
		}
		if err := json.Unmarshal(two, &want); err != nil {
			return err
		}
		fmt.Fprintf(z, "%s\t%s", n, three)
		derived, _ := json.Marshal(toV2(tree))
		pruned, _ := json.Marshal(toV2(want))
		if !bytes.Equal(derived, pruned) {
			overrides++
			fmt.Fprintf(os.Stderr, "v2 of %s is its own\n", n)
			fmt.Fprintf(z, "\t%s", pruned)
		}
		fmt.Fprintln(z)
	}
	if err := z.Close(); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d schemas, %d with a v2 of their own, %d bytes\n", len(ordered), overrides, out.Len())
	return os.WriteFile(file, out.Bytes(), 0o644)
}

// toV2 is what the server does to get v2 from v3: references stand without allOf and point elsewhere, and defaults are left out.
func toV2(schema any) any {
	in, ok := schema.(map[string]any)
	if !ok {
		return schema
	}
	out := map[string]any{}
	for k, v := range in {
		switch k {
		case "default":
		case "$ref":
			out[k] = strings.Replace(v.(string), "#/components/schemas/", "#/definitions/", 1)
		case "properties":
			properties := map[string]any{}
			for name, p := range v.(map[string]any) {
				properties[name] = toV2(p)
			}
			out[k] = properties
		case "items", "additionalProperties":
			out[k] = toV2(v)
		case "allOf":
			if list := v.([]any); len(list) == 1 {
				out["$ref"] = toV2(list[0]).(map[string]any)["$ref"]
			} else {
				out[k] = v
			}
		default:
			out[k] = v
		}
	}
	return out
}
