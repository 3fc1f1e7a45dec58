package storage

import (
	"context"
	"errors"
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
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
	"github.com/kebernetes/kebernetes/volume/capability"
)

// LocalProvisioner is the provisioner of node-local folders, a driver that every node has.
const LocalProvisioner = "keb.dev/local"

const (
	// localNode is the annotation that names the node of a local folder: hostname labels may change, and names may differ from them.
	localNode = "keb.dev/node"
	// localBounded is the annotation that says whether the node's file system keeps the folder within its size: "true" or "false".
	localBounded = "keb.dev/size-bounded"
	// provisionerFinalizer keeps a volume until its storage is gone; the name is the one of upstream's provisioners.
	provisionerFinalizer = "external-provisioner.volume.kubernetes.io/finalizer"
	// callTimeout bounds one call of a driver; what is not done by then is asked for again.
	callTimeout = time.Minute
	// nodeResource marks keys that are nodes.
	nodeResource = "nodes"
)

// VolumeProvisioner makes volumes for claims, and removes them as their reclaim policy says, by the drivers that it may call:
// the folders of each node, and the CSI drivers that say so themselves (see BuiltInController). The claims' annotations and events
// are those of upstream's external provisioners.
func VolumeProvisioner(env controller.Env, drivers Drivers) *controller.Loop {
	c := env.Client(ProvisionerIdentity)
	r := &provisioner{driverCalls{c, drivers}, client.NewRecorder(c, "volume-provisioner", env.Logger)}
	return env.NewLoop(c, controller.Controller{
		Name: "volume-provisioner-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*corev1.PersistentVolumeClaim](c), Keys: r.claimChanged},
			{Resource: client.ResourceOf[*corev1.PersistentVolume](c), Keys: controller.Itself},
			{Resource: client.ResourceOf[*corev1.Node](c), Keys: r.nodeChanged},
			{Resource: client.ResourceOf[*storagev1.VolumeAttachment](c), Keys: func(ev client.Event, add func(controller.Key)) {
				if name := ev.Item.Object.(*storagev1.VolumeAttachment).Spec.Source.PersistentVolumeName; ev.Type == client.Delete && name != nil {
					add(controller.Key{Name: *name})
				}
			}},
		},
		Reconcile: r.reconcile,
	})
}

type provisioner struct {
	driverCalls
	events *client.Recorder
}

// claimChanged adds the claim; one that goes without a volume may leave a folder on its node.
func (r *provisioner) claimChanged(ev client.Event, add func(controller.Key)) {
	claim := ev.Item.Object.(*corev1.PersistentVolumeClaim)
	if ev.Type != client.Delete {
		controller.Itself(ev, add)
	} else if node := claim.Annotations[selectedNode]; node != "" && claim.Spec.VolumeName == "" {
		add(controller.Key{Resource: nodeResource, Name: node})
	}
}

// nodeChanged adds a node that has just become ready: what had to wait for it can be done.
func (r *provisioner) nodeChanged(ev client.Event, add func(controller.Key)) {
	if ev.Type == client.Delete || !nodeReady(ev.Item.Object.(*corev1.Node)) || ev.Prev != nil && nodeReady(ev.Prev.Object.(*corev1.Node)) {
		return
	}
	add(controller.Key{Resource: nodeResource, Name: ev.Item.Key.Name})
	for _, volume := range client.List[*corev1.PersistentVolume](r.client, r.client.Snapshot(), "", nil) {
		if volume.Annotations[localNode] == ev.Item.Key.Name {
			add(controller.KeyOf(volume))
		}
	}
}

func (r *provisioner) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	snap := r.client.Snapshot()
	if key.Resource == nodeResource {
		return 0, r.sweep(ctx, snap, key.Name)
	}
	if key.Namespace == "" {
		volume, ok := client.From[*corev1.PersistentVolume](r.client, snap, "", key.Name)
		if !ok || !r.builtIn(snap, volume.Annotations[provisionedBy]) {
			return 0, nil
		}
		return 0, r.reclaim(ctx, snap, volume)
	}
	claim, ok := client.From[*corev1.PersistentVolumeClaim](r.client, snap, key.Namespace, key.Name)
	if !ok || claim.DeletionTimestamp != nil {
		return 0, nil
	}
	if claim.Spec.VolumeName != "" {
		return 0, r.expand(ctx, snap, claim)
	}
	class, ok := client.From[*storagev1.StorageClass](r.client, snap, "", className(claim))
	// The binder's annotation says that no volume that is there fits.
	if !ok || !r.builtIn(snap, class.Provisioner) || claim.Annotations[storageProvisioner] != class.Provisioner {
		return 0, nil
	}
	return 0, r.provision(ctx, snap, claim, class)
}

