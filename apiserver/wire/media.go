// Package wire is the form of the API's requests and answers: media types, JSON, YAML and protobuf, lists, tables, the frames
// of watches, and patches. It knows no store but the items whose encodings it caches, and nothing of HTTP but media types. Only
// apiserver imports it.
package wire

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Format is a wire format.
type Format uint8

// The formats of the API.
const (
	JSON Format = iota
	Protobuf
	YAML
)

// The media types of answers, as header values that are never changed.
var (
	TypeJSON          = []string{"application/json"}
	TypeProtobuf      = []string{"application/vnd.kubernetes.protobuf"}
	TypeProtobufWatch = []string{"application/vnd.kubernetes.protobuf;stream=watch"}
	TypeYAML          = []string{"application/yaml"}
	TypeText          = []string{"text/plain; charset=utf-8"}
)

// ContentType is the format's media type as a header value, which is never changed.
func (f Format) ContentType() []string {
	switch f {
	case Protobuf:
		return TypeProtobuf
	case YAML:
		return TypeYAML
	}
	return TypeJSON
}

// Shape is what an answer shows of its objects.
type Shape uint8

// The shapes of an answer.
const (
	Objects Shape = iota
	Tables
	Partial // PartialObjectMetadata, or its list
)

// Media is what an answer looks like.
type Media struct {
	Format Format
	Shape  Shape
	// MetaVersion is the version of meta.k8s.io that a Table or a partial object is told in.
	MetaVersion string
	Pretty      bool
}

const (
	acceptedTypes = "application/json, application/yaml, application/vnd.kubernetes.protobuf"
	streamedTypes = ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
)

// Accept reads from an Accept header what the client wants to get
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#alternate-representations-of-resources). transform allows
// tables and partial objects; verb is the API's.
func Accept(header, verb string, transform bool) (Media, error) {
	var m Media
	switch header {
	case "", "*/*", "application/json", "application/json, */*", "application/json,*/*":
		return m, nil
	case "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json":
		m.Format = Protobuf
		return m, nil
	}
	known := false
	for _, c := range Clauses(header) {
		f, ok := c.Format()
		if !ok {
			continue
		}
		known = true
		if f == YAML && verb == "watch" {
			continue
		}
		m.Format = f
		if m.as(c.Params, transform) {
			return m, nil
		}
	}
	if known {
		return Media{}, &NotAcceptable
	}
	available := acceptedTypes
	if verb == "list" || verb == "watch" {
		available += streamedTypes
	}
	return Media{}, &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: "406: Not Acceptable\n\nAvailable representations: " + available, Details: &metav1.StatusDetails{},
	}}
}

// as reads the parameters that ask for another shape. It returns false for one that is not to be had.
func (m *Media) as(params map[string]string, transform bool) bool {
	m.Shape, m.MetaVersion = Objects, ""
	kind := params["as"]
	if kind == "" {
		return true
	}
	v := params["v"]
	if !transform || params["g"] != metav1.GroupName || (v != "v1" && v != "v1beta1") {
		return false
	}
	switch kind {
	case "Table":
		m.Shape = Tables
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		m.Shape = Partial
	default:
		return false
	}
	m.MetaVersion = v
	return true
}

// Clause is one alternative of an Accept header.
type Clause struct {
	Media  string
	Params map[string]string
	q      float64
}

// Format is the format that the clause names, if it is one of the API's.
func (c *Clause) Format() (Format, bool) {
	switch c.Media {
	case "application/json", "*/*", "application/*":
		return JSON, true
	case "application/yaml":
		return YAML, true
	case "application/vnd.kubernetes.protobuf":
		return Protobuf, true
	}
	return 0, false
}

// Clauses are the alternatives of an Accept header, the best liked first.
func Clauses(header string) []Clause {
	var out []Clause
	for part := range strings.SplitSeq(header, ",") {
		t, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		c := Clause{Media: t, Params: params, q: 1}
		if q, err := strconv.ParseFloat(params["q"], 64); err == nil {
			c.q = q
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b Clause) int {
		switch {
		case a.q > b.q:
			return -1
		case a.q < b.q:
			return 1
		}
		return 0
	})
	return out
}

// BodyFormat is the format of a body by its Content-Type. None means JSON.
func BodyFormat(header string) (Format, error) {
	switch header {
	case "", "application/json":
		return JSON, nil
	case "application/vnd.kubernetes.protobuf":
		return Protobuf, nil
	}
	t, _, err := mime.ParseMediaType(header)
	if err == nil {
		switch t {
		case "application/json":
			return JSON, nil
		case "application/yaml":
			return YAML, nil
		case "application/vnd.kubernetes.protobuf":
			return Protobuf, nil
		}
	}
	return 0, &UnsupportedBody
}

// NotAcceptable is the answer to a shape of objects that is not to be had.
var NotAcceptable = apierrors.StatusError{ErrStatus: metav1.Status{
	Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
	Message: "only the following media types are accepted: " + acceptedTypes,
}}

// UnsupportedBody is the answer to a body of unknown format.
var UnsupportedBody = apierrors.StatusError{ErrStatus: metav1.Status{
	Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
	Message: "the body of the request was in an unknown format - accepted media types include: " + acceptedTypes,
}}
