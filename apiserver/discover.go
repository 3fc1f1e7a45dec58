package apiserver

import (
	"net/http"
	"strings"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/apiserver/discovery"
	"github.com/kebernetes/kebernetes/apiserver/wire"
)

// serveDiscovery answers /api, /apis and what lies below them, short of the resources.
func (rq *request) serveDiscovery() error {
	prefix, rest, _ := strings.Cut(strings.Trim(rq.path, "/"), "/")
	switch {
	case rest == "" && rq.wantsAggregated():
		return rq.aggregated(prefix == "api")
	case rest == "" && prefix == "api":
		return rq.apiVersions()
	case rest == "":
		return rq.groupList()
	case prefix == "api":
		return rq.resourceList(discovery.Find(rq.s.Table, ""), rest)
	}
	name, version, _ := strings.Cut(rest, "/")
	g := discovery.Find(rq.s.Table, name)
	if g == nil || name == "" {
		rq.pathNotFound()
		return nil
	}
	if version != "" {
		return rq.resourceList(g, version)
	}
	m, err := rq.accept(false)
	if err != nil {
		return err
	}
	out := g.Describe()
	return rq.answerObject(http.StatusOK, &out, schema.GroupVersionKind{Version: "v1", Kind: "APIGroup"}, m)
}

func (rq *request) apiVersions() error {
	m, err := rq.accept(false)
	if err != nil {
		return err
	}
	address := rq.r.Host
	if rq.s.advertise.Load().IsValid() {
		address = rq.s.advertise.Load().String()
	}
	out := &metav1.APIVersions{
		Versions:                   []string{"v1"},
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: address}},
	}
	return rq.answerObject(http.StatusOK, out, schema.GroupVersionKind{Kind: "APIVersions"}, m)
}

func (rq *request) groupList() error {
	m, err := rq.accept(false)
	if err != nil {
		return err
	}
	out := &metav1.APIGroupList{Groups: []metav1.APIGroup{}}
	for _, g := range discovery.Groups(rq.s.Table) {
		if g.Name != "" {
			out.Groups = append(out.Groups, g.Describe())
		}
	}
	return rq.answerObject(http.StatusOK, out, schema.GroupVersionKind{Version: "v1", Kind: "APIGroupList"}, m)
}

// resourceList answers with the resources of one version of a group.
func (rq *request) resourceList(g *discovery.Group, version string) error {
	m, err := rq.accept(false)
	if err != nil {
		return err
	}
	out := g.Resources(version)
	if out == nil {
		return pathUnknown()
	}
	kind := schema.GroupVersionKind{Version: "v1", Kind: "APIResourceList"}
	if g.Name == "" {
		kind.Version = ""
	}
	return rq.answerObject(http.StatusOK, out, kind, m)
}

const aggregatedType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// wantsAggregated says whether the client reads all of discovery in one document.
func (rq *request) wantsAggregated() bool {
	for _, c := range wire.Clauses(rq.r.Header.Get("Accept")) {
		as := c.Params["as"]
		if as == "APIGroupDiscoveryList" && c.Params["g"] == apidiscovery.GroupName && c.Params["v"] == "v2" && c.Media == "application/json" {
			return true
		}
		if _, known := c.Format(); known && as == "" {
			return false
		}
	}
	return false
}

// aggregated answers with all of discovery, of the core group or of all others. The document has an ETag, so that clients
// need not read it again.
func (rq *request) aggregated(core bool) error {
	doc, tag, err := discovery.Aggregated(rq.s.Table, core)
	if err != nil {
		return err
	}
	h := rq.w.Header()
	h.Set("Etag", tag)
	h.Set("Vary", "Accept")
	if rq.r.Header.Get("If-None-Match") == tag {
		rq.code = http.StatusNotModified
		rq.w.WriteHeader(rq.code)
		return nil
	}
	rq.head(http.StatusOK, []string{aggregatedType}, len(doc))
	_, _ = rq.w.Write(doc)
	return nil
}
