package openapi

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/kinds"
)

// resource makes the paths of one kind in one version.
type resource struct {
	b       *pathBuilder
	kind    *kinds.Kind
	version string
	prefix  string // "/apis/apps/v1/"
	tag     string // "apps_v1"
	stem    string // "AppsV1"
	model   string
}

// standardVerbs are those of a kind that names none.
var standardVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// returnsObject are the resources whose deletion answers with the object rather than a Status.
var returnsObject = []string{
	"pods", "podtemplates", "services", "serviceaccounts", "resourcequotas", "persistentvolumeclaims", "persistentvolumes",
	"csidrivers.storage.k8s.io", "csinodes.storage.k8s.io", "storageclasses.storage.k8s.io", "volumeattachments.storage.k8s.io",
	"volumeattributesclasses.storage.k8s.io", "deviceclasses.resource.k8s.io", "resourceclaims.resource.k8s.io",
	"resourceclaimtemplates.resource.k8s.io", "resourceslices.resource.k8s.io",
}

func (r *resource) has(verb string) bool {
	verbs := r.kind.Verbs
	if verbs == nil {
		verbs = standardVerbs
	}
	return slices.Contains(verbs, verb)
}

func (r *resource) scope() string {
	if r.kind.Namespaced {
		return "Namespaced"
	}
	return ""
}

func (r *resource) gvk() *schema.GroupVersionKind {
	return &schema.GroupVersionKind{Group: r.kind.Group, Version: r.version, Kind: r.kind.Kind}
}

// op starts an operation: verb makes the identifier ("create", "Collection" and so on go around the kind's name).
func (r *resource) op(method, verb, middle, suffix, description, action string) *operation {
	return &operation{
		method: method, id: verb + r.stem + middle + r.scope() + r.kind.Kind + suffix,
		description: description, tag: r.tag, action: action, gvk: r.gvk(), produces: []string{jsonType, yamlType, protobufType},
	}
}

func (r *resource) addAll() {
	collection, where := r.prefix+r.kind.Resource, []param{prettyParam()}
	if r.kind.Namespaced {
		collection = r.prefix + "namespaces/{namespace}/" + r.kind.Resource
		where = append(where, namespaceParam())
	}
	item, there := collection+"/{name}", append(slices.Clone(where), nameParam(r.kind.Kind))
	r.b.add(collection, where, r.collectionOps()...)
	r.b.add(item, there, r.itemOps()...)
	for i := range r.kind.Subresources {
		r.addSubresource(item, there, &r.kind.Subresources[i])
	}
	if r.kind.Namespaced && r.has("list") {
		o := r.list()
		o.id = "list" + r.stem + r.kind.Kind + "ForAllNamespaces"
		r.b.add(r.prefix+r.kind.Resource, []param{prettyParam()}, o)
	}
	if r.has("watch") {
		r.addWatches(where, there)
	}
}

func (r *resource) collectionOps() []*operation {
	var ops []*operation
	if r.has("list") {
		ops = append(ops, r.list())
	}
	if r.has("create") {
		o := r.op("post", "create", "", "", "create "+article(r.kind.Kind)+" "+r.kind.Kind, "post")
		o.codes, o.model = []int{200, 201, 202, 401}, r.model
		o.body, o.bodyTypes, o.bodyRequired = r.model, []string{anyType}, true
		o.params = r.b.query(metaV1 + "CreateOptions")
		ops = append(ops, o)
	}
	if r.has("deletecollection") {
		o := r.op("delete", "delete", "Collection", "", "delete collection of "+r.kind.Kind, "deletecollection")
		o.codes, o.model = []int{200, 401}, modelStatus
		o.body, o.bodyTypes = modelDelete, []string{anyType}
		o.params = append(r.b.query(metaV1+"ListOptions", "allowWatchBookmarks", "watch"), r.b.query(modelDelete)...)
		ops = append(ops, o)
	}
	return ops
}

