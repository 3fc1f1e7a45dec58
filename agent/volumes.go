package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/agent/image"
	"github.com/kebernetes/kebernetes/agent/lifecycle"
	"github.com/kebernetes/kebernetes/agent/spec"
	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/volume"
)

// objects is where volumes and environments read the cluster.
type objects struct{ a *Agent }

var (
	_ volume.Objects = objects{}
	_ spec.Sources   = objects{}
)

func (o objects) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	cm, err := client.Get[*corev1.ConfigMap](ctx, o.a.Client, namespace, name)
	return cm, singular(err, "configmap", name)
}

func (o objects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	s, err := client.Get[*corev1.Secret](ctx, o.a.Client, namespace, name)
	return s, singular(err, "secret", name)
}

func (o objects) Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	return client.Get[*corev1.PersistentVolumeClaim](ctx, o.a.Client, namespace, name)
}

func (o objects) PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	return client.Get[*corev1.PersistentVolume](ctx, o.a.Client, "", name)
}

func (o objects) Node(ctx context.Context) (*corev1.Node, error) {
	return client.Get[*corev1.Node](ctx, o.a.Client, "", o.a.NodeName)
}

// singular words "not found" as a kubelet does, whose users look for `configmap "x" not found`.
func singular(err error, kind, name string) error {
	if apierrors.IsNotFound(err) {
		return apierrors.NewNotFound(schema.GroupResource{Resource: kind}, name)
	}
	return err
}

func (o objects) Allocatable() corev1.ResourceList { return o.a.keeper.Allocatable }

// Token asks for a token of the pod's service account that dies with the pod.
func (o objects) Token(ctx context.Context, pod *corev1.Pod, audiences []string, seconds int64) (*authenticationv1.TokenRequestStatus, error) {
	k := client.KindOf[*corev1.ServiceAccount](o.a.Client)
	answer, err := o.a.Client.Post(ctx, k, pod.Namespace, pod.Spec.ServiceAccountName, "token", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{
			Audiences: audiences, ExpirationSeconds: &seconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		},
	})
	if err != nil {
		return nil, err
	}
	issued, ok := answer.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, fmt.Errorf("token request of %s/%s: answered with %T", pod.Namespace, pod.Spec.ServiceAccountName, answer)
	}
	return &issued.Status, nil
}

// handler finds the runtime handler of a runtime class.
func (a *Agent) handler(ctx context.Context, class string) (string, error) {
	if a.Client.Table().Type(reflect.TypeFor[*nodev1.RuntimeClass]()) == nil {
		return "", fmt.Errorf("RuntimeClass %q not found", class)
	}
	rc, err := client.Get[*nodev1.RuntimeClass](ctx, a.Client, "", class)
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("RuntimeClass %q not found", class)
	}
	if err != nil {
		return "", err
	}
	return rc.Handler, nil
}

// noVolumes is a simulated node's: every volume is there, and nothing is on disk.
type noVolumes struct{}

func (noVolumes) Mount(context.Context, *corev1.Pod, *corev1.Volume) (volume.Mounted, error) {
	return volume.Mounted{}, nil
}
func (noVolumes) Unmount(context.Context, types.UID) error { return nil }
func (noVolumes) SubPath(types.UID, string, string, int, string, string, bool) (string, error) {
	return "", nil
}
func (noVolumes) Pods() ([]types.UID, error) { return nil, nil }

// Waits after a failed mount: upstream's 500 ms doubling to two minutes.
const (
	firstMountRetry = 500 * time.Millisecond
	lastMountRetry  = 2*time.Minute + 2*time.Second
)

// mountVolumes mounts all volumes at the same time.
func (w *worker) mountVolumes(ctx context.Context, action lifecycle.Action) {
	pod := w.pod
	w.do(ctx, action.Key, func(ctx context.Context) func() {
		mounts, images, errs := w.mountAll(ctx, pod)
		return func() {
			if len(errs) > 0 {
				if ctx.Err() != nil {
					return
				}
				delay := firstMountRetry
				if f := w.state.VolumeFailure; f != nil {
					delay = min(2*f.Delay, lastMountRetry)
				}
				for _, err := range errs {
					w.tellMount(err)
				}
				w.state.VolumeFailure = &lifecycle.Failure{Reason: "FailedMount", Message: errors.Join(errs...).Error(), Delay: delay, Retry: time.Now().Add(delay)}
				return
			}
			w.mounts, w.images = mounts, images
			w.state.Volumes, w.state.VolumeFailure = true, nil
			w.setRefresh()
		}
	})
}

