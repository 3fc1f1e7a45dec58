package storage

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// forceDetach is how long after a node fell silent its volumes are taken away though it may still have them mounted: upstream's.
const forceDetach = 6 * time.Minute

// AttachDetach sees to it that a CSI volume is attached to the nodes whose pods use it, by VolumeAttachments that the driver's attacher
// carries out, and to no others. A node's list of attached volumes is written here, that of volumes in use by the node.
func AttachDetach(env controller.Env) *controller.Loop {
	c := env.Client("attachdetach-controller")
	r := &attachDetach{
		client: c, events: client.NewRecorder(c, "attachdetach-controller", env.Logger),
		pods: controller.NewIndex(func(obj client.Object, add func(controller.Group)) {
			pod := obj.(*corev1.Pod)
			if pod.Spec.NodeName == "" || controller.PodFinished(pod) {
				return
			}
			for _, claim := range claimsOf(pod) {
				add(controller.Group{pod.Namespace, claim})
			}
		}),
	}
	return env.NewLoop(c, controller.Controller{
		Name: "persistentvolume-attach-detach-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*corev1.Pod](c), Index: r.pods, Keys: r.podChanged},
			{Resource: client.ResourceOf[*corev1.PersistentVolumeClaim](c), Keys: func(ev client.Event, add func(controller.Key)) {
				r.addVolume(ev.Item.Object.(*corev1.PersistentVolumeClaim).Spec.VolumeName, add)
			}},
			{Resource: client.ResourceOf[*corev1.PersistentVolume](c), Keys: func(ev client.Event, add func(controller.Key)) {
				r.addVolume(ev.Item.Key.Name, add)
			}},
			{Resource: client.ResourceOf[*storagev1.VolumeAttachment](c), Keys: r.attachmentChanged},
			{Resource: client.ResourceOf[*corev1.Node](c), Keys: r.nodeChanged},
		},
		Reconcile: r.reconcile,
	})
}

type attachDetach struct {
	client *client.Client
	events *client.Recorder
	pods   *controller.Index
}

// Keys are pairs: the node is the namespace, the volume the name.

// podChanged adds the pod's volumes on its node.
func (r *attachDetach) podChanged(ev client.Event, add func(controller.Key)) {
	pod := ev.Item.Object.(*corev1.Pod)
	if pod.Spec.NodeName == "" {
		return
	}
	for _, name := range claimsOf(pod) {
		claim, ok := client.From[*corev1.PersistentVolumeClaim](r.client, r.client.Snapshot(), pod.Namespace, name)
		if ok && claim.Spec.VolumeName != "" {
			add(controller.Key{Namespace: pod.Spec.NodeName, Name: claim.Spec.VolumeName})
		}
	}
}

// addVolume adds a volume on each node where it is attached or pods use it.
func (r *attachDetach) addVolume(name string, add func(controller.Key)) {
	snap := r.client.Snapshot()
	for _, va := range client.List[*storagev1.VolumeAttachment](r.client, snap, "", nil) {
		if pv := va.Spec.Source.PersistentVolumeName; pv != nil && *pv == name {
			add(controller.Key{Namespace: va.Spec.NodeName, Name: name})
		}
	}
	volume, ok := client.From[*corev1.PersistentVolume](r.client, snap, "", name)
	if !ok || volume.Spec.CSI == nil {
		return
	}
	for _, pod := range r.users(volume) {
		add(controller.Key{Namespace: pod.Spec.NodeName, Name: name})
	}
}

// attachmentChanged adds the attachment's pair, and others that may have waited for its end.
func (r *attachDetach) attachmentChanged(ev client.Event, add func(controller.Key)) {
	va := ev.Item.Object.(*storagev1.VolumeAttachment)
	if va.Spec.Source.PersistentVolumeName == nil {
		return
	}
	add(controller.Key{Namespace: va.Spec.NodeName, Name: *va.Spec.Source.PersistentVolumeName})
	if ev.Type == client.Delete {
		r.addVolume(*va.Spec.Source.PersistentVolumeName, add)
	}
}