func (r *resource) list() *operation {
	o := r.op("get", "list", "", "", "list or watch objects of kind "+r.kind.Kind, "list")
	o.codes, o.produces = []int{200, 401}, []string{jsonType, yamlType, protobufType, watchJSON, watchProtobuf}
	o.model = r.model
	if v := r.kind.Version(r.version); v.NewList != nil {
		o.model = modelOf(v.NewList())
	}
	o.params = r.b.query(metaV1 + "ListOptions")
	return o
}

func (r *resource) itemOps() []*operation {
	var ops []*operation
	if r.has("get") {
		ops = append(ops, r.read("", r.model, r.gvk()))
	}
	if r.has("update") {
		ops = append(ops, r.replace("", r.model, r.gvk()))
	}
	if r.has("patch") {
		ops = append(ops, r.patch("", r.model, r.gvk()))
	}
	if r.has("delete") {
		o := r.op("delete", "delete", "", "", "delete "+article(r.kind.Kind)+" "+r.kind.Kind, "delete")
		o.codes, o.model = []int{200, 202, 401}, modelStatus
		if slices.Contains(returnsObject, r.kind.GroupResource().String()) {
			o.model = r.model
		}
		o.body, o.bodyTypes, o.params = modelDelete, []string{anyType}, r.b.query(modelDelete)
		ops = append(ops, o)
	}
	return ops
}

// of words "the specified Deployment", or "status of the specified Deployment".
func (r *resource) of(sub string) string {
	if sub == "" {
		return "the specified " + r.kind.Kind
	}
	return sub + " of the specified " + r.kind.Kind
}

func (r *resource) read(sub, model string, gvk *schema.GroupVersionKind) *operation {
	o := r.op("get", "read", "", upperFirst(sub), "read "+r.of(sub), "get")
	o.codes, o.model, o.gvk = []int{200, 401}, model, gvk
	return o
}

func (r *resource) replace(sub, model string, gvk *schema.GroupVersionKind) *operation {
	o := r.op("put", "replace", "", upperFirst(sub), "replace "+r.of(sub), "put")
	o.codes, o.model, o.gvk = []int{200, 201, 401}, model, gvk
	o.body, o.bodyTypes, o.bodyRequired = model, []string{anyType}, true
	o.params = r.b.query(metaV1 + "UpdateOptions")
	return o
}

func (r *resource) patch(sub, model string, gvk *schema.GroupVersionKind) *operation {
	o := r.op("patch", "patch", "", upperFirst(sub), "partially update "+r.of(sub), "patch")
	o.codes, o.model, o.gvk = []int{200, 201, 401}, model, gvk
	o.body, o.bodyTypes, o.bodyRequired = modelPatch, []string{jsonPatch, mergePatch, strategic, applyPatch}, true
	o.params = r.b.query(metaV1 + "PatchOptions")
	return o
}

func (r *resource) addSubresource(item string, where []param, s *kinds.Subresource) {
	gvk, model := r.gvk(), r.model
	if !s.Body.Empty() {
		gvk = &s.Body
		model = ""
		if s.NewBody != nil {
			model = modelOf(s.NewBody())
		} else if obj, err := r.b.table.Scheme().New(s.Body); err == nil {
			model = modelOf(obj)
		} else if name := "io.k8s.api.core.v1." + s.Body.Kind; s.Body.Group == "" && r.b.schemas[name].v3 != nil {
			model = name
		} else if s.Body.Kind == "Scale" {
			model = "io.k8s.api.autoscaling.v1.Scale"
		}
	}
	switch {
	case s.Name == "log":
		o := r.read(s.Name, plainText, r.gvk())
		o.produces = []string{"text/plain", jsonType, yamlType, protobufType}
		o.params = r.b.query("io.k8s.api.core.v1.PodLogOptions")
		r.b.add(item+"/log", where, o)
		return
	case strings.HasSuffix(s.Body.Kind, "Options"):
		r.addConnect(item, where, s, model)
		return
	}
	var ops []*operation
	for _, verb := range s.Verbs {
		switch verb {
		case "get":
			ops = append(ops, r.read(s.Name, model, gvk))
		case "update":
			ops = append(ops, r.replace(s.Name, model, gvk))
		case "patch":
			ops = append(ops, r.patch(s.Name, model, gvk))
		case "create":
			o := r.op("post", "create", "", upperFirst(s.Name), "create "+s.Name+" of "+article(r.kind.Kind)+" "+r.kind.Kind, "post")
			o.codes, o.model, o.gvk = []int{200, 201, 202, 401}, model, gvk
			o.body, o.bodyTypes, o.bodyRequired = model, []string{anyType}, true
			o.params = r.b.query(metaV1 + "CreateOptions")
			ops = append(ops, o)
		}
	}
	r.b.add(item+"/"+s.Name, where, ops...)
}

