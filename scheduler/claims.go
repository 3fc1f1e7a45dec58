package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
)

// Annotations by which the scheduler, the volume binder and provisioners talk to each other.
const (
	bindCompleted     = "pv.kubernetes.io/bind-completed"
	boundByController = "pv.kubernetes.io/bound-by-controller"
	selectedNode      = "volume.kubernetes.io/selected-node"
)

// noProvisioner is the provisioner of classes whose volumes are made by hand.
const noProvisioner = "kubernetes.io/no-provisioner"

// mostWait is how long a pod that has a node waits for its claims to be bound. Upstream's number.
const mostWait = 10 * time.Minute

// storageOf reads what the volumes of a pod ask of its node. why is not empty when the pod cannot be placed at all, in upstream's words.
func (s *Scheduler) storageOf(pod *corev1.Pod, snap client.Snapshot) (out *storage, why string) {
	out = &storage{}
	for i := range pod.Spec.Volumes {
		name := claimName(pod, &pod.Spec.Volumes[i])
		if name == "" {
			continue
		}
		claim, why := s.claimOf(pod, &pod.Spec.Volumes[i], name, snap)
		if why == "" {
			why = s.ask(out, claim, snap)
		}
		if why != "" {
			return nil, why
		}
	}
	slices.SortStableFunc(out.wishes, func(a, b wish) int {
		x, y := a.claim.Spec.Resources.Requests[corev1.ResourceStorage], b.claim.Spec.Resources.Requests[corev1.ResourceStorage]
		return x.Cmp(y)
	})
	return out, ""
}

// claimOf returns the claim behind a pod's volume, or why there is none that can be used.
func (s *Scheduler) claimOf(pod *corev1.Pod, v *corev1.Volume, name string, snap client.Snapshot) (*corev1.PersistentVolumeClaim, string) {
	claim, ok := client.From[*corev1.PersistentVolumeClaim](s.client, snap, pod.Namespace, name)
	switch {
	case !ok && v.Ephemeral != nil:
		return nil, fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
	case !ok:
		return nil, fmt.Sprintf("persistentvolumeclaim %q not found", name)
	case claim.Status.Phase == corev1.ClaimLost:
		return nil, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return nil, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
	case v.Ephemeral != nil && !metav1.IsControlledBy(claim, pod):
		return nil, fmt.Sprintf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, name, pod.Namespace, pod.Name)
	}
	return claim, ""
}

// ask adds what a claim asks of the node.
func (s *Scheduler) ask(out *storage, claim *corev1.PersistentVolumeClaim, snap client.Snapshot) (why string) {
	key := claim.Namespace + "/" + claim.Name
	if slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
		out.once = append(out.once, key)
	}
	class, _ := client.From[*storagev1.StorageClass](s.client, snap, "", classOf(claim))
	volume, there := client.From[*corev1.PersistentVolume](s.client, snap, "", claim.Spec.VolumeName)
	if driver := driverOf(volume, class); driver != "" {
		out.attaches = append(out.attaches, attachment{driver, key})
	}
	switch {
	case claim.Spec.VolumeName != "" && claim.Annotations[bindCompleted] != "":
		if !there {
			out.lost = true
			return ""
		}
		out.within = meet(out.within, s.columns.reachOf(volume))
		out.zone = meet(out.zone, s.columns.zoneOf(volume))
		return ""
	case claim.Spec.VolumeName != "" || class == nil || class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer:
		return "pod has unbound immediate PersistentVolumeClaims"
	}
	out.wishes = append(out.wishes, s.wishOf(claim, class, snap))
	return ""
}

// wishOf finds what a claim that waits may get.
func (s *Scheduler) wishOf(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, snap client.Snapshot) wish {
	w := wish{claim: claim, made: class.Provisioner != noProvisioner}
	if at := claim.Annotations[selectedNode]; at != "" {
		// A volume is being made for it on a node already.
		w.reach = newBitset(len(s.columns.nodes))
		if i, ok := s.columns.slots[at]; ok {
			w.reach.set(i)
		}
		return w
	}
	if at, ok := s.promised[claim.UID]; ok {
		// Another pod of this batch has been given a node with it.
		if w.reach = at.within; at.volume != nil {
			w.made, w.offers = false, []offer{{at.volume, at.within}}
		}
		return w
	}
	selector := labels.Everything()
	if claim.Spec.Selector != nil {
		selector = selectorOf(claim.Spec.Selector)
	}
	for _, v := range client.List[*corev1.PersistentVolume](s.client, snap, "", nil) {
		if offered(v, claim, selector) && !s.given[v.UID] {
			w.offers = append(w.offers, offer{v, s.columns.reachOf(v)})
		}
	}
	slices.SortFunc(w.offers, smallest)
	if len(w.offers) > 0 && w.offers[0].volume.Spec.ClaimRef != nil {
		w.made, w.offers = false, w.offers[:1] // reserved: it is this one or none
	}
	if w.made {
		w.reach = s.columns.reachable(class.AllowedTopologies)
		w.spare = s.spareOf(claim, class, snap)
	}
	return w
}

