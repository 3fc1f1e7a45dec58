package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/ephemeral"
)

// Request is a volume that lies outside of the pod, on its way to the one who mounts it.
type Request struct {
	Pod *corev1.Pod
	// Volume is the pod's word on it.
	Volume *corev1.Volume
	// Claim and PV are the volume's claim and what it is bound to; nil when the pod itself names the source.
	Claim *corev1.PersistentVolumeClaim
	PV    *corev1.PersistentVolume
	// Name of the volume in messages and on disk: the PV's, or the one in the pod.
	Name string
	// ReadOnly: the pod's volume source says so.
	ReadOnly bool
	// Dir is the volume's own directory of this pod; whoever mounts makes it.
	Dir string
}

// AccessModes are the PV's; a volume that the pod names itself has none.
func (r *Request) AccessModes() []corev1.PersistentVolumeAccessMode {
	if r.PV == nil {
		return nil
	}
	return r.PV.Spec.AccessModes
}

// Device says whether containers are to get the raw device.
func (r *Request) Device() bool {
	return r.PV != nil && r.PV.Spec.VolumeMode != nil && *r.PV.Spec.VolumeMode == corev1.PersistentVolumeBlock
}

// mountOptionsAnnotation named mount options before there was a field for them.
const mountOptionsAnnotation = "volume.beta.kubernetes.io/mount-options"

// Options are mount(8)'s, as the PV gives them.
func (r *Request) Options() []string {
	if r.PV == nil {
		return nil
	}
	if old, ok := r.PV.Annotations[mountOptionsAnnotation]; ok {
		return append([]string{old}, r.PV.Spec.MountOptions...)
	}
	return slices.Clone(r.PV.Spec.MountOptions)
}

// mountOutside mounts what is not the pod's own: it follows the claim, if there is one, to the volume behind it.
func (m *Mounter) mountOutside(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (Mounted, error) {
	r := &Request{Pod: pod, Volume: v, Name: v.Name}
	if v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
		if err := m.follow(ctx, r); err != nil {
			return Mounted{}, err
		}
	}
	kind, mount := m.how(r)
	if mount == nil {
		return Mounted{}, fmt.Errorf("MountVolume.SetUp failed for volume %q : no volume plugin matched", r.Name)
	}
	r.Dir = filepath.Join(m.PodDir(pod.UID), "volumes", kind, r.Name)
	// One pod may name one claim twice.
	m.dirs.LockKey(r.Dir)
	defer func() { _ = m.dirs.UnlockKey(r.Dir) }() // a hashed lock's UnlockKey has no errors
	if err := m.alone(r, kind); err != nil {
		return Mounted{}, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", r.Name, err)
	}
	mounted, err := mount(ctx, r)
	if err != nil {
		var step *stepError
		if errors.As(err, &step) {
			return Mounted{}, fmt.Errorf("%s for volume %q : %w", step.what, r.Name, step.err)
		}
		return Mounted{}, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", r.Name, err)
	}
	mounted.ReadOnly = mounted.ReadOnly || r.ReadOnly
	mounted.Device = r.Device()
	return mounted, nil
}

// stepError is a failure before the mount itself, which upstream names otherwise: "MountVolume.MountDevice failed".
type stepError struct {
	what string
	err  error
}

