// Package discovery describes the kinds of a table to clients: groups, versions, resources, one by one and all in one
// document. It is pure; only apiserver imports it.
package discovery

import (
	"cmp"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
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

// Group is one group of the table: its kinds by resource, and its versions, the preferred one first.
type Group struct {
	Name     string
	Kinds    []*kinds.Kind
	Versions []string
}

// Groups sorts a table into groups, the core group first.
func Groups(t *kinds.Table) []Group {
	byName := map[string]*Group{}
	for _, k := range t.All() {
		g := byName[k.Group]
		if g == nil {
			g = &Group{Name: k.Group}
			byName[k.Group] = g
		}
		g.Kinds = append(g.Kinds, k)
		for _, v := range k.Versions {
			if !slices.Contains(g.Versions, v.Name) {
				g.Versions = append(g.Versions, v.Name)
			}
		}
	}
	var out []Group
	for _, g := range byName {
		out = append(out, *g)
	}
	rank := func(name string) int {
		if i := slices.Index(groupOrder, name); i >= 0 {
			return i
		}
		return len(groupOrder)
	}
	slices.SortFunc(out, func(a, b Group) int {
		return cmp.Or(cmp.Compare(rank(a.Name), rank(b.Name)), strings.Compare(a.Name, b.Name))
	})
	return out
}

// Find returns the group of that name, or nil.
func Find(t *kinds.Table, name string) *Group {
	for _, g := range Groups(t) {
		if g.Name == name {
			return &g
		}
	}
	return nil
}

// Describe is the group as /apis lists it.
func (g *Group) Describe() metav1.APIGroup {
	out := metav1.APIGroup{Name: g.Name}
	for _, v := range g.Versions {
		out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{
			GroupVersion: schema.GroupVersion{Group: g.Name, Version: v}.String(), Version: v,
		})
	}
	out.PreferredVersion = out.Versions[0]
	return out
}

// Resources lists the resources of one version, or returns nil when the group has no such version.
func (g *Group) Resources(version string) *metav1.APIResourceList {
	if !slices.Contains(g.Versions, version) {
		return nil
	}
	gv := schema.GroupVersion{Group: g.Name, Version: version}
	out := &metav1.APIResourceList{GroupVersion: gv.String(), APIResources: []metav1.APIResource{}}
	for _, k := range g.Kinds {
		if k.Version(version) != nil {
			out.APIResources = append(out.APIResources, describeResource(k, gv)...)
		}
	}
	slices.SortFunc(out.APIResources, func(a, b metav1.APIResource) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// describeResource lists a resource and its subresources.
func describeResource(k *kinds.Kind, gv schema.GroupVersion) []metav1.APIResource {
	main := metav1.APIResource{
		Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.Kind,
		Verbs: Verbs(k), ShortNames: k.ShortNames, Categories: k.Categories,
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
	group := k.StorageResource().Group
	sum := sha256.Sum256([]byte(group + "/" + k.Storage().Name + "/" + k.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

// Aggregated is all of discovery in one document, as JSON: of the core group, or of all others. The tag changes with it.
func Aggregated(t *kinds.Table, core bool) (document []byte, tag string, err error) {
	out := apidiscovery.APIGroupDiscoveryList{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: apidiscovery.SchemeGroupVersion.String()},
		Items:    []apidiscovery.APIGroupDiscovery{},
	}
	for _, g := range Groups(t) {
		if (g.Name == "") == core {
			out.Items = append(out.Items, g.aggregate())
		}
	}
	j, err := json.Marshal(out)
	if err != nil {
		return nil, "", err
	}
	return append(j, '\n'), fmt.Sprintf(`"%X"`, sha512.Sum512(j)), nil
}

func (g *Group) aggregate() apidiscovery.APIGroupDiscovery {
	out := apidiscovery.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.Name}}
	for _, v := range g.Versions {
		gv := schema.GroupVersion{Group: g.Name, Version: v}
		version := apidiscovery.APIVersionDiscovery{Version: v, Freshness: apidiscovery.DiscoveryFreshnessCurrent}
		for _, k := range g.Kinds {
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
		SingularResource: k.Singular, Verbs: Verbs(k), ShortNames: k.ShortNames, Categories: k.Categories,
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

// Verbs are what a kind can do; one that does not say can do all that is usual.
func Verbs(k *kinds.Kind) metav1.Verbs {
	if k.Verbs == nil {
		return metav1.Verbs{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	}
	return k.Verbs
}