// offered tells whether a claim may be bound to a volume, wherever it is.
func offered(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim, selector labels.Selector) bool {
	size, wanted := v.Spec.Capacity[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if v.DeletionTimestamp != nil || size.Cmp(wanted) < 0 || modeOf(v.Spec.VolumeMode) != modeOf(claim.Spec.VolumeMode) {
		return false
	}
	if ref := v.Spec.ClaimRef; ref != nil {
		return ref.Namespace == claim.Namespace && ref.Name == claim.Name && (ref.UID == "" || ref.UID == claim.UID)
	}
	if v.Status.Phase != corev1.VolumeAvailable || classOfVolume(v) != classOf(claim) || !selector.Matches(labels.Set(v.Labels)) {
		return false
	}
	return !slices.ContainsFunc(claim.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool { return !slices.Contains(v.Spec.AccessModes, m) })
}

func modeOf(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
	if m == nil {
		return corev1.PersistentVolumeFilesystem
	}
	return *m
}

// classOf is the storage class that a claim asks for; "" asks for volumes without one.
func classOf(claim *corev1.PersistentVolumeClaim) string {
	if name, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	if claim.Spec.StorageClassName == nil {
		return ""
	}
	return *claim.Spec.StorageClassName
}

func classOfVolume(v *corev1.PersistentVolume) string {
	if name, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	return v.Spec.StorageClassName
}

// driverOf is the CSI driver that attaches a claim's volume: its own, or the one that will make it.
func driverOf(volume *corev1.PersistentVolume, class *storagev1.StorageClass) string {
	switch {
	case volume != nil && volume.Spec.CSI != nil:
		return volume.Spec.CSI.Driver
	case volume == nil && class != nil && !strings.HasPrefix(class.Provisioner, "kubernetes.io/"):
		return class.Provisioner
	}
	return ""
}

// attachesOf returns what a pod that has a node makes its node attach.
func (s *Scheduler) attachesOf(c *class) []attachment {
	if len(c.claims) == 0 {
		return nil
	}
	snap := s.client.Snapshot()
	var out []attachment
	for _, key := range c.claims {
		namespace, name, _ := strings.Cut(key, "/")
		claim, ok := client.From[*corev1.PersistentVolumeClaim](s.client, snap, namespace, name)
		if !ok {
			continue
		}
		class, _ := client.From[*storagev1.StorageClass](s.client, snap, "", classOf(claim))
		volume, _ := client.From[*corev1.PersistentVolume](s.client, snap, "", claim.Spec.VolumeName)
		if driver := driverOf(volume, class); driver != "" {
			out = append(out, attachment{driver, key})
		}
	}
	return out
}

// spareOf returns the nodes where a driver that tells how much room it has can make a claim's volume; nil when it does not tell.
func (s *Scheduler) spareOf(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, snap client.Snapshot) bitset {
	driver, ok := client.From[*storagev1.CSIDriver](s.client, snap, "", class.Provisioner)
	if !ok || driver.Spec.StorageCapacity == nil || !*driver.Spec.StorageCapacity {
		return nil
	}
	wanted := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	out := newBitset(len(s.columns.nodes))
	for _, c := range client.List[*storagev1.CSIStorageCapacity](s.client, snap, "", nil) {
		room := c.MaximumVolumeSize
		if room == nil {
			room = c.Capacity
		}
		if c.StorageClassName != class.Name || room == nil || room.Cmp(wanted) < 0 || c.NodeTopology == nil {
			continue
		}
		selector := selectorOf(c.NodeTopology)
		for i, n := range s.columns.nodes {
			if n != nil && selector.Matches(labels.Set(n.Labels)) {
				out.set(int32(i))
			}
		}
	}
	return out
}

// give notes what a pod is promised on a node, so that no other pod of the batch is promised the same, or elsewhere.
func (s *Scheduler) give(promises []promise, slot int32) {
	only := newBitset(len(s.columns.nodes))
	only.set(slot)
	for _, p := range promises {
		s.promised[p.claim.UID] = offer{p.volume, only}
		if p.volume != nil {
			s.given[p.volume.UID] = true
		}
	}
}

// binding is a pod that has a node and waits for its claims to be bound.
type binding struct {
	placement
	promises []promise
	since    time.Time
}

// request asks for what was promised to a pod: volumes that are there are reserved for its claims, and a provisioner, which
// the claim's annotation tells the node, makes the others.
func (s *Scheduler) request(ctx context.Context, b *binding) error {
	for _, p := range b.promises {
		var err error
		if p.volume == nil {
			patch, _ := json.Marshal(map[string]any{"metadata": map[string]any{
				"uid": p.claim.UID, "resourceVersion": p.claim.ResourceVersion, "annotations": map[string]string{selectedNode: b.node}}})
			_, err = client.Patch[*corev1.PersistentVolumeClaim](ctx, s.client, p.claim.Namespace, p.claim.Name, "", types.MergePatchType, patch)
		} else if ref := p.volume.Spec.ClaimRef; ref == nil || ref.UID != p.claim.UID {
			update := p.volume.DeepCopy()
			if ref == nil {
				metav1.SetMetaDataAnnotation(&update.ObjectMeta, boundByController, "yes")
			}
			update.Spec.ClaimRef = &corev1.ObjectReference{
				Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: p.claim.Namespace, Name: p.claim.Name, UID: p.claim.UID, ResourceVersion: p.claim.ResourceVersion,
			}
			_, err = client.Update(ctx, s.client, update)
		}
		if err != nil {
			return err
		}
	}
	if pod := b.entry.pod; pod.Status.NominatedNodeName != b.node {
		// Others see where it goes, however long that takes.
		return s.patchPod(ctx, pod, map[string]any{"nominatedNodeName": b.node})
	}
	return nil
}

// standing tells whether all claims of a pod are bound, or why they will not be on its node.
func (s *Scheduler) standing(b *binding, snap client.Snapshot) (done bool, err error) {
	done = true
	slot, ok := s.columns.slots[b.node]
	if !ok {
		return false, fmt.Errorf("node %q not found", b.node)
	}
	for _, p := range b.promises {
		claim, ok := client.From[*corev1.PersistentVolumeClaim](s.client, snap, p.claim.Namespace, p.claim.Name)
		switch {
		case !ok || claim.UID != p.claim.UID:
			return false, fmt.Errorf("error getting claim %s/%s: %w", p.claim.Namespace, p.claim.Name, apierrors.NewNotFound(corev1.Resource("persistentvolumeclaims"), p.claim.Name))
		case claim.Spec.VolumeName != "" && claim.Annotations[bindCompleted] != "":
			volume, ok := client.From[*corev1.PersistentVolume](s.client, snap, "", claim.Spec.VolumeName)
			if ok && !allows(s.columns.reachOf(volume), slot) {
				return false, fmt.Errorf("pv %q node affinity doesn't match node %q: no matching NodeSelectorTerms", volume.Name, b.node)
			}
		case p.volume == nil && claim.Annotations[selectedNode] != b.node:
			return false, fmt.Errorf("provisioning failed for PVC %q", claim.Name)
		default:
			done = false
		}
	}
	return done, nil
}

// settle goes through the pods that wait for claims: those whose claims are bound get their node, those whose claims will not be look for another.
func (s *Scheduler) settle(ctx context.Context, now time.Time) {
	s.claimsMoved = false
	snap := s.client.Snapshot()
	var done []placement
	for uid, b := range s.binding {
		ok, err := s.standing(b, snap)
		if err == nil && !ok && now.Sub(b.since) >= mostWait {
			err = context.DeadlineExceeded
		}
		if !ok && err == nil {
			continue
		}
		delete(s.binding, uid)
		if err == nil {
			done = append(done, b.placement)
			continue
		}
		s.giveUp(b.placement)
		s.recorder.Event(b.entry.pod, corev1.EventTypeWarning, "FailedScheduling", "running PreBind plugin %q: binding volumes: %v", "VolumeBinding", err)
	}
	s.bind(ctx, done)
}