// volumeName is the name of a claim's volume, which makes everything here repeatable.
func volumeName(claim *corev1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }

// provision makes a volume for a claim.
func (r *provisioner) provision(ctx context.Context, snap client.Snapshot, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	if _, there := client.From[*corev1.PersistentVolume](r.client, snap, "", volumeName(claim)); there {
		return nil
	}
	failed := func(err error) {
		r.events.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %s", class.Name, err)
	}
	if claim.Spec.Selector != nil {
		failed(errors.New("claim Selector is not supported"))
		return nil
	}
	waits := ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) == storagev1.VolumeBindingWaitForFirstConsumer
	node := claim.Annotations[selectedNode]
	if waits && node == "" {
		return nil
	}
	if class.Provisioner == LocalProvisioner && node == "" {
		failed(errors.New("a local folder needs a node: set volumeBindingMode of the class to WaitForFirstConsumer"))
		return nil
	}
	r.events.Event(claim, corev1.EventTypeNormal, "Provisioning", "External provisioner is provisioning volume for claim %q", claim.Namespace+"/"+claim.Name)
	volume, err := r.create(ctx, snap, claim, class, node)
	if err != nil {
		failed(err)
		switch code := status.Code(err); {
		case code == codes.ResourceExhausted && waits:
			return r.reschedule(ctx, claim) // another node may have room
		case code == codes.InvalidArgument:
			return nil // the same request has the same answer
		}
		return fmt.Errorf("provision volume for claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	if _, err := client.Create(ctx, r.client, volume); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("store volume %s: %w", volume.Name, err)
	}
	r.events.Event(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", volume.Name)
	return nil
}

// reschedule takes back the choice of a node.
func (r *provisioner) reschedule(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	update := claim.DeepCopy()
	delete(update.Annotations, selectedNode)
	_, err := client.Update(ctx, r.client, update)
	return err
}

// create asks the driver for a volume and describes it.
func (r *provisioner) create(ctx context.Context, snap client.Snapshot, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node string) (*corev1.PersistentVolume, error) {
	call, err := r.driver(snap, class.Provisioner, node, nil)
	if err != nil {
		return nil, err
	}
	params, err := r.parameters(ctx, claim, class)
	if err != nil {
		return nil, err
	}
	size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	request := &csi.CreateVolumeRequest{
		Name: volumeName(claim), Parameters: params.driver, Secrets: params.provision.data,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: size.Value()},
		VolumeCapabilities: capability.Of(claim.Spec.AccessModes, claim.Spec.VolumeMode, params.fsType, class.MountOptions),
	}
	if class.Provisioner != LocalProvisioner {
		request.AccessibilityRequirements = r.topology(snap, class.Provisioner, call.node)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := csi.NewControllerClient(call.conn).CreateVolume(ctx, request)
	if err != nil {
		return nil, err
	}
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: request.Name, Finalizers: []string{provisionerFinalizer}, Annotations: map[string]string{provisionedBy: class.Provisioner}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: sizeOf(answer.GetVolume().GetCapacityBytes(), size)}, AccessModes: claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			StorageClassName:              className(claim), MountOptions: class.MountOptions, VolumeMode: claim.Spec.VolumeMode,
			ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name,
				UID: claim.UID, ResourceVersion: claim.ResourceVersion},
		},
	}
	if class.Provisioner == LocalProvisioner {
		return volume, r.describeFolder(snap, volume, answer.GetVolume(), call.node)
	}
	describeCSI(volume, answer.GetVolume(), class.Provisioner, params)
	return volume, nil
}

// describeFolder says where a local folder is.
func (r *provisioner) describeFolder(snap client.Snapshot, volume *corev1.PersistentVolume, made *csi.Volume, node string) error {
	host := node
	if n, ok := client.From[*corev1.Node](r.client, snap, "", node); ok && n.Labels[corev1.LabelHostname] != "" {
		host = n.Labels[corev1.LabelHostname]
	}
	path := made.GetVolumeContext()["path"]
	if path == "" {
		return fmt.Errorf("node %s does not say where the folder is", node)
	}
	volume.Annotations[localNode] = node
	if bounded := made.GetVolumeContext()["bounded"]; bounded != "" {
		volume.Annotations[localBounded] = bounded
	}
	volume.Spec.Local = &corev1.LocalVolumeSource{Path: path}
	volume.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
	}}}}
	return nil
}

