package apiserver

import (
	"cmp"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/kinds"
)

// groupOrder is the order in which discovery names the built-in groups, which clients take as preference; upstream's.
// Others follow by name.
var groupOrder = []string{
	"", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "autoscaling",
	"batch", "certificates.k8s.io", "networking.k8s.io", "policy", "rbac.authorization.k8s.io", "storage.k8s.io",
	"admissionregistration.k8s.io", "apiextensions.k8s.io", "scheduling.k8s.io", "coordination.k8s.io", "node.k8s.io",
	"discovery.k8s.io", "resource.k8s.io", "flowcontrol.apiserver.k8s.io", "storagemigration.k8s.io",
}

// apiGroup is one group of the table: its kinds by resource, and its versions, the preferred one first.
type apiGroup struct {
	name     string
	kinds    []*kinds.Kind
	versions []string
}

// groups sorts the table into groups.
func (s *Server) groups() []apiGroup {
	byName := map[string]*apiGroup{}
	for _, k := range s.Table.All() {
		g := byName[k.Group]
		if g == nil {
			g = &apiGroup{name: k.Group}
			byName[k.Group] = g
		}
		g.kinds = append(g.kinds, k)
		for _, v := range k.Versions {
			if !slices.Contains(g.versions, v.Name) {
				g.versions = append(g.versions, v.Name)
			}
		}
	}
	var out []apiGroup
	for _, g := range byName {
		out = append(out, *g)
	}
	rank := func(name string) int {
		if i := slices.Index(groupOrder, name); i >= 0 {
			return i
		}
		return len(groupOrder)
	}
	slices.SortFunc(out, func(a, b apiGroup) int {
		return cmp.Or(cmp.Compare(rank(a.name), rank(b.name)), strings.Compare(a.name, b.name))
	})
	return out
}

func (s *Server) group(name string) *apiGroup {
	for _, g := range s.groups() {
		if g.name == name {
			return &g
		}
	}
	return nil
}

// serveDiscovery answers /api, /apis and what lies below them, short of the resources.
func (rq *request) serveDiscovery() error {
	prefix, rest, _ := strings.Cut(strings.Trim(rq.path, "/"), "/")
	if prefix == "api" {
		if rest == "" {
			return rq.apiVersions()
		}
		return rq.resourceList("", rest)
	}
	if rest == "" {
		return rq.groupList()
	}
	name, version, _ := strings.Cut(rest, "/")
	g := rq.s.group(name)
	if g == nil || name == "" {
		rq.pathNotFound()
		return nil
	}
	if version == "" {
		m, err := rq.accept(false)
		if err != nil {
			return err
		}
		out := g.describe()
		return rq.answerObject(http.StatusOK, &out, schema.GroupVersionKind{Version: "v1", Kind: "APIGroup"}, m)
	}
	return rq.resourceList(name, version)
}

func (rq *request) apiVersions() error {
	if rq.wantsAggregated() {
		return rq.aggregated(true)
	}
	m, err := rq.accept(false)
	if err != nil {
		return err
	}
	address := rq.r.Host
	if rq.s.Advertise.IsValid() {
		address = rq.s.Advertise.String()
	}
	out := &metav1.APIVersions{
		Versions:                   []string{"v1"},
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: address}},
	}
	return rq.answerObject(http.StatusOK, out, schema.GroupVersionKind{Kind: "APIVersions"}, m)
}

func (rq *request) groupList() error {
	if rq.wantsAggregated() {
		return rq.aggregated(false)
	}
	m, err := rq.accept(false)
	if err != nil {
		return err
	}
	out := &metav1.APIGroupList{Groups: []metav1.APIGroup{}}
	for _, g := range rq.s.groups() {
		if g.name != "" {
			out.Groups = append(out.Groups, g.describe())
		}
	}
	return rq.answerObject(http.StatusOK, out, schema.GroupVersionKind{Version: "v1", Kind: "APIGroupList"}, m)
}

func (g *apiGroup) describe() metav1.APIGroup {
	out := metav1.APIGroup{Name: g.name}
	for _, v := range g.versions {
		out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{
			GroupVersion: schema.GroupVersion{Group: g.name, Version: v}.String(), Version: v,
		})
	}
	out.PreferredVersion = out.Versions[0]
	return out
}

// resourceList answers with the resources of one version of a group.
func (rq *request) resourceList(group, version string) error {
	m, err := rq.accept(false)
	if err != nil {
		return err
	}
	gv := schema.GroupVersion{Group: group, Version: version}
	out := &metav1.APIResourceList{GroupVersion: gv.String(), APIResources: []metav1.APIResource{}}
	g := rq.s.group(group)
	if g == nil || !slices.Contains(g.versions, version) {
		return pathUnknown()
	}
	for _, k := range g.kinds {
		if k.Version(version) != nil {
			out.APIResources = append(out.APIResources, describeResource(k, gv)...)
		}
	}
	slices.SortFunc(out.APIResources, func(a, b metav1.APIResource) int { return strings.Compare(a.Name, b.Name) })
	kind := schema.GroupVersionKind{Version: "v1", Kind: "APIResourceList"}
	if group == "" {
		kind.Version = ""
	}
	return rq.answerObject(http.StatusOK, out, kind, m)
}

