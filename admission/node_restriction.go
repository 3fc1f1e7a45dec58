package admission

import (
	"context"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/store"
)

// nodeRestriction holds a node to what is its own: its Node, its lease, the pods bound to it and their tokens
// (https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction). The texts are upstream's.
func nodeRestriction(reader store.Reader) Step {
	n := &restriction{reader}
	return Step{Name: "NodeRestriction", Validate: func(_ context.Context, r *Request) error {
		if r.User == nil {
			return nil
		}
		node, ok := auth.NodeOf(r.User)
		if !ok {
			return nil
		}
		switch r.Kind.Resource + "." + r.Kind.Group {
		case "pods.":
			return n.pods(r, node)
		case "nodes.":
			return n.nodes(r, node)
		case "persistentvolumeclaims.":
			return n.claims(r, node)
		case "serviceaccounts.":
			return n.token(r, node)
		case "leases.coordination.k8s.io":
			if r.Namespace != corev1.NamespaceNodeLease {
				return r.forbid("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
			}
			return ownName(r, node, "node lease")
		case "csinodes.storage.k8s.io":
			return ownName(r, node, "CSINode")
		case "resourceslices.resource.k8s.io":
			return n.slices(r, node)
		}
		return nil
	}}
}

type restriction struct{ reader store.Reader }

func (n *restriction) pods(r *Request, node string) error {
	switch r.Subresource {
	case "":
		switch r.Operation {
		case Create:
			return n.mirrorPod(r, node)
		case Delete:
			pod, ok := named[*corev1.Pod](n.reader, "pods", r.Namespace, r.Name)
			if ok && pod.Spec.NodeName != node {
				return r.forbid("node %q can only delete pods with spec.nodeName set to itself", node)
			}
			return nil
		}
		return r.forbid("unexpected operation %q, node %q can only create and delete mirror pods", r.Operation, node)
	case "status":
		pod, old := r.Object.(*corev1.Pod), r.Old.(*corev1.Pod)
		switch {
		case r.Operation != Update:
			return r.forbid("unexpected operation %q", r.Operation)
		case old.Spec.NodeName != node:
			return r.forbid("node %q can only update pod status for pods with spec.nodeName set to itself", node)
		case !equality.Semantic.DeepEqual(pod.Labels, old.Labels):
			return r.forbid("node %q cannot update labels through pod status", node)
		case !equality.Semantic.DeepEqual(pod.Status.ResourceClaimStatuses, old.Status.ResourceClaimStatuses):
			return r.forbid("node %q cannot update resource claim statuses", node)
		}
		return nil
	case "eviction":
		if eviction, ok := r.Object.(*policyv1.Eviction); ok {
			name := eviction.Name
			if name == "" {
				name = r.Name
			}
			if pod, ok := named[*corev1.Pod](n.reader, "pods", r.Namespace, name); ok && pod.Spec.NodeName != node {
				return r.forbid("node %s can only evict pods with spec.nodeName set to itself", node)
			}
		}
		return nil
	}
	return r.forbid("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", r.Subresource)
}

// mirrorPod: what a node creates is only the shadow of a static pod, which refers to nothing in the API.
func (n *restriction) mirrorPod(r *Request, node string) error {
	pod := r.Object.(*corev1.Pod)
	if !isMirror(pod) {
		return r.forbid("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	}
	if pod.Spec.NodeName != node {
		return r.forbid("node %q can only create pods with spec.nodeName set to itself", node)
	}
	if len(pod.OwnerReferences) > 1 {
		return r.forbid("node %q can only create pods with a single owner reference set to itself", node)
	}
	if len(pod.OwnerReferences) == 0 {
		return r.forbid("node %q can only create pods with an owner reference set to itself", node)
	}
	owner := pod.OwnerReferences[0]
	if owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node {
		return r.forbid("node %q can only create pods with an owner reference set to itself", node)
	}
	if owner.Controller == nil || !*owner.Controller {
		return r.forbid("node %q can only create pods with a controller owner reference set to itself", node)
	}
	if owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion {
		return r.forbid("node %q must not set blockOwnerDeletion on an owner reference", node)
	}
	own, ok := named[*corev1.Node](n.reader, "nodes", "", node)
	if !ok {
		return r.forbid("looking up node %s to validate uid: node %q not found", node, node)
	}
	if owner.UID != own.UID {
		return r.forbid("node %s UID mismatch: expected %s got %s", node, owner.UID, own.UID)
	}
	if what := referenced(pod); what != "" {
		return r.forbid("node %q can not create pods that reference %s", node, what)
	}
	return nil
}

// referenced names the first kind of API object that a pod refers to.
func referenced(pod *corev1.Pod) string {
	if pod.Spec.ServiceAccountName != "" {
		return "a service account"
	}
	if len(pod.Spec.ImagePullSecrets) > 0 {
		return "secrets"
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.Secret != nil:
			return "secrets"
		case v.ConfigMap != nil:
			return "configmaps"
		case v.PersistentVolumeClaim != nil || v.Ephemeral != nil:
			return "persistentvolumeclaims"
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				switch {
				case s.Secret != nil:
					return "secrets"
				case s.ConfigMap != nil:
					return "configmaps"
				case s.ClusterTrustBundle != nil:
					return "clustertrustbundles"
				}
			}
		}
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return "resourceclaims"
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				return "secrets"
			}
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				return "configmaps"
			}
		}
		for _, e := range c.EnvFrom {
			if e.SecretRef != nil {
				return "secrets"
			}
			if e.ConfigMapRef != nil {
				return "configmaps"
			}
		}
	}
	return ""
}