// nodeChanged adds the node's attachments when it has changed what it uses, whether it lives, or is gone.
func (r *attachDetach) nodeChanged(ev client.Event, add func(controller.Key)) {
	node := ev.Item.Object.(*corev1.Node)
	if ev.Prev != nil && ev.Type != client.Delete {
		old := ev.Prev.Object.(*corev1.Node)
		if slices.Equal(old.Status.VolumesInUse, node.Status.VolumesInUse) && nodeReady(old) == nodeReady(node) && outOfService(old) == outOfService(node) {
			return
		}
	}
	for _, va := range client.List[*storagev1.VolumeAttachment](r.client, r.client.Snapshot(), "", nil) {
		if va.Spec.NodeName == node.Name && va.Spec.Source.PersistentVolumeName != nil {
			add(controller.Key{Namespace: node.Name, Name: *va.Spec.Source.PersistentVolumeName})
		}
	}
}

// users are the pods that are on a node with a volume.
func (r *attachDetach) users(volume *corev1.PersistentVolume) []*corev1.Pod {
	ref := volume.Spec.ClaimRef
	if ref == nil {
		return nil
	}
	return controller.Indexed[*corev1.Pod](r.pods, controller.Group{ref.Namespace, ref.Name})
}

// attachmentName is the name by which node agents look for an attachment.
func attachmentName(handle, driver, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(handle+driver+node)))
}

// uniqueName is a CSI volume's name in the status of nodes.
func uniqueName(source *corev1.CSIPersistentVolumeSource) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + source.Driver + "^" + source.VolumeHandle)
}

func (r *attachDetach) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	snap := r.client.Snapshot()
	volume, ok := client.From[*corev1.PersistentVolume](r.client, snap, "", key.Name)
	if !ok {
		return 0, r.detachLost(ctx, snap, key)
	}
	source := volume.Spec.CSI
	if source == nil {
		return 0, nil
	}
	var users []*corev1.Pod
	for _, pod := range r.users(volume) {
		if pod.Spec.NodeName == key.Namespace {
			users = append(users, pod)
		}
	}
	va, there := client.From[*storagev1.VolumeAttachment](r.client, snap, "", attachmentName(source.VolumeHandle, source.Driver, key.Namespace))
	switch {
	case len(users) > 0 && !there:
		if !r.needsAttach(snap, source.Driver) {
			return 0, nil
		}
		return 0, r.attach(ctx, snap, volume, key.Namespace, users)
	case len(users) > 0 && va.DeletionTimestamp == nil:
		return 0, r.report(ctx, snap, volume, va, users)
	case there:
		return r.detach(ctx, snap, va, uniqueName(source))
	}
	return 0, nil
}

// needsAttach says whether a driver's volumes are attached at all; one that does not describe itself is asked to.
func (r *attachDetach) needsAttach(snap client.Snapshot, driver string) bool {
	object, ok := client.From[*storagev1.CSIDriver](r.client, snap, "", driver)
	return !ok || object.Spec.AttachRequired == nil || *object.Spec.AttachRequired
}

// attach asks for a volume on a node, unless it may be on one only and is on another.
func (r *attachDetach) attach(ctx context.Context, snap client.Snapshot, volume *corev1.PersistentVolume, node string, users []*corev1.Pod) error {
	if other := r.elsewhere(snap, volume, node); other != "" {
		var names []string
		for _, pod := range r.users(volume) {
			if pod.Spec.NodeName == other {
				names = append(names, pod.Name)
			}
		}
		text := "Volume is already exclusively attached to one node and can't be attached to another"
		if len(names) > 0 {
			text = "Volume is already used by pod(s) " + strings.Join(names, ", ")
		}
		for _, pod := range users {
			r.events.Event(pod, corev1.EventTypeWarning, "FailedAttachVolume", "Multi-Attach error for volume %q %s", volume.Name, text)
		}
		return nil
	}
	name := volume.Name
	_, err := client.Create(ctx, r.client, &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: attachmentName(volume.Spec.CSI.VolumeHandle, volume.Spec.CSI.Driver, node)},
		Spec: storagev1.VolumeAttachmentSpec{Attacher: volume.Spec.CSI.Driver, NodeName: node,
			Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &name}},
	})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// elsewhere names another node that has a volume which only one may have.
func (r *attachDetach) elsewhere(snap client.Snapshot, volume *corev1.PersistentVolume, node string) string {
	for _, mode := range volume.Spec.AccessModes {
		if mode == corev1.ReadWriteMany || mode == corev1.ReadOnlyMany {
			return ""
		}
	}
	for _, va := range client.List[*storagev1.VolumeAttachment](r.client, snap, "", nil) {
		if name := va.Spec.Source.PersistentVolumeName; name != nil && *name == volume.Name && va.Spec.NodeName != node {
			return va.Spec.NodeName
		}
	}
	return ""
}