// addConnect adds the subresources that lead elsewhere: every method of their verbs, and for proxies every path below.
func (r *resource) addConnect(item string, where []param, s *kinds.Subresource, options string) {
	where = slices.DeleteFunc(slices.Clone(where), func(p param) bool { return p.name == "pretty" })
	title := map[string]string{"portforward": "Portforward"}[s.Name]
	if title == "" {
		title = upperFirst(s.Name)
	}
	methods := []string{"get", "post"}
	if s.Name == "proxy" {
		methods = []string{"delete", "get", "head", "options", "patch", "post", "put"}
	}
	connect := func(suffix string) []*operation {
		var ops []*operation
		for _, method := range methods {
			o := r.op(method, "connect", upperFirst(method), title+suffix, "connect "+strings.ToUpper(method)+" requests to "+s.Name+" of "+r.kind.Kind, "connect")
			o.codes, o.model, o.produces, o.gvk = []int{200, 401}, plainText, []string{anyType}, &s.Body
			o.params = r.b.query(options)
			ops = append(ops, o)
		}
		return ops
	}
	r.b.add(item+"/"+s.Name, where, connect("")...)
	if s.Name == "proxy" {
		below := append(where, param{name: "path", in: "path", typ: "string", required: true, description: "path to the resource"})
		r.b.add(item+"/proxy/{path}", below, connect("WithPath")...)
	}
}

// addWatches adds the old paths with /watch/ in them.
func (r *resource) addWatches(where, there []param) {
	const old = "deprecated: use the 'watch' parameter with a list operation instead"
	watch := func(id, description, action string) *operation {
		o := r.op("get", "watch", "", "", description, action)
		o.id = id
		o.codes, o.model, o.produces = []int{200, 401}, modelWatch, []string{jsonType, yamlType, protobufType, watchJSON, watchProtobuf}
		o.params = r.b.query(metaV1 + "ListOptions")
		return o
	}
	list := "watch individual changes to a list of " + r.kind.Kind + ". " + old + "."
	one := "watch changes to an object of kind " + r.kind.Kind + ". " + old + ", filtered to a single item with the 'fieldSelector' parameter."
	base := r.prefix + "watch/"
	collection := base + r.kind.Resource
	if r.kind.Namespaced {
		r.b.add(collection, []param{prettyParam()}, watch("watch"+r.stem+r.kind.Kind+"ListForAllNamespaces", list, "watchlist"))
		collection = base + "namespaces/{namespace}/" + r.kind.Resource
	}
	r.b.add(collection, where, watch("watch"+r.stem+r.scope()+r.kind.Kind+"List", list, "watchlist"))
	r.b.add(collection+"/{name}", there, watch("watch"+r.stem+r.scope()+r.kind.Kind, one, "watch"))
}

// article is the one that upstream's generator picks: by the first letter.
func article(kind string) string {
	if strings.ContainsRune("AEIOU", rune(kind[0])) {
		return "an"
	}
	return "a"
}
