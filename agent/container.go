package agent

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/agent/image"
	"github.com/kebernetes/kebernetes/agent/lifecycle"
	"github.com/kebernetes/kebernetes/agent/spec"
	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/cri"
	"github.com/kebernetes/kebernetes/volume"
)

// Waits after a failed pull, upstream's; configRetry is how soon a container that could not be made is tried again when
// nothing that it reads has changed.
const (
	firstPullRetry = 10 * time.Second
	lastPullRetry  = 5 * time.Minute
	configRetry    = 10 * time.Second
)

func splitPath(p string) iter.Seq[string] { return strings.SplitSeq(p, "/") }

// podWithIPs is the pod with the addresses that it has by now, for what the downward API shows. The lock is held.
func (w *worker) podWithIPs() *corev1.Pod {
	pod := *w.pod
	pod.Status.PodIP, pod.Status.PodIPs = "", nil
	for i, ip := range lifecycle.PodIPs(w.pod, w.state, *w.a.host.Load()) {
		if i == 0 {
			pod.Status.PodIP = ip
		}
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	pod.Status.HostIP, pod.Status.HostIPs = "", nil
	for i, ip := range w.a.host.Load().IPs {
		if i == 0 {
			pod.Status.HostIP = ip
		}
		pod.Status.HostIPs = append(pod.Status.HostIPs, corev1.HostIP{IP: ip})
	}
	return &pod
}

// pullSecrets reads the pod's pull secrets; those that are missing are left out, as upstream does.
func (w *worker) pullSecrets(ctx context.Context, pod *corev1.Pod) []*corev1.Secret {
	var out []*corev1.Secret
	for _, ref := range pod.Spec.ImagePullSecrets {
		if s, err := client.Get[*corev1.Secret](ctx, w.a.Client, pod.Namespace, ref.Name); err == nil {
			out = append(out, s)
		} else if ctx.Err() == nil {
			w.a.Recorder.EventAt(pod, "", corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name)
		}
	}
	return out
}

// pullImage satisfies a container's pull policy.
func (w *worker) pullImage(ctx context.Context, action lifecycle.Action) {
	pod, name := w.pod, action.Container
	c := find(pod, name)
	w.do(ctx, action.Key, func(ctx context.Context) func() {
		ref, info, failure := w.a.puller.Ensure(ctx, image.Request{Image: c.Image, Policy: c.ImagePullPolicy, Secrets: w.pullSecrets(ctx, pod)},
			func(eventType, reason, message string) { w.tell(pod, name, eventType, reason, message) })
		if failure == nil {
			if err := spec.CheckNonRoot(pod, c, info); err != nil {
				failure = &image.Error{Reason: "CreateContainerConfigError", Message: err.Error()}
			}
		}
		return func() {
			if failure == nil {
				w.a.keeper.ImagesChanged()
				delete(w.pulls, name)
				w.state.Images[name] = ref
				return
			}
			if ctx.Err() != nil {
				return
			}
			delay := configRetry
			if failure.Reason == "ErrImagePull" {
				delay = min(max(2*w.pulls[name], firstPullRetry), lastPullRetry)
				w.pulls[name] = delay
			}
			text := failure.Reason
			if text == "CreateContainerConfigError" {
				text = failure.Message
			}
			w.tell(pod, name, corev1.EventTypeWarning, "Failed", "Error: "+text)
			w.state.Waiting[name] = &lifecycle.Failure{Reason: failure.Reason, Message: failure.Message, Delay: delay, Retry: time.Now().Add(delay)}
		}
	})
}

// holdBack notes why a container waits.
func (w *worker) holdBack(action lifecycle.Action) {
	name := action.Container
	f := &lifecycle.Failure{Reason: action.Reason, Message: action.Message, Retry: action.Deadline}
	if old := w.state.Waiting[name]; old != nil {
		f.Delay = old.Delay
	}
	w.state.Waiting[name] = f
	if action.Reason == "ImagePullBackOff" {
		c := find(w.pod, name)
		w.tell(w.pod, name, corev1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", c.Image))
		w.tell(w.pod, name, corev1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
		return
	}
	w.tell(w.pod, name, corev1.EventTypeWarning, "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s", name, lifecycle.PodText(w.pod)))
}

// launch is what startContainer needs, taken under the lock.
type launch struct {
	pod       *corev1.Pod
	c         *corev1.Container
	attempt   uint32
	image     string
	sandbox   string
	config    *rt.PodSandboxConfig
	mounts    map[string]volume.Mounted
	images    map[string]string
	resources corev1.ResourceRequirements
	target    string
}

// startContainer makes and starts a container; then its postStart hook and its probes begin.
func (w *worker) startContainer(ctx context.Context, action lifecycle.Action) {
	name := action.Container
	l := launch{pod: w.podWithIPs(), attempt: action.Attempt, image: w.state.Images[name], config: w.config,
		mounts: maps.Clone(w.mounts), images: w.images}
	l.c = find(l.pod, name)
	l.sandbox = w.state.Current().ID
	l.resources = l.c.Resources
	if a, ok := w.state.Allocated[name]; ok {
		l.resources = a
	}
	for _, e := range l.pod.Spec.EphemeralContainers {
		if e.Name == name && e.TargetContainerName != "" {
			if t := w.state.Latest(e.TargetContainerName); t != nil {
				l.target = t.ID
			}
		}
	}
	w.do(ctx, action.Key, func(ctx context.Context) func() {
		record, reason, err := w.launch(ctx, l)
		return func() {
			delete(w.state.Images, name)
			if errors.Is(err, context.Canceled) {
				return // the pod's end came first
			}
			if record != nil {
				w.merge(record)
				w.state.Backoff[name] = action.Backoff
			}
			if err != nil {
				w.tell(l.pod, name, corev1.EventTypeWarning, "Failed", "Error: "+cri.Message(err))
				w.state.Waiting[name] = &lifecycle.Failure{Reason: reason, Message: cri.Message(err)}
				if record == nil {
					w.state.Waiting[name].Retry = time.Now().Add(configRetry)
				}
				return
			}
			delete(w.state.Waiting, name)
			w.started(l.c, record)
		}
	})
}

// started begins what accompanies a container that was just started.
func (w *worker) started(c *corev1.Container, record *lifecycle.Container) {
	r := w.state.Find(record.ID)
	if r == nil || r.Phase != lifecycle.Running {
		return
	}
	applied := w.state.Allocated[c.Name]
	r.Applied = &corev1.ResourceRequirements{Limits: applied.Limits, Requests: applied.Requests}
	if w.config.GetLogDirectory() != "" {
		w.paths[r.ID] = filepath.Join(w.config.LogDirectory, c.Name, fmt.Sprintf("%d.log", r.Attempt))
	}
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		r.PostStart = true
		w.postStart(c, r)
		return
	}
	w.watch(c, r)
}

// launch creates and starts one container. The reason goes with err; a record comes with it when the runtime holds the
// container that failed.
func (w *worker) launch(ctx context.Context, l launch) (record *lifecycle.Container, reason string, err error) {
	config, err := w.containerConfig(ctx, l)
	if err != nil {
		return nil, "CreateContainerConfigError", err
	}
	done, err := w.turn(containerTurn, l.pod)
	if err != nil {
		return nil, "", err
	}
	defer done()
	id, err := w.a.Runtime.CreateContainer(ctx, l.sandbox, config, l.config)
	if err != nil {
		return nil, "CreateContainerError", err
	}
	// The container is known before it runs, so that the event of an early end finds it.
	w.mu.Lock()
	w.merge(&lifecycle.Container{ID: id, Name: l.c.Name, Sandbox: l.sandbox, Attempt: int32(l.attempt), CreatedAt: time.Now(),
		Phase: lifecycle.Created, Hash: lifecycle.Hash(l.c), Image: l.c.Image})
	w.mu.Unlock()
	w.tell(l.pod, l.c.Name, corev1.EventTypeNormal, "Created", "Container created")
	startErr := w.a.Runtime.StartContainer(ctx, id)
	if startErr == nil {
		w.tell(l.pod, l.c.Name, corev1.EventTypeNormal, "Started", "Container started")
	}
	status, err := w.a.Runtime.ContainerStatus(ctx, id)
	if startErr != nil && (err != nil || status.State != rt.ContainerState_CONTAINER_EXITED) {
		// Nothing of it ran and the runtime does not remember the failure: it shall not stay as half a container.
		if err := w.a.Runtime.RemoveContainer(context.WithoutCancel(ctx), id); err != nil {
			w.a.Logger.Warn("container that did not start stays", "container", id, "err", err)
		}
		w.mu.Lock()
		w.drop(l.c.Name, id)
		w.mu.Unlock()
		return nil, "RunContainerError", startErr
	}
	if err != nil {
		// It runs; what the runtime says of it comes with its next event.
		now := time.Now()
		return &lifecycle.Container{ID: id, Name: l.c.Name, Sandbox: l.sandbox, Attempt: int32(l.attempt), CreatedAt: now, StartedAt: now,
			Phase: lifecycle.Running, Hash: lifecycle.Hash(l.c), Image: l.c.Image, ImageRef: l.image}, "", nil
	}
	return w.a.record(status, l.sandbox), "RunContainerError", startErr
}

// drop forgets a container; the lock is held.
func (w *worker) drop(name, id string) {
	records := w.state.Containers[name]
	for i, c := range records {
		if c.ID == id {
			w.state.Containers[name] = append(records[:i:i], records[i+1:]...)
			return
		}
	}
}

// containerConfig puts a container's configuration together.
func (w *worker) containerConfig(ctx context.Context, l launch) (*rt.ContainerConfig, error) {
	vars, err := spec.Environment(ctx, l.pod, l.c, w.a.services(l.pod), objects{w.a})
	if err != nil {
		return nil, err
	}
	values := make(map[string]string, len(vars))
	for _, v := range vars {
		values[v.Key] = string(v.Value)
	}
	lookup := func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	mounts, err := w.mountsOf(l.pod, l.c, l.attempt, lookup, l.mounts, l.images)
	if err != nil {
		return nil, err
	}
	devices, err := devicesOf(l.c, l.mounts)
	if err != nil {
		return nil, err
	}
	return spec.Config(l.pod, spec.Container{
		Spec: l.c, Devices: devices, Attempt: l.attempt, Image: l.image, Env: vars, Mounts: mounts, Lookup: lookup, TargetID: l.target,
		Resources: spec.Resources(l.pod, l.c, l.resources, w.a.oom, w.a.groups != nil && w.a.groups.V2),
	}, w.input(l.pod, 0))
}

// services lists what a pod's environment may point at.
func (a *Agent) services(pod *corev1.Pod) []*corev1.Service {
	snapshot := a.Client.Snapshot()
	var out []*corev1.Service
	if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
		out = client.List[*corev1.Service](a.Client, snapshot, pod.Namespace, nil)
	}
	if s, ok := client.From[*corev1.Service](a.Client, snapshot, corev1.NamespaceDefault, "kubernetes"); ok {
		out = append(out, s)
	}
	return out
}
