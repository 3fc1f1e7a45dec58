package auth

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/kebernetes/kebernetes/store"
)

// nodeLeaseNamespace is where nodes keep their leases.
const nodeLeaseNamespace = corev1.NamespaceNodeLease

// NodeOf returns the name of the node that u is, and whether it is one: system:node:<name> in the group system:nodes.
func NodeOf(u *User) (string, bool) { return nodeOf(u) }

func nodeOf(u *User) (string, bool) {
	name, ok := strings.CutPrefix(u.Name, NodeUserPrefix)
	return name, ok && name != "" && slices.Contains(u.Groups, GroupNodes)
}

// authorizeNode is the node rule: a node reads what the pods bound to it need, and writes what is its own
// (https://kubernetes.io/docs/reference/access-authn-authz/node/). The reasons are upstream's.
func (p *Policy) authorizeNode(node string, a *Attributes) (bool, string) {
	if a.IsResource {
		if check := nodeChecks[a.Resource+"."+a.Group]; check != nil {
			if allowed, reason, decided := check(p, node, a); decided {
				return allowed, reason
			}
		}
	}
	for i := range p.nodeRules {
		if Allows(&p.nodeRules[i], a) {
			return true, ""
		}
	}
	return false, ""
}

// nodeCheck decides about one resource; where it does not decide the rules of the role system:node do.
type nodeCheck func(p *Policy, node string, a *Attributes) (allowed bool, reason string, decided bool)

// nodeChecks is read only.
var nodeChecks = map[string]nodeCheck{
	"secrets.":                         readSecret,
	"configmaps.":                      readOne,
	"persistentvolumeclaims.":          getOrStatus,
	"persistentvolumes.":               getOne,
	"serviceaccounts.":                 nodeServiceAccount,
	"pods.":                            nodePods,
	"nodes.":                           nodeNodes,
	"leases.coordination.k8s.io":       nodeLease,
	"volumeattachments.storage.k8s.io": getOne,
	"csinodes.storage.k8s.io":          nodeCSINode,
	"resourceclaims.resource.k8s.io":   getOne,
	"resourceslices.resource.k8s.io":   nodeResourceSlices,
}

// readOne: get, list and watch of single objects that a pod of the node refers to.
func readOne(p *Policy, node string, a *Attributes) (bool, string, bool) {
	switch {
	case a.Verb != "get" && a.Verb != "list" && a.Verb != "watch":
		return false, "can only read resources of this type", true
	case a.Subresource != "":
		return false, "cannot read subresource", true
	case a.Namespace == "":
		return false, "can only read namespaced object of this type", true
	}
	return p.related(node, a)
}

func getOne(p *Policy, node string, a *Attributes) (bool, string, bool) {
	switch {
	case a.Verb != "get":
		return false, "can only get individual resources of this type", true
	case a.Subresource != "":
		return false, "cannot get subresource", true
	}
	return p.related(node, a)
}

func getOrStatus(p *Policy, node string, a *Attributes) (bool, string, bool) {
	if a.Subresource != "status" {
		return getOne(p, node, a)
	}
	if a.Verb != "update" && a.Verb != "patch" {
		return false, "can only get/update/patch this type", true
	}
	return p.related(node, a)
}

func nodeServiceAccount(p *Policy, node string, a *Attributes) (bool, string, bool) {
	switch {
	case a.Subresource == "":
		return getOne(p, node, a)
	case a.Verb != "create" || a.Name == "":
		return false, "can only create tokens for individual service accounts", true
	case a.Subresource != "token":
		return false, "can only create token subresource of serviceaccount", true
	}
	return p.related(node, a)
}

func nodePods(p *Policy, node string, a *Attributes) (bool, string, bool) {
	if a.Subresource != "" {
		return false, "", false
	}
	switch a.Verb {
	case "get":
		return p.related(node, a)
	case "list", "watch":
		if selects(a, "spec.nodeName", node) {
			return true, "", true
		}
		return false, "can only list/watch pods with spec.nodeName field selector", true
	}
	return false, "", false
}

func nodeNodes(_ *Policy, node string, a *Attributes) (bool, string, bool) {
	switch a.Verb {
	case "get", "list", "watch":
		if a.Name == node || (a.Name == "" && selects(a, "metadata.name", node)) {
			return false, "", false
		}
		return false, fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, a.Name), true
	}
	return false, "", false
}

