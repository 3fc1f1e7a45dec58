package apiserver

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// format is a wire format.
type format uint8

const (
	formatJSON format = iota
	formatProtobuf
	formatYAML
)

// The media types of the formats, as header values that are never changed.
var (
	typeJSON          = []string{"application/json"}
	typeProtobuf      = []string{"application/vnd.kubernetes.protobuf"}
	typeProtobufWatch = []string{"application/vnd.kubernetes.protobuf;stream=watch"}
	typeYAML          = []string{"application/yaml"}
	typeText          = []string{"text/plain; charset=utf-8"}
)

func (f format) contentType() []string {
	switch f {
	case formatProtobuf:
		return typeProtobuf
	case formatYAML:
		return typeYAML
	}
	return typeJSON
}

// shape is what an answer shows of its objects.
type shape uint8

const (
	shapeObject shape = iota
	shapeTable
	shapePartial // PartialObjectMetadata, or its list
)

// media is what an answer looks like.
type media struct {
	format format
	shape  shape
	// metaVersion is the version of meta.k8s.io that a Table or a partial object is told in.
	metaVersion string
	pretty      bool
}

const (
	acceptedTypes = "application/json, application/yaml, application/vnd.kubernetes.protobuf"
	streamedTypes = ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
)

// accept reads what the client wants to get (https://kubernetes.io/docs/reference/using-api/api-concepts/#alternate-representations-of-resources).
// transform allows Tables and partial objects.
func (rq *request) accept(transform bool) (media, error) {
	m := media{pretty: rq.pretty()}
	header := rq.r.Header.Get("Accept")
	switch header {
	case "", "*/*", "application/json", "application/json, */*", "application/json,*/*":
		return m, nil
	case "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json":
		m.format = formatProtobuf
		return m, nil
	}
	known := false
	for _, c := range clauses(header) {
		f, ok := c.format()
		if !ok {
			continue
		}
		known = true
		if f == formatYAML && rq.verb == "watch" {
			continue
		}
		m.format = f
		if m.as(c.params, transform) {
			return m, nil
		}
	}
	if known {
		return media{}, &notAcceptable
	}
	available := acceptedTypes
	if rq.verb == "list" || rq.verb == "watch" {
		available += streamedTypes
	}
	return media{}, generic(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
		"406: Not Acceptable\n\nAvailable representations: "+available)
}

// as reads the parameters that ask for another shape. It returns false for one that is not to be had.
func (m *media) as(params map[string]string, transform bool) bool {
	m.shape, m.metaVersion = shapeObject, ""
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
		m.shape = shapeTable
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		m.shape = shapePartial
	default:
		return false
	}
	m.metaVersion = v
	return true
}

// clause is one alternative of an Accept header.
type clause struct {
	media  string
	params map[string]string
	q      float64
}

func (c *clause) format() (format, bool) {
	switch c.media {
	case "application/json", "*/*", "application/*":
		return formatJSON, true
	case "application/yaml":
		return formatYAML, true
	case "application/vnd.kubernetes.protobuf":
		return formatProtobuf, true
	}
	return 0, false
}

// clauses are the alternatives of an Accept header, the best liked first.
func clauses(header string) []clause {
	var out []clause
	for part := range strings.SplitSeq(header, ",") {
		t, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		c := clause{media: t, params: params, q: 1}
		if q, err := strconv.ParseFloat(params["q"], 64); err == nil {
			c.q = q
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b clause) int {
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

// pretty says whether JSON is to be indented: asked for, or read by a person through curl, wget or a browser.
func (rq *request) pretty() bool {
	if p := rq.values().Get("pretty"); p != "" {
		on, err := strconv.ParseBool(p)
		return err == nil && on
	}
	agent := rq.r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// contentFormat is the format of the request's body. No Content-Type means JSON.
func (rq *request) contentFormat() (format, error) {
	header := rq.r.Header.Get("Content-Type")
	switch header {
	case "", "application/json":
		return formatJSON, nil
	case "application/vnd.kubernetes.protobuf":
		return formatProtobuf, nil
	}
	t, _, err := mime.ParseMediaType(header)
	if err == nil {
		switch t {
		case "application/json":
			return formatJSON, nil
		case "application/yaml":
			return formatYAML, nil
		case "application/vnd.kubernetes.protobuf":
			return formatProtobuf, nil
		}
	}
	return 0, &unsupportedBody
}
