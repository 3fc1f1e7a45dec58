package openapi

import (
	"cmp"
	"fmt"
	"slices"
)

// v3 words operations as OpenAPI v3 does.
type v3 struct{}

func (v3) ref(model string) object { return object{"$ref": "#/components/schemas/" + model} }

func (v3) param(p param) object {
	out := object{"name": p.name, "in": p.in, "description": p.description, "schema": object{"type": p.typ, "uniqueItems": true}}
	if p.required {
		out["required"] = true
	}
	return out
}

func (s v3) operation(o *operation) object {
	out := object{"operationId": o.id, "description": o.description, "tags": []any{o.tag}}
	annotate(out, o)
	if len(o.params) > 0 {
		out["parameters"] = params(s, o.params)
	}
	if o.body != "" {
		content := object{}
		for _, t := range o.bodyTypes {
			content[t] = object{"schema": s.ref(o.body)}
		}
		body := object{"content": content}
		if o.bodyRequired {
			body["required"] = true
		}
		out["requestBody"] = body
	}
	responses := object{}
	for _, code := range o.codes {
		response := object{"description": codeText(code)}
		if code < 300 && o.model != "" {
			content := object{}
			for _, t := range o.produces {
				schema := object{"type": "string"}
				if o.model != plainText {
					schema = s.ref(o.model)
				}
				content[t] = object{"schema": schema}
			}
			response["content"] = content
		}
		responses[fmt.Sprint(code)] = response
	}
	out["responses"] = responses
	return out
}

// v2 words operations as OpenAPI v2 does.
type v2 struct{}

func (v2) ref(model string) object { return object{"$ref": "#/definitions/" + model} }

func (v2) param(p param) object {
	out := object{"name": p.name, "in": p.in, "description": p.description, "type": p.typ, "uniqueItems": true}
	if p.required {
		out["required"] = true
	}
	return out
}

func (s v2) operation(o *operation) object {
	out := object{
		"operationId": o.id, "description": o.description, "tags": []any{o.tag},
		"schemes": []any{"https"}, "produces": list(o.produces), "consumes": []any{anyType},
	}
	annotate(out, o)
	parameters := params(s, o.params)
	if o.body != "" {
		body := object{"name": "body", "in": "body", "schema": s.ref(o.body)}
		if o.bodyRequired {
			body["required"] = true
		}
		parameters = append([]any{body}, parameters...)
		out["consumes"] = list(o.bodyTypes)
	}
	if len(parameters) > 0 {
		out["parameters"] = parameters
	}
	responses := object{}
	for _, code := range o.codes {
		response := object{"description": codeText(code)}
		if code < 300 && o.model != "" {
			if o.model == plainText {
				response["schema"] = object{"type": "string"}
			} else {
				response["schema"] = s.ref(o.model)
			}
		}
		responses[fmt.Sprint(code)] = response
	}
	out["responses"] = responses
	return out
}

func annotate(out object, o *operation) {
	if o.action != "" {
		out["x-kubernetes-action"] = o.action
	}
	if o.gvk != nil {
		out["x-kubernetes-group-version-kind"] = gvkObject(*o.gvk)
	}
}

func params(s style, from []param) []any {
	sorted := slices.SortedFunc(slices.Values(from), func(x, y param) int { return cmp.Compare(x.name, y.name) })
	out := make([]any, 0, len(sorted))
	for i, p := range sorted {
		if i == 0 || p.name != sorted[i-1].name {
			out = append(out, s.param(p))
		}
	}
	return out
}

func list(from []string) []any {
	out := make([]any, len(from))
	for i, s := range from {
		out[i] = s
	}
	return out
}