func nodeLease(_ *Policy, node string, a *Attributes) (bool, string, bool) {
	switch a.Verb {
	case "get", "create", "update", "patch", "delete":
	default:
		return false, "can only get, create, update, patch, or delete a node lease", true
	}
	if a.Namespace != nodeLeaseNamespace {
		return false, fmt.Sprintf("can only access leases in the %q system namespace", nodeLeaseNamespace), true
	}
	// The name is not known yet when a lease is created; NodeRestriction looks at it.
	if a.Verb != "create" && a.Name != node {
		return false, "can only access node lease with the same name as the requesting node", true
	}
	return true, "", true
}

func nodeCSINode(_ *Policy, node string, a *Attributes) (bool, string, bool) {
	switch a.Verb {
	case "get", "create", "update", "patch", "delete":
	default:
		return false, "can only get, create, update, patch, or delete a CSINode", true
	}
	if a.Subresource != "" {
		return false, "cannot authorize CSINode subresources", true
	}
	if a.Verb != "create" && a.Name != node {
		return false, "can only access CSINode with the same name as the requesting node", true
	}
	return true, "", true
}

func nodeResourceSlices(_ *Policy, node string, a *Attributes) (bool, string, bool) {
	if a.Subresource != "" {
		return false, "cannot authorize ResourceSlice subresources", true
	}
	switch a.Verb {
	case "get", "create", "update", "patch", "delete":
		// NodeRestriction looks at spec.nodeName of what is written.
		return true, "", true
	case "list", "watch", "deletecollection":
		if selects(a, "spec.nodeName", node) {
			return true, "", true
		}
		return false, "can only list/watch/deletecollection resourceslices with nodeName field selector", true
	}
	return false, "only the following verbs are allowed for a ResourceSlice: [get create update patch delete list watch deletecollection]", true
}

// selects says whether a list is limited to one value of a field.
func selects(a *Attributes, field, value string) bool {
	if a.FieldSelector == nil {
		return false
	}
	got, ok := a.FieldSelector.RequiresExactMatch(field)
	return ok && got == value
}

// related says whether a pod of the node, or the node itself, refers to the object that a names.
func (p *Policy) related(node string, a *Attributes) (bool, string, bool) {
	if a.Name == "" {
		return false, "No Object name found", true
	}
	if p.refers(node, a) {
		return true, "", true
	}
	return false, fmt.Sprintf("no relationship found between node '%s' and this object", node), true
}

func (p *Policy) refers(node string, a *Attributes) bool {
	if a.Resource == "volumeattachments" {
		item := p.reader.Snapshot().Get(store.Key{Resource: "volumeattachments.storage.k8s.io", Name: a.Name})
		return item != nil && item.Object.(*storagev1.VolumeAttachment).Spec.NodeName == node
	}
	p.ready(followPods)
	defer p.mu.RUnlock()
	snapshot := p.reader.Snapshot()
	for at := range p.pods[node] {
		// Only secrets and volumes of a pod may lie outside of its namespace.
		if at.namespace != a.Namespace && a.Resource != "secrets" && a.Resource != "persistentvolumes" {
			continue
		}
		item := snapshot.Get(store.Key{Resource: "pods", Namespace: at.namespace, Name: at.name})
		if item == nil {
			continue
		}
		if pod := item.Object.(*corev1.Pod); pod.Spec.NodeName == node && podRefers(snapshot, pod, a) {
			return true
		}
	}
	return false
}

// podsByNode names the pods bound to each node. It holds no pods, which would outlive their deletion here when no node asks for long.
type podsByNode map[string]map[objectName]struct{}

// objectName names one of a resource's objects.
type objectName struct{ namespace, name string }

func (p *podsByNode) reset() { *p = podsByNode{} }

func (p *podsByNode) apply(old, new store.Object) {
	if pod, ok := old.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
		pods := (*p)[pod.Spec.NodeName]
		delete(pods, objectName{pod.Namespace, pod.Name})
		if len(pods) == 0 {
			delete(*p, pod.Spec.NodeName)
		}
	}
	if pod, ok := new.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
		pods := (*p)[pod.Spec.NodeName]
		if pods == nil {
			pods = map[objectName]struct{}{}
			(*p)[pod.Spec.NodeName] = pods
		}
		pods[objectName{pod.Namespace, pod.Name}] = struct{}{}
	}
}