// mountAll mounts all volumes, each whether or not others fail: an attachment that takes minutes is not given up for a typing error.
func (w *worker) mountAll(ctx context.Context, pod *corev1.Pod) (map[string]volume.Mounted, map[string]string, []error) {
	var (
		mu   sync.Mutex
		wait sync.WaitGroup
		errs []error
	)
	mounts, images := map[string]volume.Mounted{}, map[string]string{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		wait.Go(func() {
			m, ref, err := w.mountOne(ctx, pod, v)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			if mounts[v.Name] = m; ref != "" {
				images[v.Name] = ref
			}
		})
	}
	wait.Wait()
	return mounts, images, errs
}

func (w *worker) mountOne(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (m volume.Mounted, imageRef string, err error) {
	if v.Image == nil {
		m, err = w.a.Volumes.Mount(ctx, pod, v)
		return m, "", err
	}
	if imageRef, err = w.volumeImage(ctx, pod, v.Image); err != nil {
		return volume.Mounted{}, "", &imageVolumeError{v.Name, err}
	}
	return volume.Mounted{ReadOnly: true}, imageRef, nil
}

// imageVolumeError is why an image volume is not there; err is an *image.Error.
type imageVolumeError struct {
	volume string
	err    error
}

func (e *imageVolumeError) Error() string { return e.err.Error() }
func (e *imageVolumeError) Unwrap() error { return e.err }

// tellMount tells why a volume is not there: by an event, or where it is an image whose pull was told of already, by the state of the
// containers that mount it. The lock is held.
func (w *worker) tellMount(err error) {
	var of *imageVolumeError
	var why *image.Error
	if !errors.As(err, &of) || !errors.As(err, &why) {
		w.event(corev1.EventTypeWarning, "FailedMount", err.Error())
		return
	}
	for _, list := range [][]corev1.Container{w.pod.Spec.InitContainers, w.pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			if !slices.ContainsFunc(c.VolumeMounts, func(vm corev1.VolumeMount) bool { return vm.Name == of.volume }) {
				continue
			}
			w.tell(w.pod, c.Name, corev1.EventTypeWarning, "Failed", "Error: "+why.Reason)
			w.state.Waiting[c.Name] = &lifecycle.Failure{Reason: why.Reason, Message: why.Message, Retry: time.Now()}
		}
	}
}

// volumeImage pulls the image of an image volume.
func (w *worker) volumeImage(ctx context.Context, pod *corev1.Pod, s *corev1.ImageVolumeSource) (string, error) {
	ref, _, failure := w.a.puller.Ensure(ctx, image.Request{Image: s.Reference, Policy: s.PullPolicy, Secrets: w.pullSecrets(ctx, pod)},
		func(eventType, reason, message string) {
			w.a.Recorder.EventAt(pod, "", eventType, reason, "%s", message)
		})
	if failure != nil {
		return "", failure
	}
	w.a.keeper.ImagesChanged()
	return ref, nil
}

// setRefresh notes when the first volume's contents grow old.
func (w *worker) setRefresh() {
	w.refreshAt = time.Time{}
	for _, m := range w.mounts {
		w.refreshAt = earlier(w.refreshAt, m.Refresh)
	}
}

// refresh brings the contents of live volumes up to date.
func (w *worker) refresh(ctx context.Context) {
	if w.state.Busy[lifecycle.KeyVolumes] || w.state.Kill != nil {
		return
	}
	pod := w.podWithIPs()
	var live []*corev1.Volume
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; volume.Live(v) || !w.mounts[v.Name].Refresh.IsZero() {
			live = append(live, v)
		}
	}
	w.do(ctx, lifecycle.KeyVolumes, func(ctx context.Context) func() {
		fresh := map[string]volume.Mounted{}
		failed := false
		for _, v := range live {
			m, err := w.a.Volumes.Mount(ctx, pod, v)
			if err != nil {
				if ctx.Err() == nil {
					w.a.Recorder.EventAt(pod, "", corev1.EventTypeWarning, "FailedMount", "%s", err.Error())
				}
				failed = true
				continue
			}
			fresh[v.Name] = m
		}
		return func() {
			for name, m := range fresh {
				w.mounts[name] = m
			}
			w.setRefresh()
			if failed {
				w.refreshAt = earlier(w.refreshAt, time.Now().Add(time.Minute))
			}
		}
	})
}

// resyncEvery is how often contents are looked at when a resource's events do not come here.
const resyncEvery = time.Minute

// follow refreshes the volumes, and retries the containers, of pods that read an object that changes.
func (a *Agent) follow(ctx context.Context, resource, kind string) {
	if a.Follower == nil && !a.Client.Mirrors(resource) {
		tick := time.NewTicker(resyncEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				for _, w := range a.all() {
					w.stale(kind, "", "")
				}
			}
		}
	}
	for ctx.Err() == nil {
		watch, err := a.Client.Watch(resource, a.Client.Snapshot().Revision())
		for err == nil {
			var events []client.Event
			if events, _, err = watch.Next(ctx); err != nil {
				break
			}
			for _, e := range events {
				for _, w := range a.all() {
					w.stale(kind, e.Item.Key.Namespace, e.Item.Key.Name)
				}
			}
		}
		if errors.Is(err, client.ErrClosed) {
			return
		}
		if ctx.Err() == nil {
			// Events were lost: every pod looks once.
			for _, w := range a.all() {
				w.stale(kind, "", "")
			}
		}
	}
}

