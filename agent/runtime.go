package agent

import (
	"cmp"
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"github.com/kebernetes/kebernetes/agent/lifecycle"
	"github.com/kebernetes/kebernetes/agent/spec"
	"github.com/kebernetes/kebernetes/cri"
)

// relistEvery is the net under the event stream; relistAlone is how often a runtime without events is asked, as upstream does.
const (
	relistEvery = 5 * time.Minute
	relistAlone = time.Second
)

// listen follows the runtime's events until ctx ends. ready is called when the first stream is open.
func (a *Agent) listen(ctx context.Context, ready func()) {
	var broken time.Duration
	again := false
	for ctx.Err() == nil {
		stop := make(chan struct{})
		opened := func() {
			broken = 0
			if ready != nil {
				ready()
				ready = nil
			}
			if again {
				// What happened between the streams is found by looking.
				a.relist(ctx)
			}
			again = true
		}
		a.wait.Go(func() { a.relistLoop(ctx, stop, relistEvery) })
		err := a.Runtime.Events(ctx, opened, func(e *rt.ContainerEventResponse) { a.event(e) })
		close(stop)
		if ctx.Err() != nil {
			return
		}
		if cri.IsUnimplemented(err) {
			a.Logger.Warn("the container runtime sends no events; it is asked every second instead")
			if ready != nil {
				ready()
				ready = nil
			}
			a.relistLoop(ctx, nil, relistAlone)
			return
		}
		a.Logger.Warn("container events", "err", err)
		broken = min(max(2*broken, 50*time.Millisecond), 5*time.Second)
		a.keeper.Changed()
		select {
		case <-ctx.Done():
		case <-time.After(broken):
		}
	}
}

func (a *Agent) relistLoop(ctx context.Context, stop <-chan struct{}, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-stop:
			return
		case <-tick.C:
			a.relist(ctx)
		}
	}
}

// event hands what the runtime says to the pod's worker.
func (a *Agent) event(e *rt.ContainerEventResponse) {
	labels := e.GetPodSandboxStatus().GetLabels()
	for _, c := range e.GetContainersStatuses() {
		if labels == nil {
			labels = c.GetLabels()
		}
	}
	w := a.worker(types.UID(labels[kubelettypes.KubernetesPodUIDLabel]))
	if w == nil {
		return
	}
	sandbox := e.GetPodSandboxStatus()
	for _, c := range e.GetContainersStatuses() {
		if w.news(c) {
			w.observe(a.record(c, sandbox.GetId()))
		}
	}
	if sandbox != nil {
		w.observeSandbox(sandbox)
	}
}

// relist compares what workers believe with what the runtime has.
func (a *Agent) relist(ctx context.Context) {
	mine := map[string]string{spec.NodeLabel: a.NodeName}
	// What is started while the runtime is asked may be missing from its answer: only what was there before can be lost.
	before := map[string]bool{}
	for _, w := range a.all() {
		w.held(before)
	}
	containers, err := a.Runtime.ListContainers(ctx, &rt.ContainerFilter{LabelSelector: mine})
	if err != nil {
		return // the runtime is away; the next look will tell
	}
	sandboxes, err := a.Runtime.ListPodSandbox(ctx, &rt.PodSandboxFilter{LabelSelector: mine})
	if err != nil {
		return
	}
	there := map[string]bool{}
	for _, c := range containers {
		there[c.Id] = true
		w := a.worker(types.UID(c.Labels[kubelettypes.KubernetesPodUIDLabel]))
		if w == nil || !w.differs(c) {
			continue
		}
		if full, err := a.Runtime.ContainerStatus(ctx, c.Id); err == nil {
			w.observe(a.record(full, c.PodSandboxId))
		}
	}
	for _, s := range sandboxes {
		there[s.Id] = true
		if w := a.worker(types.UID(s.Labels[kubelettypes.KubernetesPodUIDLabel])); w != nil {
			w.observeSandbox(&rt.PodSandboxStatus{Id: s.Id, State: s.State})
		}
	}
	for id := range there {
		delete(before, id)
	}
	if len(before) == 0 {
		return
	}
	for _, w := range a.all() {
		w.lost(before)
	}
}

// record turns the runtime's status of a container into ours. The termination message is read here.
func (a *Agent) record(s *rt.ContainerStatus, sandbox string) *lifecycle.Container {
	known := spec.Remember(s.Annotations, s.GetMetadata().GetAttempt())
	c := &lifecycle.Container{
		ID: s.Id, Name: s.Labels[kubelettypes.KubernetesContainerNameLabel], Sandbox: sandbox, Attempt: known.RestartCount,
		CreatedAt: stamp(s.CreatedAt), StartedAt: stamp(s.StartedAt), FinishedAt: stamp(s.FinishedAt),
		ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message,
		Image: s.GetImage().GetImage(), ImageRef: s.ImageRef, Hash: known.Hash,
	}
	if u := s.GetUser().GetLinux(); u != nil {
		c.User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
	}
	if s.StopSignal != rt.Signal_SIGNAL_RUNTIME_DEFAULT {
		signal := corev1.Signal(s.StopSignal.String()[len("SIGNAL_"):])
		c.Signal = &signal
	}
	switch s.State {
	case rt.ContainerState_CONTAINER_CREATED:
		c.Phase = lifecycle.Created
	case rt.ContainerState_CONTAINER_RUNNING:
		c.Phase = lifecycle.Running
	case rt.ContainerState_CONTAINER_EXITED:
		c.Phase = lifecycle.Exited
		c.Message = a.lastWords(s, known)
	default:
		c.Phase = lifecycle.Unknown
	}
	return c
}

func stamp(nanos int64) time.Time {
	if nanos <= 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos)
}

func sandboxIPs(s *rt.PodSandboxStatus) []string {
	ip := s.GetNetwork().GetIp()
	if ip == "" {
		return nil
	}
	out := []string{ip}
	for _, more := range s.GetNetwork().GetAdditionalIps() {
		out = append(out, more.Ip)
	}
	return out
}

// merge puts a record into a state: what the runtime says is new, what the node itself knows of the container stays.
func merge(st *lifecycle.State, c *lifecycle.Container) {
	old := st.Find(c.ID)
	if old == nil {
		list := append(st.Containers[c.Name], c)
		slices.SortFunc(list, func(x, y *lifecycle.Container) int {
			return cmp.Or(cmp.Compare(y.Attempt, x.Attempt), y.CreatedAt.Compare(x.CreatedAt))
		})
		st.Containers[c.Name] = list
		return
	}
	if old.Phase == lifecycle.Exited && c.Phase != lifecycle.Exited {
		return // news that came late
	}
	keep := *old
	*old = *c
	old.PostStart, old.Ready, old.Started, old.Unhealthy, old.Grace, old.Stopping = keep.PostStart, keep.Ready, keep.Started, keep.Unhealthy, keep.Grace, keep.Stopping
	old.Applied = keep.Applied
	if old.Sandbox == "" {
		old.Sandbox = keep.Sandbox
	}
	if old.Phase == lifecycle.Exited {
		old.PostStart, old.Ready, old.Started = false, false, false
	}
}
