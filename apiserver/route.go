package apiserver

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/apiserver/discovery"
	"github.com/kebernetes/kebernetes/auth"
)

// route is what a request's path and method ask for, read as
// https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-uris says.
type route struct {
	path string
	// resourceRequest: the path names a resource of the API, and the fields below are set.
	resourceRequest bool
	group, version  string
	namespace       string
	resource        string
	name            string
	subresource     string
	rest            string // what follows the subresource: the path behind a proxy
	// verb is the API's verb, or the lower-case method of other paths.
	verb string
	// selected is the field selector of a list, watch or deletecollection, which authorisation may look at; nil for none.
	selected fields.Selector
	// legacyWatch marks the old form of a watch, with "watch" in the path.
	legacyWatch bool
}

// noResource is the resource of errors that concern none.
var noResource schema.GroupResource

func parseRoute(r *http.Request) route {
	rt := route{path: r.URL.Path, verb: strings.ToLower(r.Method)}
	prefix, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch prefix {
	case "api":
	case "apis":
		rt.group, rest, _ = strings.Cut(rest, "/")
		if rt.group == "" {
			return rt
		}
	default:
		return rt
	}
	rt.version, rest, _ = strings.Cut(rest, "/")
	if rest == "" {
		return rt
	}
	rt.resourceRequest = true
	if after, ok := strings.CutPrefix(rest, "watch/"); ok {
		rt.legacyWatch, rest = true, after
	}
	rt.parseResource(rest)
	rt.verb = rt.apiVerb(r)
	return rt
}

// parseResource reads what stands behind the version. A Namespace itself is seen as lying in itself.
func (rt *route) parseResource(rest string) {
	if after, ok := strings.CutPrefix(rest, "namespaces/"); ok {
		ns, below, _ := strings.Cut(after, "/")
		first, _, _ := strings.Cut(below, "/")
		rt.namespace = ns
		if first != "" && first != "status" && first != "finalize" {
			rest = below
		}
	}
	rt.resource, rest, _ = strings.Cut(rest, "/")
	rt.name, rest, _ = strings.Cut(rest, "/")
	rt.subresource, rt.rest, _ = strings.Cut(rest, "/")
}

func (rt *route) apiVerb(r *http.Request) string {
	switch r.Method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		if rt.name != "" {
			return "delete"
		}
		if r.URL.RawQuery != "" {
			rt.selectFields(r.URL.Query())
		}
		return "deletecollection"
	case http.MethodGet, http.MethodHead:
		return rt.readVerb(r.URL)
	}
	return ""
}

// readVerb tells get, list and watch apart. A list that selects one name is authorised for that name.
func (rt *route) readVerb(u *url.URL) string {
	if rt.legacyWatch {
		return "watch"
	}
	if rt.name != "" {
		return "get"
	}
	if u.RawQuery == "" {
		return "list"
	}
	q := u.Query()
	rt.selectFields(q)
	if rt.selected != nil {
		rt.name, _ = rt.selected.RequiresExactMatch("metadata.name")
	}
	if !q.Has("watch") {
		return "list"
	}
	if on, err := strconv.ParseBool(q.Get("watch")); q.Get("watch") != "" && (err != nil || !on) {
		return "list"
	}
	return "watch"
}

func (rt *route) selectFields(q url.Values) {
	if sel := q.Get("fieldSelector"); sel != "" {
		if s, err := fields.ParseSelector(sel); err == nil {
			rt.selected = s
		}
	}
}

// attributes are the request as authorisation sees it.
func (rq *request) attributes(u *auth.User) auth.Attributes {
	return auth.Attributes{
		User: u, Verb: rq.verb, IsResource: rq.resourceRequest, Group: rq.group, Version: rq.version,
		Resource: rq.resource, Subresource: rq.subresource, Namespace: rq.namespace, Name: rq.name, Path: rq.path,
		FieldSelector: rq.selected,
	}
}

