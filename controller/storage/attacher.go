package storage

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
	"github.com/kebernetes/kebernetes/volume/capability"
)

// VolumeAttacher carries out the attachments of drivers with a built-in controller, as upstream's external attacher does for others.
func VolumeAttacher(env controller.Env, drivers Drivers) *controller.Loop {
	c := env.Client(ProvisionerIdentity)
	r := &attacher{driverCalls{c, drivers}}
	return env.NewLoop(c, controller.Controller{
		Name:    "volume-attacher-controller",
		Watches: []controller.Watch{{Resource: client.ResourceOf[*storagev1.VolumeAttachment](c), Keys: controller.Itself}},
		Reconcile: func(ctx context.Context, key controller.Key) (time.Duration, error) {
			snap := c.Snapshot()
			va, ok := client.From[*storagev1.VolumeAttachment](c, snap, "", key.Name)
			if !ok || va.Spec.Source.PersistentVolumeName == nil || !r.builtIn(snap, va.Spec.Attacher) {
				return 0, nil
			}
			if va.DeletionTimestamp != nil {
				return 0, r.detach(ctx, snap, va)
			}
			return 0, r.attach(ctx, snap, va)
		},
	})
}

type attacher struct{ driverCalls }

// attachFinalizer keeps an attachment until the driver has undone it; the name is upstream's.
func attachFinalizer(driver string) string {
	return "external-attacher/" + strings.NewReplacer(".", "-", "/", "-").Replace(driver)
}

// target is what both calls of a driver need to know.
type target struct {
	call    call
	volume  *corev1.PersistentVolume
	nodeID  string
	secrets map[string]string
	able    bool // the driver attaches at all
}

func (r *attacher) target(ctx context.Context, snap client.Snapshot, va *storagev1.VolumeAttachment) (*target, error) {
	volume, ok := client.From[*corev1.PersistentVolume](r.client, snap, "", *va.Spec.Source.PersistentVolumeName)
	if !ok || volume.Spec.CSI == nil {
		return nil, fmt.Errorf("volume %s is no CSI volume that is there", *va.Spec.Source.PersistentVolumeName)
	}
	t := &target{volume: volume}
	cn, ok := client.From[*storagev1.CSINode](r.client, snap, "", va.Spec.NodeName)
	if ok {
		if row := csiNodeDriver(cn, va.Spec.Attacher); row != nil {
			t.nodeID = row.NodeID
		}
	}
	if t.nodeID == "" {
		return nil, fmt.Errorf("CSINode %s does not contain driver %s", va.Spec.NodeName, va.Spec.Attacher)
	}
	var err error
	if t.call, err = r.driver(snap, va.Spec.Attacher, va.Spec.NodeName, nil); err != nil {
		return nil, err
	}
	if t.secrets, err = r.secret(ctx, volume.Spec.CSI.ControllerPublishSecretRef); err != nil {
		return nil, err
	}
	can, err := csi.NewControllerClient(t.call.conn).ControllerGetCapabilities(ctx, &csi.ControllerGetCapabilitiesRequest{})
	if err != nil && status.Code(err) != codes.Unimplemented {
		return nil, err
	}
	t.able = slices.ContainsFunc(can.GetCapabilities(), func(c *csi.ControllerServiceCapability) bool {
		return c.GetRpc().GetType() == csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME
	})
	return t, nil
}

// attach publishes the volume to the node.
func (r *attacher) attach(ctx context.Context, snap client.Snapshot, va *storagev1.VolumeAttachment) error {
	if va.Status.Attached {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if finalizer := attachFinalizer(va.Spec.Attacher); !slices.Contains(va.Finalizers, finalizer) {
		update := va.DeepCopy()
		update.Finalizers = append(update.Finalizers, finalizer)
		updated, err := client.Update(ctx, r.client, update)
		if err != nil {
			return err
		}
		va = updated
	}
	metadata, err := r.publish(ctx, snap, va)
	update := va.DeepCopy()
	if err != nil {
		update.Status.AttachError = &storagev1.VolumeError{Time: metav1.Now(), Message: err.Error()}
	} else {
		update.Status = storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: metadata}
	}
	if old := va.Status.AttachError; err == nil || old == nil || old.Message != err.Error() {
		if _, writeErr := client.UpdateStatus(ctx, r.client, update); writeErr != nil && err == nil {
			return writeErr
		}
	}
	return err
}

func (r *attacher) publish(ctx context.Context, snap client.Snapshot, va *storagev1.VolumeAttachment) (map[string]string, error) {
	t, err := r.target(ctx, snap, va)
	if err != nil || !t.able {
		return nil, err
	}
	source := t.volume.Spec.CSI
	answer, err := csi.NewControllerClient(t.call.conn).ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: source.VolumeHandle, NodeId: t.nodeID, Readonly: source.ReadOnly, Secrets: t.secrets, VolumeContext: source.VolumeAttributes,
		VolumeCapability: capability.One(t.volume.Spec.AccessModes, t.volume.Spec.VolumeMode, source.FSType, t.volume.Spec.MountOptions),
	})
	return answer.GetPublishContext(), err
}

// detach unpublishes the volume, and lets the attachment go.
func (r *attacher) detach(ctx context.Context, snap client.Snapshot, va *storagev1.VolumeAttachment) error {
	finalizer := attachFinalizer(va.Spec.Attacher)
	if !slices.Contains(va.Finalizers, finalizer) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := r.unpublish(ctx, snap, va); err != nil {
		if old := va.Status.DetachError; old == nil || old.Message != err.Error() {
			update := va.DeepCopy()
			update.Status.DetachError = &storagev1.VolumeError{Time: metav1.Now(), Message: err.Error()}
			if _, writeErr := client.UpdateStatus(ctx, r.client, update); writeErr != nil {
				return writeErr
			}
		}
		return err
	}
	update := va.DeepCopy()
	update.Finalizers = slices.DeleteFunc(update.Finalizers, func(f string) bool { return f == finalizer })
	if _, err := client.Update(ctx, r.client, update); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

func (r *attacher) unpublish(ctx context.Context, snap client.Snapshot, va *storagev1.VolumeAttachment) error {
	t, err := r.target(ctx, snap, va)
	if err != nil || !t.able {
		return err
	}
	_, err = csi.NewControllerClient(t.call.conn).ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{
		VolumeId: t.volume.Spec.CSI.VolumeHandle, NodeId: t.nodeID, Secrets: t.secrets,
	})
	return err
}