// reclaim removes the storage of a volume whose claim is gone, when its policy says Delete; with any other policy only the mark
// goes by which the volume waits for that.
func (r *provisioner) reclaim(ctx context.Context, snap client.Snapshot, volume *corev1.PersistentVolume) error {
	deletes := volume.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
	released := volume.Status.Phase == corev1.VolumeReleased || volume.Status.Phase == corev1.VolumeFailed
	switch {
	case deletes && released:
	case volume.DeletionTimestamp != nil && deletes && volume.Status.Phase == corev1.VolumeAvailable:
	case volume.DeletionTimestamp != nil && !deletes:
		return r.letGo(ctx, volume)
	default:
		return nil
	}
	if !slices.Contains(volume.Finalizers, provisionerFinalizer) {
		return nil // its storage is gone already
	}
	if attached(r.client, snap, volume.Name) {
		return nil // the end of the attachment comes back here
	}
	if err := r.remove(ctx, snap, volume); err != nil {
		r.events.Event(volume, corev1.EventTypeWarning, "VolumeFailedDelete", "%s", err)
		return fmt.Errorf("delete volume %s: %w", volume.Name, err)
	}
	if volume.DeletionTimestamp == nil {
		options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &volume.UID}}
		if err := client.Remove[*corev1.PersistentVolume](ctx, r.client, "", volume.Name, options); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		fresh, ok := client.From[*corev1.PersistentVolume](r.client, r.client.Snapshot(), "", volume.Name)
		if !ok || fresh.UID != volume.UID {
			return nil
		}
		volume = fresh
	}
	return r.letGo(ctx, volume)
}

// remove deletes a volume's storage. Repeatable.
func (r *provisioner) remove(ctx context.Context, snap client.Snapshot, volume *corev1.PersistentVolume) error {
	handle, secrets := volume.Name, map[string]string(nil)
	if source := volume.Spec.CSI; source != nil {
		handle = source.VolumeHandle
		var err error
		if secrets, err = r.annotatedSecret(ctx, volume, deletionSecretName, deletionSecretNamespace); err != nil {
			return err
		}
	}
	call, err := r.driver(snap, volume.Annotations[provisionedBy], volume.Annotations[localNode], volume)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = csi.NewControllerClient(call.conn).DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: handle, Secrets: secrets})
	return err
}

func (r *provisioner) letGo(ctx context.Context, volume *corev1.PersistentVolume) error {
	if !slices.Contains(volume.Finalizers, provisionerFinalizer) {
		return nil
	}
	update := volume.DeepCopy()
	update.Finalizers = slices.DeleteFunc(update.Finalizers, func(f string) bool { return f == provisionerFinalizer })
	if _, err := client.Update(ctx, r.client, update); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

// sweep removes the folders of a node that were made for claims which went before their volume was stored. Only empty ones go:
// data is deleted by a reclaim policy or not at all.
func (r *provisioner) sweep(ctx context.Context, snap client.Snapshot, node string) error {
	if n, ok := client.From[*corev1.Node](r.client, snap, "", node); !ok || !nodeReady(n) {
		return nil
	}
	call, err := r.driver(snap, LocalProvisioner, node, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	folders := csi.NewControllerClient(call.conn)
	list, err := folders.ListVolumes(ctx, &csi.ListVolumesRequest{})
	if status.Code(err) == codes.Unimplemented {
		return nil // a simulated node has no disk
	}
	if err != nil {
		return fmt.Errorf("list folders of node %s: %w", node, err)
	}
	snap = r.client.Snapshot() // a claim is there before its folder
	wanted := map[string]bool{}
	for _, claim := range client.List[*corev1.PersistentVolumeClaim](r.client, snap, "", nil) {
		wanted[volumeName(claim)] = true
	}
	for _, e := range list.GetEntries() {
		name := e.GetVolume().GetVolumeId()
		_, stored := client.From[*corev1.PersistentVolume](r.client, snap, "", name)
		if stored || wanted[name] || !strings.HasPrefix(name, "pvc-") || e.GetVolume().GetVolumeContext()["empty"] != "true" {
			continue
		}
		if _, err := folders.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: name}); err != nil {
			return fmt.Errorf("remove folder %s of node %s: %w", name, node, err)
		}
	}
	return nil
}