// Attributes are what a request wants to do, as authorisation sees it, but for the user. Authenticators use it for rules that
// allow impersonation for some requests only.
func Attributes(r *http.Request) auth.Attributes {
	rq := &request{r: r, route: parseRoute(r)}
	return rq.attributes(nil)
}

// find looks up the rows that the path names.
func (rq *request) find() {
	rq.kind = rq.s.Table.Resource(schema.GroupResource{Group: rq.group, Resource: rq.resource})
	if rq.kind == nil {
		return
	}
	rq.served = rq.kind.Version(rq.version)
	if rq.subresource != "" {
		rq.sub = rq.kind.Subresource(rq.subresource)
	}
}

// serve finds the verb for an authorised request.
func (s *Server) serve(rq *request) {
	if !rq.resourceRequest {
		s.servePath(rq)
		return
	}
	switch {
	case rq.served == nil && !s.servesGroup(rq.group):
		rq.pathNotFound()
		return
	case rq.served == nil, !rq.shapeFits():
		rq.fail(pathUnknown())
		return
	}
	if rq.served.Warning != "" {
		rq.warn(rq.served.Warning)
	}
	if err := rq.dispatch(); err != nil {
		rq.fail(err)
	}
}

// shapeFits says whether the kind can lie at such a path.
func (rq *request) shapeFits() bool {
	inside := rq.namespace != "" && rq.resource != "namespaces"
	switch {
	case !rq.kind.Namespaced:
		return !inside
	case inside:
		return true
	}
	// All namespaces at once: no object can be named.
	return rq.name == "" || rq.verb == "list" || rq.verb == "watch"
}

func (s *Server) servesGroup(group string) bool {
	if group == "" {
		return true
	}
	for _, k := range s.Table.All() {
		if k.Group == group {
			return true
		}
	}
	return false
}

// dispatch calls the verb.
func (rq *request) dispatch() error {
	if rq.subresource != "" {
		return rq.dispatchSubresource()
	}
	if !allows(discovery.Verbs(rq.kind), rq.verb) || (rq.kind.Namespaced && rq.namespace == "" && rq.verb != "list" && rq.verb != "watch") {
		return methodNotAllowed()
	}
	if rq.legacyWatch {
		return rq.watch()
	}
	if from := rq.s.Computed[rq.kind.GroupResource()]; from != nil {
		return rq.readComputed(from)
	}
	if rq.kind.Virtual {
		return rq.createVirtual()
	}
	switch rq.verb {
	case "get":
		return rq.get()
	case "list":
		return rq.list()
	case "watch":
		return rq.watch()
	case "create":
		if rq.name != "" {
			return methodNotAllowed()
		}
		return rq.create()
	case "update", "patch":
		if rq.name == "" {
			return methodNotAllowed()
		}
		if rq.verb == "update" {
			return rq.update()
		}
		return rq.patch()
	case "delete":
		return rq.delete()
	case "deletecollection":
		return rq.deleteCollection()
	}
	return methodNotAllowed()
}

// dispatchSubresource calls what serves the subresource: the strategies of the table for parts of the object, the files
// named after them for those with behaviour of their own.
func (rq *request) dispatchSubresource() error {
	if rq.sub == nil || rq.name == "" {
		return pathUnknown()
	}
	if !allows(rq.sub.Verbs, rq.verb) {
		return methodNotAllowed()
	}
	switch {
	case rq.subresource == "scale" && rq.kind.Scale != nil:
		return rq.scale()
	case rq.sub.PrepareUpdate != nil:
		return rq.part()
	}
	switch rq.subresource {
	case "binding":
		return rq.bind()
	case "eviction":
		return rq.evict()
	case "token":
		return rq.token()
	}
	return rq.connect()
}

// part serves a subresource that is a part of the object: status, approval, finalize, resize.
func (rq *request) part() error {
	switch rq.verb {
	case "get":
		return rq.get()
	case "update":
		return rq.update()
	case "patch":
		return rq.patch()
	}
	return methodNotAllowed()
}

func allows(verbs []string, verb string) bool {
	for _, v := range verbs {
		if v == verb {
			return true
		}
	}
	return false
}
