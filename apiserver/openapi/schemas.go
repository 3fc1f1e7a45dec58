package openapi

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// schemaData holds a line for each type of the API: name, v3 schema and, where it does not follow from that, v2 schema. Made by internal/gen.
//
//go:embed schema.gz
var schemaData []byte

// schemaText is one type's schema.
type schemaText struct{ v3, ownV2 []byte }

type schemaSet map[string]schemaText

// loadSchemas unpacks all schemas: a megabyte, for the time that a document is being made.
func loadSchemas() (schemaSet, error) {
	z, err := gzip.NewReader(bytes.NewReader(schemaData))
	if err != nil {
		return nil, fmt.Errorf("unpack schemas: %w", err)
	}
	set := schemaSet{}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := bytes.Split(bytes.Clone(lines.Bytes()), []byte("\t"))
		if len(fields) < 2 {
			return nil, fmt.Errorf("unpack schemas: a line without a schema: %.80q", lines.Bytes())
		}
		s := schemaText{v3: fields[1]}
		if len(fields) > 2 {
			s.ownV2 = fields[2]
		}
		set[string(fields[0])] = s
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("unpack schemas: %w", err)
	}
	return set, nil
}

// reference matches references in the text of a schema. Read only.
var reference = regexp.MustCompile(`"#/components/schemas/([^"]+)"`)

// closure names the schemas given and all that they lead to.
func (set schemaSet) closure(names []string) map[string]bool {
	return set.closureWith(map[string]bool{}, names)
}

// closureWith adds names, and all that they lead to, to what is known.
func (set schemaSet) closureWith(known map[string]bool, names []string) map[string]bool {
	for len(names) > 0 {
		name := names[len(names)-1]
		names = names[:len(names)-1]
		schema, ok := set[name]
		if !ok || known[name] {
			continue
		}
		known[name] = true
		for _, m := range reference.FindAllSubmatch(schema.v3, -1) {
			names = append(names, string(m[1]))
		}
	}
	return known
}

// properties returns the descriptions and types of a type's fields, for those that are query parameters.
func (set schemaSet) properties(name string) (map[string]property, error) {
	var schema struct{ Properties map[string]property }
	if err := json.Unmarshal(set[name].v3, &schema); err != nil {
		return nil, fmt.Errorf("read schema %s: %w", name, err)
	}
	return schema.Properties, nil
}

type property struct{ Description, Type string }

// v2 returns the schema for OpenAPI v2.
func (s schemaText) v2() ([]byte, error) {
	if s.ownV2 != nil {
		return s.ownV2, nil
	}
	var tree object
	if err := json.Unmarshal(s.v3, &tree); err != nil {
		return nil, err
	}
	return json.Marshal(toV2(tree))
}

// toV2 makes a v2 schema of a v3 schema: references stand without allOf and point elsewhere, and there are no defaults.
func toV2(in object) object {
	out := make(object, len(in))
	for key, value := range in {
		switch key {
		case "default":
		case "$ref":
			out[key] = strings.Replace(value.(string), "#/components/schemas/", "#/definitions/", 1)
		case "properties":
			properties := object{}
			for name, p := range value.(object) {
				properties[name] = toV2(p.(object))
			}
			out[key] = properties
		case "items", "additionalProperties":
			if schema, ok := value.(object); ok {
				value = toV2(schema)
			}
			out[key] = value
		case "allOf":
			list := value.([]any)
			if len(list) != 1 {
				out[key] = value
				continue
			}
			for k, v := range toV2(list[0].(object)) {
				out[k] = v
			}
		default:
			out[key] = value
		}
	}
	return out
}
