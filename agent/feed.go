package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"github.com/kebernetes/kebernetes/agent/lifecycle"
	"github.com/kebernetes/kebernetes/agent/spec"
	"github.com/kebernetes/kebernetes/client"
)

// feed hands the node's pods to their workers until ctx ends. The first round adopts what the runtime has.
func (a *Agent) feed(ctx context.Context) error {
	resource := client.ResourceOf[*corev1.Pod](a.Client)
	first := true
	for {
		snapshot := a.Client.Snapshot()
		var pods []*corev1.Pod
		for _, p := range client.List[*corev1.Pod](a.Client, snapshot, "", nil) {
			if p.Spec.NodeName == a.NodeName {
				pods = append(pods, p)
			}
		}
		slices.SortStableFunc(pods, func(x, y *corev1.Pod) int { return x.CreationTimestamp.Compare(y.CreationTimestamp.Time) })
		if first {
			if err := a.adopt(ctx, pods); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			first = false
		}
		a.replace(ctx, pods)
		err := a.watch(ctx, resource, snapshot.Revision())
		if ctx.Err() != nil || errors.Is(err, client.ErrClosed) {
			return nil
		}
		if !errors.Is(err, client.ErrCompacted) {
			return fmt.Errorf("watch pods: %w", err)
		}
	}
}

func (a *Agent) watch(ctx context.Context, resource string, after int64) error {
	w, err := a.Client.Watch(resource, after)
	if err != nil {
		return err
	}
	for {
		events, _, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			pod := e.Item.Object.(*corev1.Pod)
			if pod.Spec.NodeName != a.NodeName {
				continue
			}
			if e.Type == client.Delete {
				a.gone(pod)
			} else {
				a.put(ctx, pod)
			}
		}
	}
}

// replace brings the workers in line with a whole list.
func (a *Agent) replace(ctx context.Context, pods []*corev1.Pod) {
	there := map[types.UID]bool{}
	for _, p := range pods {
		there[p.UID] = true
		a.put(ctx, p)
	}
	for _, w := range a.all() {
		if !there[w.uid] {
			w.gone(nil)
		}
	}
}

// put hands a pod to its worker, which is made for a pod that is new.
func (a *Agent) put(ctx context.Context, pod *corev1.Pod) {
	if w := a.worker(pod.UID); w != nil {
		w.update(pod)
		return
	}
	state := lifecycle.NewState()
	if pod.Status.StartTime != nil {
		state.StartTime = pod.Status.StartTime.Time
	} else {
		state.StartTime = time.Now()
	}
	if pod.DeletionTimestamp == nil && !ended(pod) {
		if v := a.admit(pod); v != nil {
			state.Verdict = v
			a.Recorder.EventAt(pod, "", corev1.EventTypeWarning, v.Reason, "%s", v.Message)
		}
	}
	a.start(ctx, pod, state)
}

// admit asks whether the node takes a new pod beside those that it runs.
func (a *Agent) admit(pod *corev1.Pod) *lifecycle.Verdict {
	n, ok := client.From[*corev1.Node](a.Client, a.Client.Snapshot(), "", a.NodeName)
	if !ok {
		n = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: a.NodeName}, Status: corev1.NodeStatus{Allocatable: a.keeper.Allocatable}}
	}
	if v := lifecycle.AdmitUnder(pod, a.keeper.Pressure(time.Now())); v != nil {
		return v
	}
	return lifecycle.Admit(pod, n, a.running(pod.UID))
}

// running lists the pods that hold resources of the node, but for one.
func (a *Agent) running(but types.UID) []*corev1.Pod {
	var out []*corev1.Pod
	for _, w := range a.all() {
		if w.uid == but {
			continue
		}
		if pod := w.holds(); pod != nil {
			out = append(out, pod)
		}
	}
	return out
}

func (a *Agent) gone(pod *corev1.Pod) {
	if w := a.worker(pod.UID); w != nil {
		w.gone(pod)
	}
}

func (a *Agent) start(ctx context.Context, pod *corev1.Pod, state *lifecycle.State) {
	w := newWorker(a, pod, state)
	a.mu.Lock()
	a.workers[pod.UID] = w
	a.mu.Unlock()
	a.wait.Go(func() {
		w.run(ctx)
		if ctx.Err() == nil {
			a.mu.Lock()
			delete(a.workers, w.uid)
			a.mu.Unlock()
			a.weigh()
			for _, other := range a.all() {
				if other.waits() {
					other.reconsider(a.running(other.uid))
				}
			}
		}
	})
}

// weigh sets the CPU weight of all burstable pods together.
func (a *Agent) weigh() {
	if a.groups == nil {
		return
	}
	var sum int64
	for _, p := range a.running("") {
		if lifecycle.QOS(p) == corev1.PodQOSBurstable {
			cpu := lifecycle.Requests(p)[corev1.ResourceCPU]
			sum += spec.Shares(&cpu)
		}
	}
	if err := a.groups.Burstable(sum); err != nil {
		a.Logger.Warn("weight of burstable pods", "err", err)
	}
}

