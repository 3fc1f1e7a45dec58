package storage

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// Annotations by which the binder, the scheduler and external provisioners talk to each other.
const (
	bindCompleted          = "pv.kubernetes.io/bind-completed"
	boundByController      = "pv.kubernetes.io/bound-by-controller"
	provisionedBy          = "pv.kubernetes.io/provisioned-by"
	storageProvisioner     = "volume.kubernetes.io/storage-provisioner"
	betaStorageProvisioner = "volume.beta.kubernetes.io/storage-provisioner"
	selectedNode           = "volume.kubernetes.io/selected-node"
)

// VolumeBinder binds claims to volumes, and says what state each is in. Volumes are made by administrators or by external
// provisioners, which it asks by an annotation; none is made or wiped here.
func VolumeBinder(env controller.Env) *controller.Loop {
	c := env.Client("persistent-volume-binder")
	r := &binder{client: c, events: client.NewRecorder(c, "persistentvolume-controller", env.Logger)}
	return env.NewLoop(c, controller.Controller{
		Name: "persistentvolume-binder-controller",
		// One at a time: two claims must not be given the same volume.
		Workers: 1,
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*corev1.PersistentVolume](c), Keys: r.volumeChanged},
			{Resource: client.ResourceOf[*corev1.PersistentVolumeClaim](c), Keys: r.claimChanged},
			{Resource: client.ResourceOf[*storagev1.StorageClass](c), Keys: func(_ client.Event, add func(controller.Key)) { r.addPending(add) }},
		},
		Reconcile: r.reconcile,
	})
}

type binder struct {
	client *client.Client
	events *client.Recorder
}

// Keys of volumes have no namespace, those of claims have one.

// volumeChanged adds the volume, its claim, and the claims that wait for one.
func (r *binder) volumeChanged(ev client.Event, add func(controller.Key)) {
	controller.Itself(ev, add)
	volume := ev.Item.Object.(*corev1.PersistentVolume)
	if ref := volume.Spec.ClaimRef; ref != nil {
		add(controller.Key{Namespace: ref.Namespace, Name: ref.Name})
		return
	}
	r.addPending(add)
}

// claimChanged adds the claim and the volume that it names.
func (r *binder) claimChanged(ev client.Event, add func(controller.Key)) {
	controller.Itself(ev, add)
	if name := ev.Item.Object.(*corev1.PersistentVolumeClaim).Spec.VolumeName; name != "" {
		add(controller.Key{Name: name})
	}
}

func (r *binder) addPending(add func(controller.Key)) {
	for _, claim := range client.List[*corev1.PersistentVolumeClaim](r.client, r.client.Snapshot(), "", nil) {
		if claim.Status.Phase != corev1.ClaimBound {
			add(controller.KeyOf(claim))
		}
	}
}

func (r *binder) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	snap := r.client.Snapshot()
	if key.Namespace == "" {
		volume, ok := client.From[*corev1.PersistentVolume](r.client, snap, "", key.Name)
		if !ok {
			return 0, nil
		}
		return 0, r.syncVolume(ctx, snap, volume)
	}
	claim, ok := client.From[*corev1.PersistentVolumeClaim](r.client, snap, key.Namespace, key.Name)
	if !ok || claim.DeletionTimestamp != nil && claim.Spec.VolumeName == "" {
		return 0, nil
	}
	return 0, r.syncClaim(ctx, snap, claim)
}