// report tells the node, and the pods that wait, what has become of an attachment.
func (r *attachDetach) report(ctx context.Context, snap client.Snapshot, volume *corev1.PersistentVolume, va *storagev1.VolumeAttachment, users []*corev1.Pod) error {
	if !va.Status.Attached {
		if e := va.Status.AttachError; e != nil {
			for _, pod := range users {
				r.events.Event(pod, corev1.EventTypeWarning, "FailedAttachVolume", "AttachVolume.Attach failed for volume %q : %s", volume.Name, e.Message)
			}
		}
		return nil
	}
	changed, err := r.setAttached(ctx, snap, va.Spec.NodeName, uniqueName(volume.Spec.CSI), true)
	if changed {
		for _, pod := range users {
			r.events.Event(pod, corev1.EventTypeNormal, "SuccessfulAttachVolume", "AttachVolume.Attach succeeded for volume %q ", volume.Name)
		}
	}
	return err
}

// detach takes an attachment away once the node has unmounted the volume, or cannot be asked any more.
func (r *attachDetach) detach(ctx context.Context, snap client.Snapshot, va *storagev1.VolumeAttachment, name corev1.UniqueVolumeName) (time.Duration, error) {
	node, ok := client.From[*corev1.Node](r.client, snap, "", va.Spec.NodeName)
	if ok && slices.Contains(node.Status.VolumesInUse, name) && !outOfService(node) {
		if nodeReady(node) {
			return 0, nil // its next status comes back here
		}
		if left := time.Until(readySince(node).Add(forceDetach)); left > 0 {
			return left, nil
		}
	}
	if _, err := r.setAttached(ctx, snap, va.Spec.NodeName, name, false); err != nil {
		return 0, err
	}
	return 0, r.drop(ctx, va)
}

func (r *attachDetach) drop(ctx context.Context, va *storagev1.VolumeAttachment) error {
	if va.DeletionTimestamp != nil {
		return nil
	}
	err := client.Remove[*storagev1.VolumeAttachment](ctx, r.client, "", va.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &va.UID}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// detachLost takes away the attachments of a volume that is no longer there.
func (r *attachDetach) detachLost(ctx context.Context, snap client.Snapshot, key controller.Key) error {
	for _, va := range client.List[*storagev1.VolumeAttachment](r.client, snap, "", nil) {
		if name := va.Spec.Source.PersistentVolumeName; name != nil && *name == key.Name && va.Spec.NodeName == key.Namespace {
			if err := r.drop(ctx, va); err != nil {
				return err
			}
		}
	}
	return nil
}

// setAttached adds a volume to a node's list of attached ones, or takes it off, and says whether that changed anything.
func (r *attachDetach) setAttached(ctx context.Context, snap client.Snapshot, name string, volume corev1.UniqueVolumeName, attached bool) (bool, error) {
	node, ok := client.From[*corev1.Node](r.client, snap, "", name)
	if !ok {
		return false, nil
	}
	at := slices.IndexFunc(node.Status.VolumesAttached, func(v corev1.AttachedVolume) bool { return v.Name == volume })
	if (at >= 0) == attached {
		return false, nil
	}
	list := slices.Clone(node.Status.VolumesAttached)
	if attached {
		list = append(list, corev1.AttachedVolume{Name: volume})
	} else {
		list = slices.Delete(list, at, at+1)
	}
	// The list as a whole, at the version that it was made from: the node writes the rest of its status meanwhile.
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]string{"resourceVersion": node.ResourceVersion}, "status": map[string]any{"volumesAttached": list},
	})
	if err != nil {
		return false, err
	}
	_, err = client.Patch[*corev1.Node](ctx, r.client, "", name, "status", types.MergePatchType, patch)
	return err == nil, err
}

func outOfService(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// readySince is when a node's readiness last changed.
func readySince(n *corev1.Node) time.Time {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// attached says whether a volume is attached to any node.
func attached(c *client.Client, snap client.Snapshot, volume string) bool {
	for _, va := range client.List[*storagev1.VolumeAttachment](c, snap, "", nil) {
		if name := va.Spec.Source.PersistentVolumeName; name != nil && *name == volume {
			return true
		}
	}
	return false
}