func (n *restriction) nodes(r *Request, node string) error {
	if name := r.name(); name != node {
		return r.forbid("node %q is not allowed to modify node %q", node, name)
	}
	switch r.Operation {
	case Create:
		created := r.Object.(*corev1.Node)
		if created.Spec.ConfigSource != nil {
			return r.forbid("node %q is not allowed to create pods with a non-nil configSource", node)
		}
		return restrictedLabels(r, node, created.Labels, nil)
	case Update:
		updated, old := r.Object.(*corev1.Node), r.Old.(*corev1.Node)
		if updated.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(updated.Spec.ConfigSource, old.Spec.ConfigSource) {
			return r.forbid("node %q is not allowed to update configSource to a new non-nil configSource", node)
		}
		if !equality.Semantic.DeepEqual(updated.Spec.Taints, old.Spec.Taints) {
			return r.forbid("node %q is not allowed to modify taints", node)
		}
		if !equality.Semantic.DeepEqual(updated.OwnerReferences, old.OwnerReferences) {
			return r.forbid("node %q is not allowed to modify ownerReferences", node)
		}
		return restrictedLabels(r, node, updated.Labels, old.Labels)
	}
	return nil
}

// ownLabels are the labels in Kubernetes' own domains that a node may give itself
// (https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction).
var ownLabels = sets.New(
	corev1.LabelHostname, corev1.LabelArchStable, corev1.LabelOSStable, "beta.kubernetes.io/arch", "beta.kubernetes.io/os",
	corev1.LabelInstanceType, corev1.LabelInstanceTypeStable, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
	corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelWindowsBuild,
)

func restrictedLabels(r *Request, node string, labels, old map[string]string) error {
	var changed []string
	for key, value := range labels {
		if before, ok := old[key]; !ok || before != value {
			changed = append(changed, key)
		}
	}
	for key := range old {
		if _, ok := labels[key]; !ok {
			changed = append(changed, key)
		}
	}
	changed = slices.DeleteFunc(changed, nodeMaySet)
	if len(changed) == 0 {
		return nil
	}
	slices.Sort(changed)
	if r.Operation == Create {
		return r.forbid("node %q is not allowed to set the following labels: %s", node, strings.Join(changed, ", "))
	}
	return r.forbid("is not allowed to modify labels: %s", strings.Join(changed, ", "))
}

func nodeMaySet(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok {
		return true
	}
	under := func(parent string) bool { return domain == parent || strings.HasSuffix(domain, "."+parent) }
	switch {
	case under("node-restriction.kubernetes.io"):
		return false
	case ownLabels.Has(key) || under("kubelet.kubernetes.io") || under("node.kubernetes.io"):
		return true
	}
	return !under("kubernetes.io") && !under("k8s.io")
}