// adopt makes workers for all that the runtime runs under this node's name, and clears what belongs to no pod.
func (a *Agent) adopt(ctx context.Context, pods []*corev1.Pod) error {
	states, ghosts, err := a.inspect(ctx)
	if err != nil {
		return fmt.Errorf("adopt containers: %w", err)
	}
	for _, p := range pods {
		state := states[p.UID]
		delete(states, p.UID)
		if state == nil {
			continue
		}
		state.StartTime = time.Now()
		if p.Status.StartTime != nil {
			state.StartTime = p.Status.StartTime.Time
		}
		a.resume(p, state)
		a.start(ctx, p, state)
	}
	for uid, state := range states {
		a.Logger.Info("pod is gone from the API; its containers are stopped", "pod", ghosts[uid].Namespace+"/"+ghosts[uid].Name, "uid", uid)
		state.Gone = true
		a.start(ctx, ghosts[uid], state)
	}
	return a.sweep(ctx, pods)
}

// resume takes over from the pod's status what the runtime does not remember.
func (a *Agent) resume(pod *corev1.Pod, state *lifecycle.State) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			st := &list[i]
			c := state.Latest(st.Name)
			if c == nil || c.Phase != lifecycle.Running || !strings.HasSuffix(st.ContainerID, c.ID) {
				continue
			}
			// A container that was ready stays so until a probe says otherwise.
			c.Ready, c.Started = st.Ready, st.Started != nil && *st.Started
		}
	}
	// Mounts of running pods are in place; mounting them again only refreshes their contents.
	state.Volumes = false
}

// inspect reads the runtime's sandboxes and containers of this node into states, and what their labels tell of their pods.
func (a *Agent) inspect(ctx context.Context) (map[types.UID]*lifecycle.State, map[types.UID]*corev1.Pod, error) {
	states, ghosts := map[types.UID]*lifecycle.State{}, map[types.UID]*corev1.Pod{}
	mine := map[string]string{spec.NodeLabel: a.NodeName}
	sandboxes, err := a.Runtime.ListPodSandbox(ctx, &rt.PodSandboxFilter{LabelSelector: mine})
	if err != nil {
		return nil, nil, err
	}
	for _, s := range sandboxes {
		uid := types.UID(s.Labels[kubelettypes.KubernetesPodUIDLabel])
		if states[uid] == nil {
			one := int64(1)
			states[uid] = lifecycle.NewState()
			ghosts[uid] = &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{UID: uid, Name: s.Labels[kubelettypes.KubernetesPodNameLabel], Namespace: s.Labels[kubelettypes.KubernetesPodNamespaceLabel]},
				Spec:       corev1.PodSpec{NodeName: a.NodeName, TerminationGracePeriodSeconds: &one},
			}
		}
		st := states[uid]
		one := lifecycle.Sandbox{ID: s.Id, Attempt: s.GetMetadata().GetAttempt(), Ready: s.State == rt.PodSandboxState_SANDBOX_READY}
		if one.Ready {
			full, err := a.Runtime.PodSandboxStatus(ctx, s.Id)
			if err != nil {
				return nil, nil, err
			}
			one.IPs = sandboxIPs(full)
		}
		st.Sandboxes = append(st.Sandboxes, one)
	}
	containers, err := a.Runtime.ListContainers(ctx, &rt.ContainerFilter{LabelSelector: mine})
	if err != nil {
		return nil, nil, err
	}
	for _, c := range containers {
		st := states[types.UID(c.Labels[kubelettypes.KubernetesPodUIDLabel])]
		if st == nil {
			continue
		}
		if c.State == rt.ContainerState_CONTAINER_CREATED {
			// Left between create and start by a crash: it never ran, so it counts for nothing.
			if err := a.Runtime.RemoveContainer(ctx, c.Id); err != nil {
				return nil, nil, err
			}
			continue
		}
		full, err := a.Runtime.ContainerStatus(ctx, c.Id)
		if err != nil {
			return nil, nil, err
		}
		merge(st, a.record(full, c.PodSandboxId))
	}
	for _, st := range states {
		slices.SortFunc(st.Sandboxes, func(x, y lifecycle.Sandbox) int { return cmp.Compare(y.Attempt, x.Attempt) })
	}
	return states, ghosts, nil
}

// sweep removes files, mounts and control groups of pods that neither the API nor the runtime knows.
func (a *Agent) sweep(ctx context.Context, pods []*corev1.Pod) error {
	known := map[string]bool{}
	for _, p := range pods {
		known[string(p.UID)] = true
	}
	for _, w := range a.all() {
		known[string(w.uid)] = true
	}
	left, err := a.Volumes.Pods()
	if err != nil {
		return err
	}
	for _, uid := range left {
		if !known[string(uid)] {
			if err := a.Volumes.Unmount(ctx, uid); err != nil {
				a.Logger.Warn("volumes of a dead pod stay", "uid", uid, "err", err)
			}
		}
	}
	if a.groups != nil {
		groups, err := a.groups.Pods()
		if err != nil {
			return err
		}
		for _, uid := range groups {
			if !known[uid] {
				if err := a.groups.Remove(uid); err != nil {
					a.Logger.Warn("control group of a dead pod stays", "uid", uid, "err", err)
				}
			}
		}
	}
	if a.LogDir == "" {
		return nil
	}
	entries, err := os.ReadDir(a.LogDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if i := strings.LastIndexByte(e.Name(), '_'); i > 0 && !known[e.Name()[i+1:]] {
			if err := os.RemoveAll(filepath.Join(a.LogDir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
