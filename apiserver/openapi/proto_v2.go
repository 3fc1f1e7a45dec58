package openapi

import "google.golang.org/protobuf/encoding/protowire"

// schemaFieldsV2 are the numbers of github.com/google/gnostic-models/openapiv2 Schema.
func schemaV2() *message {
	m := &message{}
	self := func(n protowire.Number) field { return func(b []byte, v any) []byte { return sub(n, m)(b, v) } }
	m.extension = entry(31, free)
	m.fields = map[string]field{
		"$ref": text(1), "format": text(2), "title": text(3), "description": text(4), "default": free(5),
		"multipleOf": double(6), "maximum": double(7), "exclusiveMaximum": flag(8), "minimum": double(9), "exclusiveMinimum": flag(10),
		"maxLength": integer(11), "minLength": integer(12), "pattern": text(13), "maxItems": integer(14), "minItems": integer(15),
		"uniqueItems": flag(16), "maxProperties": integer(17), "minProperties": integer(18), "required": each(text(19)), "enum": each(free(20)),
		"additionalProperties": in(21, either(self(1), flag(2))), "type": in(22, each(text(1))), "items": in(23, each(self(1))),
		"allOf": each(self(24)), "properties": in(25, entries(1, self)), "readOnly": flag(27), "example": free(30),
	}
	return m
}

func documentV2(schema *message) *message {
	response := &message{fields: map[string]field{"description": text(1), "schema": in(2, sub(1, schema))}}
	body := &message{fields: map[string]field{"description": text(1), "name": text(2), "in": text(3), "required": flag(4), "schema": sub(5, schema)}}
	query := &message{fields: map[string]field{"required": flag(1), "in": text(2), "description": text(3), "name": text(4), "type": text(6), "uniqueItems": flag(20)}}
	path := &message{fields: map[string]field{"required": flag(1), "in": text(2), "description": text(3), "name": text(4), "type": text(5), "uniqueItems": flag(19)}}
	parameter := func(n protowire.Number) field {
		kinds := map[any]field{
			"body":  in(n, in(1, sub(1, body))),
			"query": in(n, in(1, in(2, sub(3, query)))),
			"path":  in(n, in(1, in(2, sub(4, path)))),
		}
		return func(b []byte, v any) []byte { return kinds[v.(object)["in"]](b, v) }
	}
	operation := &message{
		fields: map[string]field{
			"tags": each(text(1)), "description": text(3), "operationId": text(5), "produces": each(text(6)), "consumes": each(text(7)),
			"parameters": each(parameter(8)), "schemes": each(text(10)),
			"responses": in(9, entries(1, func(n protowire.Number) field { return in(n, sub(1, response)) })),
		},
		extension: entry(13, free),
	}
	item := &message{fields: map[string]field{
		"get": sub(2, operation), "put": sub(3, operation), "post": sub(4, operation), "delete": sub(5, operation),
		"options": sub(6, operation), "head": sub(7, operation), "patch": sub(8, operation), "parameters": each(parameter(9)),
	}}
	info := &message{fields: map[string]field{"title": text(1), "version": text(2)}}
	key := &message{fields: map[string]field{"type": text(1), "name": text(2), "in": text(3), "description": text(4)}}
	strings := func(n protowire.Number) field { return in(n, each(text(1))) }
	return &message{fields: map[string]field{
		"swagger": text(1), "info": sub(2, info),
		"paths":               in(8, entries(2, func(n protowire.Number) field { return sub(n, item) })),
		"security":            each(in(12, entries(1, strings))),
		"securityDefinitions": in(13, entries(1, func(n protowire.Number) field { return in(n, sub(2, key)) })),
	}}
}

// encodeProtoV2 writes openapi.v2.Document.
func encodeProtoV2(top object, schemas iterSchemas) ([]byte, error) {
	schema := schemaV2()
	return encodeWith(documentV2(schema), top, schemas,
		func(all []byte) []byte { return lengthDelimited(9, all) },
		entry(1, func(n protowire.Number) field { return sub(n, schema) }))
}