func (n *restriction) claims(r *Request, node string) error {
	if r.Subresource != "status" || r.Operation != Update {
		return r.forbid("may only update PVC status")
	}
	claim, old := r.Object.(*corev1.PersistentVolumeClaim), r.Old.(*corev1.PersistentVolumeClaim)
	was, is := old.DeepCopy(), claim.DeepCopy()
	was.ResourceVersion, is.ResourceVersion = "", ""
	was.ManagedFields, is.ManagedFields = nil, nil
	was.Status.Capacity, is.Status.Capacity = nil, nil
	was.Status.Conditions, is.Status.Conditions = nil, nil
	was.Status.AllocatedResources, is.Status.AllocatedResources = nil, nil
	was.Status.AllocatedResourceStatuses, is.Status.AllocatedResourceStatuses = nil, nil
	if !equality.Semantic.DeepEqual(was, is) {
		return r.forbid("node %q is not allowed to update fields other than status.quantity and status.conditions", node)
	}
	return nil
}

// token: a node asks only for tokens that are bound to pods of its own, for audiences that those pods mount.
func (n *restriction) token(r *Request, node string) error {
	request, ok := r.Object.(*authenticationv1.TokenRequest)
	if r.Operation != Create || r.Subresource != "token" || !ok {
		return nil
	}
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return r.forbid("node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return r.forbid("node requested token with a pod binding without a uid")
	}
	pod, ok := named[*corev1.Pod](n.reader, "pods", r.Namespace, ref.Name)
	switch {
	case !ok:
		return r.forbid("pod %q not found", ref.Name)
	case ref.UID != pod.UID:
		return r.forbid("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	case pod.Spec.NodeName != node:
		return r.forbid("node requested token bound to a pod scheduled on a different node")
	case len(request.Spec.Audiences) > 1:
		return r.forbid("node may only request 0 or 1 audiences")
	}
	if len(request.Spec.Audiences) == 1 && !mounts(n.reader, pod, request.Spec.Audiences[0]) {
		return r.forbid("audience %q not found in pod spec volume", request.Spec.Audiences[0])
	}
	return nil
}

// mounts says whether a pod has a token volume, or a CSI volume whose driver wants a token, for an audience.
func mounts(reader store.Reader, pod *corev1.Pod, audience string) bool {
	driverWants := func(name string) bool {
		driver, ok := named[*storagev1.CSIDriver](reader, "csidrivers.storage.k8s.io", "", name)
		return ok && slices.ContainsFunc(driver.Spec.TokenRequests, func(t storagev1.TokenRequest) bool { return t.Audience == audience })
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience {
					return true
				}
			}
		case v.CSI != nil:
			if driverWants(v.CSI.Driver) {
				return true
			}
		case v.PersistentVolumeClaim != nil || v.Ephemeral != nil:
			claim := pod.Name + "-" + v.Name
			if v.PersistentVolumeClaim != nil {
				claim = v.PersistentVolumeClaim.ClaimName
			}
			pvc, ok := named[*corev1.PersistentVolumeClaim](reader, "persistentvolumeclaims", pod.Namespace, claim)
			if !ok {
				continue
			}
			pv, ok := named[*corev1.PersistentVolume](reader, "persistentvolumes", "", pvc.Spec.VolumeName)
			if ok && pv.Spec.CSI != nil && driverWants(pv.Spec.CSI.Driver) {
				return true
			}
		}
	}
	return false
}

// ownName: a node writes only the one object that bears its name.
func ownName(r *Request, node, what string) error {
	if r.name() != node {
		return r.forbid("can only access %s with the same name as the requesting node", what)
	}
	return nil
}

func (n *restriction) slices(r *Request, node string) error {
	obj := r.Object
	if r.Operation == Delete {
		obj = r.Old
	}
	slice, ok := obj.(*resourcev1.ResourceSlice)
	if !ok {
		return nil
	}
	if slice.Spec.NodeName == nil || *slice.Spec.NodeName != node {
		verb := map[Operation]string{Create: "create", Update: "update", Delete: "delete"}[r.Operation]
		return r.forbid("can only %s ResourceSlice with the same NodeName as the requesting node", verb)
	}
	return nil
}