// describeResource lists a resource and its subresources.
func describeResource(k *kinds.Kind, gv schema.GroupVersion) []metav1.APIResource {
	main := metav1.APIResource{
		Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.Kind,
		Verbs: verbsOf(k), ShortNames: k.ShortNames, Categories: k.Categories,
	}
	if !k.Virtual {
		main.StorageVersionHash = storageHash(k)
	}
	out := []metav1.APIResource{main}
	for i := range k.Subresources {
		sub := &k.Subresources[i]
		body := bodyOf(k, sub, gv)
		out = append(out, metav1.APIResource{
			Name: k.Resource + "/" + sub.Name, Namespaced: k.Namespaced, Group: body.Group, Version: body.Version,
			Kind: body.Kind, Verbs: sub.Verbs,
		})
	}
	return out
}

// bodyOf is the kind that a subresource carries; group and version are told only when they are not its parent's.
func bodyOf(k *kinds.Kind, sub *kinds.Subresource, gv schema.GroupVersion) schema.GroupVersionKind {
	switch {
	case sub.Body.Kind == "":
		return schema.GroupVersionKind{Kind: k.Kind}
	case sub.Body.GroupVersion() == gv:
		return schema.GroupVersionKind{Kind: sub.Body.Kind}
	}
	return sub.Body
}

// storageHash names the version that a resource is stored in, so that clients can see when it changes.
func storageHash(k *kinds.Kind) string {
	gv := storageVersion(k)
	sum := sha256.Sum256([]byte(gv.Group + "/" + gv.Version + "/" + k.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

const aggregatedType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// wantsAggregated says whether the client reads all of discovery in one document.
func (rq *request) wantsAggregated() bool {
	for _, c := range clauses(rq.r.Header.Get("Accept")) {
		if c.params["as"] == "APIGroupDiscoveryList" && c.params["g"] == apidiscovery.GroupName && c.params["v"] == "v2" && c.media == "application/json" {
			return true
		}
		if _, known := c.format(); known && c.params["as"] == "" {
			return false
		}
	}
	return false
}

// aggregated answers with all of discovery, of the core group or of all others. The document has an ETag, so that clients
// need not read it again.
func (rq *request) aggregated(core bool) error {
	out := apidiscovery.APIGroupDiscoveryList{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: apidiscovery.SchemeGroupVersion.String()},
		Items:    []apidiscovery.APIGroupDiscovery{},
	}
	for _, g := range rq.s.groups() {
		if (g.name == "") == core {
			out.Items = append(out.Items, g.aggregate())
		}
	}
	j, err := json.Marshal(out)
	if err != nil {
		return err
	}
	etag := fmt.Sprintf(`"%X"`, sha512.Sum512(j))
	h := rq.w.Header()
	h.Set("Etag", etag)
	h.Set("Vary", "Accept")
	if rq.r.Header.Get("If-None-Match") == etag {
		rq.code = http.StatusNotModified
		rq.w.WriteHeader(rq.code)
		return nil
	}
	h.Set("Cache-Control", "public")
	rq.head(http.StatusOK, []string{aggregatedType}, len(j)+1)
	_, _ = rq.w.Write(append(j, '\n'))
	return nil
}

func (g *apiGroup) aggregate() apidiscovery.APIGroupDiscovery {
	out := apidiscovery.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.name}}
	for _, v := range g.versions {
		gv := schema.GroupVersion{Group: g.name, Version: v}
		version := apidiscovery.APIVersionDiscovery{Version: v, Freshness: apidiscovery.DiscoveryFreshnessCurrent}
		for _, k := range g.kinds {
			if k.Version(v) != nil {
				version.Resources = append(version.Resources, aggregateResource(k, gv))
			}
		}
		slices.SortFunc(version.Resources, func(a, b apidiscovery.APIResourceDiscovery) int { return strings.Compare(a.Resource, b.Resource) })
		out.Versions = append(out.Versions, version)
	}
	return out
}

func aggregateResource(k *kinds.Kind, gv schema.GroupVersion) apidiscovery.APIResourceDiscovery {
	scope := apidiscovery.ScopeCluster
	if k.Namespaced {
		scope = apidiscovery.ScopeNamespace
	}
	out := apidiscovery.APIResourceDiscovery{
		Resource: k.Resource, ResponseKind: &metav1.GroupVersionKind{Kind: k.Kind}, Scope: scope,
		SingularResource: k.Singular, Verbs: verbsOf(k), ShortNames: k.ShortNames, Categories: k.Categories,
	}
	for i := range k.Subresources {
		sub := &k.Subresources[i]
		body := metav1.GroupVersionKind(bodyOf(k, sub, gv))
		out.Subresources = append(out.Subresources, apidiscovery.APISubresourceDiscovery{
			Subresource: sub.Name, ResponseKind: &body, Verbs: sub.Verbs,
		})
	}
	return out
}
