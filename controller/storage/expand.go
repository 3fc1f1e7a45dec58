package storage

import (
	"context"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/volume/capability"
)

// expand lets a bound claim's volume grow to what is requested. Admission has seen to it that the class allows that. The words are those of
// upstream's external resizer.
func (r *provisioner) expand(ctx context.Context, snap client.Snapshot, claim *corev1.PersistentVolumeClaim) error {
	wanted, has := claim.Spec.Resources.Requests[corev1.ResourceStorage], claim.Status.Capacity[corev1.ResourceStorage]
	if claim.Status.Phase != corev1.ClaimBound || wanted.Cmp(has) <= 0 || awaitsNode(claim) {
		return nil
	}
	volume, ok := client.From[*corev1.PersistentVolume](r.client, snap, "", claim.Spec.VolumeName)
	if !ok || !claimedBy(volume, claim) {
		return nil
	}
	driver := volume.Annotations[provisionedBy]
	if !r.builtIn(snap, driver) {
		if volume.Spec.CSI != nil {
			r.events.Event(claim, corev1.EventTypeNormal, "ExternalExpanding", "waiting for an external controller to expand this PVC")
		}
		return nil
	}
	r.events.Event(claim, corev1.EventTypeNormal, "Resizing", "External resizer is resizing volume %s", volume.Name)
	answer, err := r.grow(ctx, snap, volume, wanted.Value())
	if err != nil {
		r.events.Event(claim, corev1.EventTypeWarning, "VolumeResizeFailed", "resize volume %q by resizer %q failed: %s", volume.Name, driver, err)
		return fmt.Errorf("expand volume %s: %w", volume.Name, err)
	}
	size := sizeOf(answer.GetCapacityBytes(), wanted)
	if old := volume.Spec.Capacity[corev1.ResourceStorage]; old.Cmp(size) < 0 {
		update := volume.DeepCopy()
		update.Spec.Capacity[corev1.ResourceStorage] = size
		if _, err := client.Update(ctx, r.client, update); err != nil {
			return fmt.Errorf("expand volume %s: %w", volume.Name, err)
		}
	}
	update := claim.DeepCopy()
	if answer.GetNodeExpansionRequired() {
		update.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{
			Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
			Message: "Waiting for user to (re-)start a pod to finish file system resize of volume on node.",
		}}
		r.events.Event(claim, corev1.EventTypeNormal, "FileSystemResizeRequired", "Require file system resize of volume on node")
	} else {
		update.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: size}
		update.Status.Conditions = nil
		r.events.Event(claim, corev1.EventTypeNormal, "VolumeResizeSuccessful", "Resize volume succeeded")
	}
	if _, err := client.UpdateStatus(ctx, r.client, update); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("expand claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}

// awaitsNode says that the rest of an expansion is the node's.
func awaitsNode(claim *corev1.PersistentVolumeClaim) bool {
	return slices.ContainsFunc(claim.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return c.Type == corev1.PersistentVolumeClaimFileSystemResizePending && c.Status == corev1.ConditionTrue
	})
}

// grow asks the driver.
func (r *provisioner) grow(ctx context.Context, snap client.Snapshot, volume *corev1.PersistentVolume, size int64) (*csi.ControllerExpandVolumeResponse, error) {
	request := &csi.ControllerExpandVolumeRequest{VolumeId: volume.Name, CapacityRange: &csi.CapacityRange{RequiredBytes: size}}
	if source := volume.Spec.CSI; source != nil {
		var err error
		if request.Secrets, err = r.secret(ctx, source.ControllerExpandSecretRef); err != nil {
			return nil, err
		}
		request.VolumeId = source.VolumeHandle
		request.VolumeCapability = capability.One(volume.Spec.AccessModes, volume.Spec.VolumeMode, source.FSType, volume.Spec.MountOptions)
	}
	call, err := r.driver(snap, volume.Annotations[provisionedBy], volume.Annotations[localNode], volume)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return csi.NewControllerClient(call.conn).ControllerExpandVolume(ctx, request)
}