func (e *stepError) Error() string { return e.what + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// Step words an error of a Plugin that does not belong to MountVolume.SetUp: what is "MountVolume.MountDevice failed".
func Step(what string, err error) error { return &stepError{what, err} }

// how finds who mounts a request, and the directory of its kind.
func (m *Mounter) how(r *Request) (kind string, mount func(context.Context, *Request) (Mounted, error)) {
	switch {
	case r.PV != nil && r.PV.Spec.HostPath != nil:
		return "kubernetes.io~host-path", func(_ context.Context, r *Request) (Mounted, error) { return m.hostPath(r.PV.Spec.HostPath) }
	case r.PV != nil && r.PV.Spec.Local != nil:
		return "kubernetes.io~local-volume", m.local
	case r.Volume.NFS != nil || r.PV != nil && r.PV.Spec.NFS != nil:
		return "kubernetes.io~nfs", m.nfs
	}
	for _, p := range m.Plugins {
		if p.Supports(r) {
			return p.Kind(), p.Mount
		}
	}
	return "", nil
}

// follow finds the volume behind a request's claim, and whether this pod on this node may use it. The texts are upstream's.
func (m *Mounter) follow(ctx context.Context, r *Request) error {
	pod, v := r.Pod, r.Volume
	name := ""
	if s := v.PersistentVolumeClaim; s != nil {
		name, r.ReadOnly = s.ClaimName, s.ReadOnly
	} else {
		name = ephemeral.VolumeClaimName(pod, v)
	}
	fail := func(err error) error {
		//lint:ignore ST1005 users look for upstream's words
		return fmt.Errorf("Unable to attach or mount volumes: unmounted volumes=[%s], unattached volumes=[], failed to process volumes=[%s]: "+
			"error processing PVC %s/%s: %w", v.Name, v.Name, pod.Namespace, name, err)
	}
	claim, err := m.Objects.Claim(ctx, pod.Namespace, name)
	if err != nil {
		return fail(fmt.Errorf("failed to fetch PVC from API server: %w", err))
	}
	if v.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return fail(err)
		}
	}
	switch {
	case claim.DeletionTimestamp != nil:
		return fail(errors.New("PVC is being deleted"))
	case !bound(claim):
		return fail(errors.New("PVC is not bound"))
	}
	if r.PV, err = m.Objects.PersistentVolume(ctx, claim.Spec.VolumeName); err != nil {
		return fail(fmt.Errorf("failed to fetch PV %s from API server: %w", claim.Spec.VolumeName, err))
	}
	if ref := r.PV.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		return fail(fmt.Errorf("PV %s is not bound to the claim", r.PV.Name))
	}
	r.Name, r.Claim = r.PV.Name, claim
	if err := usedAs(pod, v.Name, r.Device()); err != nil {
		return fail(err)
	}
	return m.reachable(ctx, r)
}

// bindCompleted is what the binder annotates claims with once both sides name each other; it writes the phase last.
const bindCompleted = "pv.kubernetes.io/bind-completed"

// bound says whether a claim has its volume. The scheduler sends pods as soon as binding is completed: one whose node then waited for the
// phase, too, would fail to mount for once, and start half a second late.
func bound(claim *corev1.PersistentVolumeClaim) bool {
	if claim.Spec.VolumeName == "" {
		return false
	}
	return claim.Status.Phase == corev1.ClaimBound || claim.Status.Phase != corev1.ClaimLost && claim.Annotations[bindCompleted] != ""
}

// reachable says why a PV cannot be used on this node.
func (m *Mounter) reachable(ctx context.Context, r *Request) error {
	if r.PV.Spec.NodeAffinity == nil || r.PV.Spec.NodeAffinity.Required == nil {
		return nil
	}
	fail := func(err error) error {
		return fmt.Errorf("MountVolume.NodeAffinity check failed for volume %q : %w", r.Name, err)
	}
	node, err := m.Objects.Node(ctx)
	if err != nil {
		return fail(err)
	}
	terms, err := nodeaffinity.NewNodeSelector(r.PV.Spec.NodeAffinity.Required)
	if err != nil {
		return fail(err)
	}
	if !terms.Match(node) {
		return fail(errors.New("no matching NodeSelectorTerms"))
	}
	return nil
}

// usedAs checks that containers take a raw device as a device, and a file system as a mount.
func usedAs(pod *corev1.Pod, volume string, device bool) error {
	check := func(mounts []corev1.VolumeMount, devices []corev1.VolumeDevice) error {
		if device && slices.ContainsFunc(mounts, func(vm corev1.VolumeMount) bool { return vm.Name == volume }) {
			return fmt.Errorf("volume %s has volumeMode Block, but is specified in volumeMounts", volume)
		}
		if !device && slices.ContainsFunc(devices, func(d corev1.VolumeDevice) bool { return d.Name == volume }) {
			return fmt.Errorf("volume %s has volumeMode Filesystem, but is specified in volumeDevices", volume)
		}
		return nil
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if err := check(c.VolumeMounts, c.VolumeDevices); err != nil {
			return err
		}
	}
	return nil
}

// alone holds ReadWriteOncePod: no other pod of this node may have the volume.
func (m *Mounter) alone(r *Request, kind string) error {
	if !slices.Contains(r.AccessModes(), corev1.ReadWriteOncePod) {
		return nil
	}
	uids, err := m.Pods()
	if err != nil {
		return err
	}
	for _, uid := range uids {
		if uid == r.Pod.UID {
			continue
		}
		if _, err := os.Lstat(filepath.Join(m.PodDir(uid), "volumes", kind, r.Name)); err == nil {
			return errors.New("volume uses the ReadWriteOncePod access mode and is already in use by another pod")
		}
	}
	return nil
}