// syncClaim brings a claim one step closer to its volume.
func (r *binder) syncClaim(ctx context.Context, snap client.Snapshot, claim *corev1.PersistentVolumeClaim) error {
	_, completed := claim.Annotations[bindCompleted]
	if claim.Spec.VolumeName == "" {
		if completed {
			return r.lose(ctx, claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
		}
		return r.findVolume(ctx, snap, claim)
	}
	volume, ok := client.From[*corev1.PersistentVolume](r.client, snap, "", claim.Spec.VolumeName)
	switch {
	case !ok && completed:
		return r.lose(ctx, claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case !ok:
		return r.setPending(ctx, claim)
	case claimedBy(volume, claim) || volume.Spec.ClaimRef == nil:
		return r.bind(ctx, claim, volume)
	case completed:
		return r.lose(ctx, claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
	}
	r.events.Event(claim, corev1.EventTypeWarning, "FailedBinding", "volume %q already bound to a different claim.", volume.Name)
	return r.setPending(ctx, claim)
}

// claimedBy says whether a volume is reserved for a claim: by name before it is bound, by UID afterwards.
func claimedBy(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	ref := volume.Spec.ClaimRef
	return ref != nil && ref.Namespace == claim.Namespace && ref.Name == claim.Name && (ref.UID == "" || ref.UID == claim.UID)
}

// findVolume binds a claim to the best volume there is, or sees to it that one is made.
func (r *binder) findVolume(ctx context.Context, snap client.Snapshot, claim *corev1.PersistentVolumeClaim) error {
	class, _ := client.From[*storagev1.StorageClass](r.client, snap, "", className(claim))
	waits := class != nil && ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) == storagev1.VolumeBindingWaitForFirstConsumer
	volume, err := bestVolume(claim, client.List[*corev1.PersistentVolume](r.client, snap, "", nil), waits)
	if err != nil {
		return err
	}
	if volume != nil {
		return r.bind(ctx, claim, volume)
	}
	switch {
	case waits && claim.Annotations[selectedNode] == "":
		r.events.Event(claim, corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case className(claim) == "":
		r.events.Event(claim, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	case class == nil:
		r.events.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", "storageclass.storage.k8s.io %q not found", className(claim))
	case strings.HasPrefix(class.Provisioner, "kubernetes.io/"):
		// These were built into upstream once; no-provisioner says that volumes are made by hand.
		r.events.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", "no volume plugin matched name: %s", class.Provisioner)
	default:
		return r.askProvisioner(ctx, claim, class.Provisioner)
	}
	return r.setPending(ctx, claim)
}

// askProvisioner tells an external provisioner by annotation that a volume is wanted.
func (r *binder) askProvisioner(ctx context.Context, claim *corev1.PersistentVolumeClaim, name string) error {
	r.events.Event(claim, corev1.EventTypeNormal, "ExternalProvisioning",
		"Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.", name)
	if claim.Annotations[storageProvisioner] != name || claim.Annotations[betaStorageProvisioner] != name {
		update := claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&update.ObjectMeta, storageProvisioner, name)
		metav1.SetMetaDataAnnotation(&update.ObjectMeta, betaStorageProvisioner, name)
		updated, err := client.Update(ctx, r.client, update)
		if err != nil {
			return err
		}
		claim = updated
	}
	return r.setPending(ctx, claim)
}

// className is the storage class that a claim asks for; "" asks for volumes without one.
func className(claim *corev1.PersistentVolumeClaim) string {
	if name, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	return ptr.Deref(claim.Spec.StorageClassName, "")
}

// bestVolume returns the volume for a claim: the one reserved for it, or else the smallest that fits. While the choice of a node is
// awaited only a reserved one counts.
func bestVolume(claim *corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume, reservedOnly bool) (*corev1.PersistentVolume, error) {
	sel, err := metav1.LabelSelectorAsSelector(claim.Spec.Selector)
	if err != nil {
		return nil, err
	}
	if claim.Spec.Selector == nil {
		sel = labels.Everything()
	}
	wanted := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	var best *corev1.PersistentVolume
	for _, v := range volumes {
		size := v.Spec.Capacity[corev1.ResourceStorage]
		if v.DeletionTimestamp != nil || size.Cmp(wanted) < 0 || volumeMode(v.Spec.VolumeMode) != volumeMode(claim.Spec.VolumeMode) {
			continue
		}
		if claimedBy(v, claim) {
			return v, nil
		}
		if reservedOnly || v.Spec.ClaimRef != nil || v.Status.Phase != corev1.VolumeAvailable || !fits(v, claim, sel) {
			continue
		}
		if best != nil {
			if least := best.Spec.Capacity[corev1.ResourceStorage]; least.Cmp(size) <= 0 {
				continue
			}
		}
		best = v
	}
	return best, nil
}

func volumeMode(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
	return ptr.Deref(m, corev1.PersistentVolumeFilesystem)
}

// fits says whether a volume offers what a claim asks for, size apart.
func fits(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim, sel labels.Selector) bool {
	class := v.Spec.StorageClassName
	if old, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		class = old
	}
	if class != className(claim) || !sel.Matches(labels.Set(v.Labels)) ||
		ptr.Deref(v.Spec.VolumeAttributesClassName, "") != ptr.Deref(claim.Spec.VolumeAttributesClassName, "") {
		return false
	}
	for _, mode := range claim.Spec.AccessModes {
		if !slices.Contains(v.Spec.AccessModes, mode) {
			return false
		}
	}
	return true
}

// bind ties a volume and a claim together, in an order that any crash in between leaves to be finished: the volume names the claim,
// is said to be bound, the claim names the volume, is said to be bound.
func (r *binder) bind(ctx context.Context, claim *corev1.PersistentVolumeClaim, volume *corev1.PersistentVolume) error {
	if ref := volume.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		update := volume.DeepCopy()
		if ref == nil {
			metav1.SetMetaDataAnnotation(&update.ObjectMeta, boundByController, "yes")
		}
		update.Spec.ClaimRef = &corev1.ObjectReference{
			Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
		}
		updated, err := client.Update(ctx, r.client, update)
		if err != nil {
			return fmt.Errorf("bind volume %s: %w", volume.Name, err)
		}
		volume = updated
	}
	if err := r.setVolume(ctx, volume, corev1.VolumeBound, "", ""); err != nil {
		return err
	}
	if claim.Spec.VolumeName != volume.Name || claim.Annotations[bindCompleted] == "" {
		update := claim.DeepCopy()
		if update.Spec.VolumeName == "" {
			update.Spec.VolumeName = volume.Name
			metav1.SetMetaDataAnnotation(&update.ObjectMeta, boundByController, "yes")
		}
		metav1.SetMetaDataAnnotation(&update.ObjectMeta, bindCompleted, "yes")
		updated, err := client.Update(ctx, r.client, update)
		if err != nil {
			return fmt.Errorf("bind claim %s: %w", claim.Name, err)
		}
		claim = updated
	}
	status := *claim.Status.DeepCopy()
	status.Phase, status.AccessModes = corev1.ClaimBound, volume.Spec.AccessModes
	if claim.Status.Phase != corev1.ClaimBound || status.Capacity == nil {
		status.Capacity = corev1.ResourceList{corev1.ResourceStorage: volume.Spec.Capacity[corev1.ResourceStorage]}
		status.CurrentVolumeAttributesClassName = volume.Spec.VolumeAttributesClassName
	}
	return r.setClaim(ctx, claim, status)
}

func (r *binder) lose(ctx context.Context, claim *corev1.PersistentVolumeClaim, reason, message string) error {
	if claim.Status.Phase != corev1.ClaimLost {
		r.events.Event(claim, corev1.EventTypeWarning, reason, "%s", message)
	}
	status := *claim.Status.DeepCopy()
	status.Phase, status.AccessModes, status.Capacity = corev1.ClaimLost, nil, nil
	return r.setClaim(ctx, claim, status)
}

func (r *binder) setPending(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	status := *claim.Status.DeepCopy()
	status.Phase, status.AccessModes, status.Capacity = corev1.ClaimPending, nil, nil
	return r.setClaim(ctx, claim, status)
}

func (r *binder) setClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim, status corev1.PersistentVolumeClaimStatus) error {
	if apiequality.Semantic.DeepEqual(status, claim.Status) {
		return nil
	}
	update := claim.DeepCopy()
	update.Status = status
	_, err := client.UpdateStatus(ctx, r.client, update)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// syncVolume says what state a volume is in. A bound one is the claim's to finish.
func (r *binder) syncVolume(ctx context.Context, snap client.Snapshot, volume *corev1.PersistentVolume) error {
	ref := volume.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return r.setVolume(ctx, volume, corev1.VolumeAvailable, "", "")
	}
	claim, ok := client.From[*corev1.PersistentVolumeClaim](r.client, snap, ref.Namespace, ref.Name)
	switch {
	case !ok || claim.UID != ref.UID:
		return r.release(ctx, volume)
	case claim.Spec.VolumeName == volume.Name || claim.Spec.VolumeName == "":
		return r.syncClaim(ctx, snap, claim)
	case volume.Annotations[boundByController] != "":
		// The claim has found another volume; this one was reserved for it here, and is free again.
		update := volume.DeepCopy()
		update.Spec.ClaimRef = nil
		delete(update.Annotations, boundByController)
		_, err := client.Update(ctx, r.client, update)
		return err
	}
	// Reserved by its owner for a claim that is bound elsewhere: it stays reserved.
	update := volume.DeepCopy()
	update.Spec.ClaimRef.UID = ""
	_, err := client.Update(ctx, r.client, update)
	return err
}