// stale tells the worker that an object changed; an empty name means any.
func (w *worker) stale(kind, namespace, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if namespace != "" && w.pod.Namespace != namespace || ended(w.pod) {
		return
	}
	now := time.Now()
	for _, f := range w.state.Waiting {
		if f.Reason == "CreateContainerConfigError" && f.Retry.After(now) {
			f.Retry = now
			w.poke()
		}
	}
	if name != "" && !volume.Reads(w.pod, kind, name) {
		return
	}
	if f := w.state.VolumeFailure; f != nil {
		f.Retry = now
	}
	w.refreshAt = now
	w.poke()
}

// mountsOf lists a container's mounts for the runtime.
func (w *worker) mountsOf(pod *corev1.Pod, c *corev1.Container, attempt uint32, lookup func(string) (string, bool), mounts map[string]volume.Mounted, images map[string]string) ([]*rt.Mount, error) {
	var out []*rt.Mount
	ownHosts := false
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		mounted, ok := mounts[vm.Name]
		if !ok {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, c.Name)
		}
		target := vm.MountPath
		if !filepath.IsAbs(target) {
			target = filepath.Join("/", target)
		}
		ownHosts = ownHosts || target == "/etc/hosts"
		m := &rt.Mount{ContainerPath: target, HostPath: mounted.Path, Readonly: vm.ReadOnly || mounted.ReadOnly, Propagation: propagation(vm)}
		sub, err := subPath(pod, c, vm, lookup)
		if err != nil {
			return nil, err
		}
		switch {
		case images[vm.Name] != "":
			m.Image, m.ImageSubPath = &rt.ImageSpec{Image: images[vm.Name]}, sub
		case sub != "":
			if m.HostPath, err = w.a.Volumes.SubPath(pod.UID, vm.Name, c.Name, i, mounted.Path, sub, m.Readonly); err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", vm.Name, c.Name, err)
			}
		}
		if m.RecursiveReadOnly, err = w.recursive(vm); err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	if w.a.Dir == "" {
		return nil, nil
	}
	own, err := w.ownFiles(pod, c, attempt, !ownHosts)
	return append(out, own...), err
}

// devicesOf lists the raw devices that a container gets.
func devicesOf(c *corev1.Container, mounts map[string]volume.Mounted) ([]*rt.Device, error) {
	var out []*rt.Device
	for _, d := range c.VolumeDevices {
		mounted, ok := mounts[d.Name]
		if !ok || !mounted.Device {
			return nil, fmt.Errorf("cannot find volume %q to pass into container %q", d.Name, c.Name)
		}
		permissions := "mrw"
		if mounted.ReadOnly {
			permissions = "r"
		}
		out = append(out, &rt.Device{HostPath: mounted.Path, ContainerPath: d.DevicePath, Permissions: permissions})
	}
	return out, nil
}

func propagation(vm *corev1.VolumeMount) rt.MountPropagation {
	if vm.MountPropagation != nil {
		switch *vm.MountPropagation {
		case corev1.MountPropagationHostToContainer:
			return rt.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		case corev1.MountPropagationBidirectional:
			return rt.MountPropagation_PROPAGATION_BIDIRECTIONAL
		}
	}
	return rt.MountPropagation_PROPAGATION_PRIVATE
}

func (w *worker) recursive(vm *corev1.VolumeMount) (bool, error) {
	if !vm.ReadOnly || vm.RecursiveReadOnly == nil {
		return false, nil
	}
	able := w.a.readOnlyMounts.Load()
	if *vm.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled && !able {
		return false, fmt.Errorf("recursive read-only mount of volume %q is not supported by the container runtime", vm.Name)
	}
	return able && *vm.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled, nil
}

// subPath is the path inside a volume that a mount wants, expanded.
func subPath(pod *corev1.Pod, c *corev1.Container, vm *corev1.VolumeMount, lookup func(string) (string, bool)) (string, error) {
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		missing := ""
		sub = spec.Expand(vm.SubPathExpr, func(name string) (string, bool) {
			v, ok := lookup(name)
			if !ok {
				missing = name
			}
			return v, ok
		})
		if missing != "" {
			return "", fmt.Errorf("missing value for %q", missing)
		}
	}
	if filepath.IsAbs(sub) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	}
	for part := range splitPath(sub) {
		if part == ".." {
			return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", sub)
		}
	}
	return sub, nil
}
