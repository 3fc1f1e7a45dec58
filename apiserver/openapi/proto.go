package openapi

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// The protobuf form of OpenAPI documents is that of github.com/google/gnostic-models. Its own way from JSON to protobuf
// takes a second and hundreds of megabytes for a whole document, so the messages are written here, schema by schema.

// field appends a value as one field of a message.
type field func(b []byte, v any) []byte

// message describes how a JSON object becomes a message.
type message struct {
	fields map[string]field
	// extension is the field of "x-…" keys, rest that of all others.
	extension, rest field
}

// encode appends the content of the message.
func (m *message) encode(b []byte, v any) []byte {
	obj, _ := v.(object)
	for _, key := range slices.Sorted(maps.Keys(obj)) {
		value := obj[key]
		switch f := m.fields[key]; {
		case f != nil:
			b = f(b, value)
		case strings.HasPrefix(key, "x-") && m.extension != nil:
			b = m.extension(b, pair{key, value})
		case m.rest != nil:
			b = m.rest(b, pair{key, value})
		}
	}
	return b
}

// pair is an entry of a map.
type pair struct {
	key   string
	value any
}

func text(n protowire.Number) field {
	return func(b []byte, v any) []byte {
		s, _ := v.(string)
		return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
	}
}

func flag(n protowire.Number) field {
	return func(b []byte, v any) []byte {
		yes, _ := v.(bool)
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), protowire.EncodeBool(yes))
	}
}

func integer(n protowire.Number) field {
	return func(b []byte, v any) []byte {
		f, _ := v.(float64)
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), uint64(int64(f)))
	}
}

func double(n protowire.Number) field {
	return func(b []byte, v any) []byte {
		f, _ := v.(float64)
		return protowire.AppendFixed64(protowire.AppendTag(b, n, protowire.Fixed64Type), math.Float64bits(f))
	}
}

// sub is a message in a field; in is one that holds nothing but another field.
func sub(n protowire.Number, m *message) field { return in(n, m.encode) }

func in(n protowire.Number, f field) field {
	return func(b []byte, v any) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), f(nil, v))
	}
}

// each repeats a field for every element of a list; a single value counts as a list of one.
func each(f field) field {
	return func(b []byte, v any) []byte {
		list, ok := v.([]any)
		if !ok {
			list = []any{v}
		}
		for _, e := range list {
			b = f(b, e)
		}
		return b
	}
}

// entry is a message of a name (1) and a value (2).
func entry(n protowire.Number, value func(protowire.Number) field) field {
	name, content := text(1), value(2)
	return in(n, func(b []byte, v any) []byte {
		p := v.(pair)
		return content(name(b, p.key), p.value)
	})
}

// entries repeats an entry for every key of an object.
func entries(n protowire.Number, value func(protowire.Number) field) field {
	one := entry(n, value)
	return func(b []byte, v any) []byte {
		obj, _ := v.(object)
		for _, key := range slices.Sorted(maps.Keys(obj)) {
			b = one(b, pair{key, obj[key]})
		}
		return b
	}
}

// free is a value of any form: it travels as YAML, which JSON is.
func free(n protowire.Number) field {
	return in(n, func(b []byte, v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			return b // what came from JSON goes back to it
		}
		return protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), string(data))
	})
}

// either takes the first field for objects and the second for all else.
func either(schema, other field) field {
	return func(b []byte, v any) []byte {
		if _, ok := v.(object); ok {
			return schema(b, v)
		}
		return other(b, v)
	}
}

// orReference takes a field with "$ref" in it for a reference (2), else for the message itself (1).
func orReference(m *message) field {
	reference := &message{fields: map[string]field{"$ref": text(1), "description": text(3)}}
	itself, ref := sub(1, m), sub(2, reference)
	return func(b []byte, v any) []byte {
		if obj, ok := v.(object); ok && obj["$ref"] != nil {
			return ref(b, v)
		}
		return itself(b, v)
	}
}

// encodeWith appends the document's fields, and the schemas by their own.
func encodeWith(doc *message, top object, schemas iterSchemas, wrap func([]byte) []byte, schema field) ([]byte, error) {
	var all []byte
	err := schemas(func(name string, text []byte) error {
		var tree object
		if err := json.Unmarshal(text, &tree); err != nil {
			return err
		}
		all = schema(all, pair{name, tree})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return append(doc.encode(nil, top), wrap(all)...), nil
}

func lengthDelimited(n protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), content)
}