// release marks a volume whose claim is gone. A volume that is to be deleted with its claim is the provisioner's; one without a
// provisioner cannot be, and says so.
func (r *binder) release(ctx context.Context, volume *corev1.PersistentVolume) error {
	if volume.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRetain || volume.Annotations[provisionedBy] != "" {
		return r.setVolume(ctx, volume, corev1.VolumeReleased, "", "")
	}
	reason, message := "VolumeFailedDelete", "error getting deleter volume plugin for volume "+fmt.Sprintf("%q", volume.Name)+": no deletable volume plugin matched"
	if volume.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		reason, message = "VolumeFailedRecycle", "no volume plugin matched"
	}
	if volume.Status.Phase != corev1.VolumeFailed {
		r.events.Event(volume, corev1.EventTypeWarning, reason, "%s", message)
	}
	return r.setVolume(ctx, volume, corev1.VolumeFailed, "", message)
}

func (r *binder) setVolume(ctx context.Context, volume *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, reason, message string) error {
	if volume.Status.Phase == phase && volume.Status.Message == message && volume.Status.Reason == reason {
		return nil
	}
	update := volume.DeepCopy()
	if update.Status.Phase != phase {
		update.Status.LastPhaseTransitionTime = ptr.To(metav1.Now())
	}
	update.Status.Phase, update.Status.Reason, update.Status.Message = phase, reason, message
	_, err := client.UpdateStatus(ctx, r.client, update)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
