package openapi

import "google.golang.org/protobuf/encoding/protowire"

// schemaV3 has the numbers of github.com/google/gnostic-models/openapiv3 Schema.
func schemaV3() *message {
	m := &message{}
	// self is SchemaOrReference.
	self := func(n protowire.Number) field {
		return func(b []byte, v any) []byte { return in(n, orReference(m))(b, v) }
	}
	m.extension = entry(36, free)
	m.fields = map[string]field{
		"nullable": flag(1), "readOnly": flag(3), "writeOnly": flag(4), "example": free(7), "deprecated": flag(8), "title": text(9),
		"multipleOf": double(10), "maximum": double(11), "exclusiveMaximum": flag(12), "minimum": double(13), "exclusiveMinimum": flag(14),
		"maxLength": integer(15), "minLength": integer(16), "pattern": text(17), "maxItems": integer(18), "minItems": integer(19),
		"uniqueItems": flag(20), "maxProperties": integer(21), "minProperties": integer(22), "required": each(text(23)), "enum": each(free(24)),
		"type": text(25), "allOf": each(self(26)), "oneOf": each(self(27)), "anyOf": each(self(28)), "items": in(30, each(self(1))),
		"properties": in(31, entries(1, self)), "additionalProperties": in(32, either(self(1), flag(2))),
		"default": defaultV3, "description": text(34), "format": text(35),
	}
	return m
}

// defaultV3 writes what the form can hold: numbers, flags and texts. Of objects and lists only that there is a default.
func defaultV3(b []byte, v any) []byte {
	switch v.(type) {
	case float64:
		return in(33, double(1))(b, v)
	case bool:
		return in(33, flag(2))(b, v)
	case string:
		return in(33, text(3))(b, v)
	}
	return append(b, lengthDelimited(33, nil)...)
}

func documentV3(schema *message) *message {
	media := &message{fields: map[string]field{"schema": in(1, orReference(schema))}}
	content := func(n protowire.Number) field {
		return in(n, entries(1, func(n protowire.Number) field { return sub(n, media) }))
	}
	response := &message{fields: map[string]field{"description": text(1), "content": content(3)}}
	body := &message{fields: map[string]field{"description": text(1), "content": content(2), "required": flag(3)}}
	param := &message{fields: map[string]field{
		"name": text(1), "in": text(2), "description": text(3), "required": flag(4), "schema": in(10, orReference(schema)),
	}}
	operation := &message{
		fields: map[string]field{
			"tags": each(text(1)), "description": text(3), "operationId": text(5), "parameters": each(in(6, orReference(param))),
			"requestBody": in(7, orReference(body)),
			"responses":   in(8, entries(2, func(n protowire.Number) field { return in(n, orReference(response)) })),
		},
		extension: entry(13, free),
	}
	item := &message{fields: map[string]field{
		"get": sub(4, operation), "put": sub(5, operation), "post": sub(6, operation), "delete": sub(7, operation),
		"options": sub(8, operation), "head": sub(9, operation), "patch": sub(10, operation), "parameters": each(in(13, orReference(param))),
	}}
	info := &message{fields: map[string]field{"title": text(1), "version": text(6)}}
	return &message{fields: map[string]field{
		"openapi": text(1), "info": sub(2, info), "paths": in(4, entries(1, func(n protowire.Number) field { return sub(n, item) })),
	}}
}

// encodeProtoV3 writes openapi.v3.Document.
func encodeProtoV3(top object, schemas iterSchemas) ([]byte, error) {
	schema := schemaV3()
	scheme := &message{fields: map[string]field{"type": text(1), "description": text(2), "name": text(3), "in": text(4)}}
	security := in(7, entries(1, func(n protowire.Number) field { return in(n, orReference(scheme)) }))
	components, _ := top["components"].(object)
	tail := security(nil, components["securitySchemes"])
	return encodeWith(documentV3(schema), top, schemas,
		func(all []byte) []byte { return lengthDelimited(5, append(lengthDelimited(1, all), tail...)) },
		entry(1, func(n protowire.Number) field { return in(n, orReference(schema)) }))
}
