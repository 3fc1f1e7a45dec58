package agent

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/agent/lifecycle"
	"github.com/kebernetes/kebernetes/agent/spec"
	"github.com/kebernetes/kebernetes/client"
)

// seed sets what the node has granted a container before: what the API remembers, else what the spec says. The lock is held.
func (w *worker) seed(c *corev1.Container) {
	granted := corev1.ResourceRequirements{Limits: c.Resources.Limits, Requests: c.Resources.Requests}
	for _, list := range [][]corev1.ContainerStatus{w.pod.Status.ContainerStatuses, w.pod.Status.InitContainerStatuses} {
		for i := range list {
			if st := &list[i]; st.Name == c.Name && st.AllocatedResources != nil && st.Resources != nil {
				granted = corev1.ResourceRequirements{Limits: st.Resources.Limits, Requests: st.AllocatedResources}
			}
		}
	}
	w.state.Allocated[c.Name] = granted
	if r := w.state.Latest(c.Name); r != nil && r.Applied == nil {
		applied := granted
		r.Applied = &applied
	}
}

// allocate grants a pod the resources that its spec asks for now, if the node has them. The lock is held; others are the
// node's other pods.
func (w *worker) allocate(pod *corev1.Pod, others []*corev1.Pod) {
	changed := false
	each := func(list []corev1.Container) {
		for i := range list {
			a, ok := w.state.Allocated[list[i].Name]
			changed = changed || ok && !sameResources(a, list[i].Resources)
		}
	}
	each(pod.Spec.Containers)
	each(pod.Spec.InitContainers)
	if !changed {
		w.state.Resize = nil
		return
	}
	n, ok := client.From[*corev1.Node](w.a.Client, w.a.Client.Snapshot(), "", w.a.NodeName)
	if !ok {
		n = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: w.a.NodeName}, Status: corev1.NodeStatus{Allocatable: w.a.keeper.Allocatable}}
	}
	if refused := lifecycle.AdmitResize(pod, n, others); refused != nil {
		w.state.Resize = refused
		return
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			w.state.Allocated[list[i].Name] = corev1.ResourceRequirements{Limits: list[i].Resources.Limits, Requests: list[i].Resources.Requests}
		}
	}
	w.state.Resize = &corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue}
}

func sameResources(a, b corev1.ResourceRequirements) bool {
	return equality.Semantic.DeepEqual(a.Limits, b.Limits) && equality.Semantic.DeepEqual(a.Requests, b.Requests)
}

// settled says whether every running container has what was granted. The lock is held.
func (w *worker) settled() bool {
	for name, granted := range w.state.Allocated {
		if r := w.state.Latest(name); r == nil || r.Phase != lifecycle.Running || r.Applied == nil || !sameResources(granted, *r.Applied) {
			return false
		}
	}
	return true
}

// waits says whether the pod waits for room to be resized.
func (w *worker) waits() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.Resize != nil && w.state.Resize.Type == corev1.PodResizePending
}

// reconsider asks again for a resize that the node had no room for.
func (w *worker) reconsider(others []*corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.state.Resize; r != nil && r.Type == corev1.PodResizePending {
		w.allocate(w.pod, others)
		w.poke()
	}
}

// resizeContainer gives a running container what was granted, within the pod's own group.
func (w *worker) resizeContainer(ctx context.Context, action lifecycle.Action) {
	pod, name, id := w.pod, action.Container, action.ID
	granted := w.state.Allocated[name]
	c := find(pod, name)
	w.do(ctx, action.Key, func(ctx context.Context) func() {
		err := w.applyResources(ctx, pod, c, id, granted)
		return func() {
			r := w.state.Find(id)
			if r == nil {
				return
			}
			if err != nil {
				if ctx.Err() == nil {
					w.tell(pod, name, corev1.EventTypeWarning, "ResizeError", err.Error())
					w.state.Resize = &corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue, Reason: corev1.PodReasonError, Message: err.Error()}
					// Not again before the spec changes.
					r.Applied = &granted
				}
				return
			}
			r.Applied = &granted
		}
	})
}

func (w *worker) applyResources(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id string, granted corev1.ResourceRequirements) error {
	want := spec.Resources(pod, c, granted, w.a.oom, w.a.groups != nil && w.a.groups.V2)
	// The score of a running process stays as it was when it started.
	want.OomScoreAdj = 0
	if w.a.groups == nil {
		return w.a.Runtime.UpdateContainerResources(ctx, id, want)
	}
	group, limits := w.a.groups.Pod(string(pod.UID), lifecycle.QOS(pod)), podLimits(pod)
	// The pod's group must never be smaller than its container's: it grows first and shrinks last. Setting it before and after
	// does both; a value that the kernel refuses before, because more is in use, it takes after.
	before := w.a.groups.Ensure(group, limits)
	if err := w.a.Runtime.UpdateContainerResources(ctx, id, want); err != nil {
		return fmt.Errorf("resize container %s: %w", c.Name, err)
	}
	if before == nil {
		return nil
	}
	return w.a.groups.Ensure(group, limits)
}
