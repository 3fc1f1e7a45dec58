package agent

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/agent/lifecycle"
	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/volume"
)

// worker looks after one pod. One goroutine decides; actions run beside it and hand their results in under mu.
type worker struct {
	a    *Agent
	uid  types.UID
	wake chan struct{} // holds one token when there is something to decide

	mu    sync.Mutex
	pod   *corev1.Pod
	state *lifecycle.State
	// cancels ends actions that run; by key.
	cancels map[string]context.CancelFunc
	// probes ends the probes of a container; by id.
	probes map[string]context.CancelFunc
	// mounts holds the volumes; images the references of image volumes.
	mounts map[string]volume.Mounted
	images map[string]string
	// config is the current sandbox's.
	config *rt.PodSandboxConfig
	// paths of running containers' logs; by id.
	paths map[string]string
	// pulls holds back-offs of failing pulls; by container.
	pulls map[string]time.Duration
	// sources are what the pod refers to, held in the node's copy.
	sources map[reference]*client.Hold
	// withdrawn closes when the pod's endpoints have left the proxies; nil before the end begins.
	withdrawn chan struct{}

	// life is the worker's own context: hooks and probes outlive the action that started their container.
	life context.Context
	// wanted ends, by giveUp, when the pod's end begins.
	wanted     context.Context
	giveUp     context.CancelFunc
	writing    bool      // a status write is under way
	written    time.Time // when the last one began
	writeAfter time.Time // no status write before, after one failed
	refreshAt  time.Time // when a volume's contents grow old
	measureAt  time.Time // when the pod's files are counted next, if it has limits of disk
	done       bool

	wait sync.WaitGroup
}

func newWorker(a *Agent, pod *corev1.Pod, state *lifecycle.State) *worker {
	return &worker{
		a: a, uid: pod.UID, wake: make(chan struct{}, 1), pod: pod, state: state,
		cancels: map[string]context.CancelFunc{}, probes: map[string]context.CancelFunc{}, mounts: map[string]volume.Mounted{},
		images: map[string]string{}, paths: map[string]string{}, pulls: map[string]time.Duration{},
	}
}

// run decides whenever something happened, until the pod is forgotten or ctx ends.
func (w *worker) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer w.wait.Wait()
	defer cancel()
	w.life = ctx
	w.wanted, w.giveUp = context.WithCancel(ctx)
	defer w.giveUp()
	defer w.letGo()
	w.adopt()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		at, done := w.step(ctx)
		if done {
			return
		}
		if at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
	}
}

// poke makes the worker decide again.
func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// step decides once, begins what was decided, and returns when to decide again.
func (w *worker) step(ctx context.Context) (wake time.Time, done bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done {
		return time.Time{}, true
	}
	now := time.Now()
	plan := lifecycle.Next(w.pod, w.state, now)
	if plan.Verdict != nil && w.state.Verdict == nil {
		w.state.Verdict = plan.Verdict
		w.event(corev1.EventTypeNormal, plan.Verdict.Reason, plan.Verdict.Message)
	}
	if plan.Kill != nil {
		w.ending(ctx, plan.Kill)
	}
	if !plan.Epoch.IsZero() {
		w.state.Epoch = plan.Epoch
	}
	for _, action := range plan.Actions {
		w.begin(ctx, action)
	}
	wake = plan.Wake
	if !w.refreshAt.IsZero() {
		wake = earlier(wake, w.refreshAt)
		if !now.Before(w.refreshAt) && w.state.Volumes {
			w.refreshAt = time.Time{}
			w.refresh(ctx)
		}
	}
	if r := w.state.Resize; r != nil && r.Type == corev1.PodResizeInProgress && r.Reason == "" && w.settled() {
		w.state.Resize = nil
	}
	return earlier(wake, w.report(ctx, now)), false
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// ending notes that the pod's end has begun; what would only bring it up is given up.
func (w *worker) ending(ctx context.Context, k *lifecycle.Kill) {
	first := w.state.Kill == nil
	w.state.Kill = k
	if !first {
		return
	}
	w.giveUp()
	for key, cancel := range w.cancels {
		if key == lifecycle.KeyVolumes || strings.HasPrefix(key, lifecycle.KeyImage("")) || strings.HasPrefix(key, "poststart/") {
			cancel()
		}
	}
	w.withdrawn = make(chan struct{})
	if w.a.Withdraw == nil || !w.state.Alive() {
		close(w.withdrawn)
		return
	}
	pod, deadline := w.pod, k.Deadline
	w.wait.Go(func() {
		defer close(w.withdrawn)
		ctx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		w.a.Withdraw(ctx, pod)
	})
}

// do runs an action beside the worker. f returns what to change in the worker's state, under its lock.
func (w *worker) do(ctx context.Context, key string, f func(ctx context.Context) (apply func())) {
	ctx, cancel := context.WithCancel(ctx)
	if old := w.cancels[key]; old != nil {
		// A second stop with less grace replaces the first, which ends beside it.
		old()
		key += "/" + strconv.Itoa(len(w.cancels))
	}
	w.state.Busy[key] = true
	w.cancels[key] = cancel
	w.wait.Go(func() {
		defer cancel()
		apply := f(ctx)
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.state.Busy, key)
		delete(w.cancels, key)
		if apply != nil {
			apply()
		}
		w.poke()
	})
}

// retry calls f until it succeeds or ctx ends, ever more slowly: for things that must be done in the end.
func retry(ctx context.Context, f func(ctx context.Context) error, failed func(error)) bool {
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 10*time.Second) {
		err := f(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		failed(err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(delay):
		}
	}
}

// begin carries out one action; the lock is held.
func (w *worker) begin(ctx context.Context, action lifecycle.Action) {
	switch action.Verb {
	case lifecycle.MountVolumes:
		w.mountVolumes(ctx, action)
	case lifecycle.PullImage:
		w.pullImage(ctx, action)
	case lifecycle.RunSandbox:
		w.runSandbox(ctx, action)
	case lifecycle.StartContainer:
		w.startContainer(ctx, action)
	case lifecycle.HoldBack:
		w.holdBack(action)
	case lifecycle.StopContainer:
		w.stopContainer(ctx, action)
	case lifecycle.RemoveContainer:
		w.removeContainer(ctx, action)
	case lifecycle.Resize:
		w.resizeContainer(ctx, action)
	case lifecycle.Clean:
		w.clean(ctx, action)
	case lifecycle.Finish:
		w.finish(ctx, action)
	case lifecycle.Forget:
		w.forget(ctx, action)
	}
}

// update hands the worker a newer state of its pod.
func (w *worker) update(pod *corev1.Pod) {
	var others []*corev1.Pod
	if w.generation() != pod.Generation {
		others = w.a.running(w.uid) // before the lock: it takes the other workers'
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !newer(pod, w.pod) {
		return
	}
	old := w.pod
	w.become(pod)
	if !equality.Semantic.DeepEqual(old.Labels, pod.Labels) || !equality.Semantic.DeepEqual(old.Annotations, pod.Annotations) {
		w.refreshAt = time.Now()
	}
	if old.Generation != pod.Generation {
		w.allocate(pod, others)
		for _, f := range w.state.Waiting {
			f.Retry = time.Now() // the user may have mended it
		}
	}
	w.poke()
}

func (w *worker) generation() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod.Generation
}

// newer compares resource versions, which are numbers in one order.
func newer(a, b *corev1.Pod) bool {
	x, errX := strconv.ParseUint(a.ResourceVersion, 10, 64)
	y, errY := strconv.ParseUint(b.ResourceVersion, 10, 64)
	return errX != nil || errY != nil || x > y
}

// gone tells the worker that the object is no longer in the API. last is its last state, when known.
func (w *worker) gone(last *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if last != nil && newer(last, w.pod) {
		w.pod = last
	}
	w.state.Gone = true
	w.poke()
}

// holds returns the pod when it holds resources of the node: it was not refused, and something of it may run.
func (w *worker) holds() *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state.Clean || (ended(w.pod) || w.state.Verdict != nil) && !w.state.Alive() {
		return nil
	}
	return w.pod
}

// openLogs lists the logs of running containers.
func (w *worker) openLogs() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]string{}
	for id, path := range w.paths {
		if c := w.state.Find(id); c != nil && c.Phase == lifecycle.Running {
			out[id] = path
		}
	}
	return out
}

// news says whether a status of the runtime differs from what is known.
func (w *worker) news(s *rt.ContainerStatus) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.state.Find(s.Id)
	if c == nil {
		// Containers that an action is just making are recorded by it.
		return false
	}
	return c.Phase != lifecycle.Exited && s.State == rt.ContainerState_CONTAINER_EXITED
}

// differs says whether a listed container is in another state than is known.
func (w *worker) differs(c *rt.Container) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	known := w.state.Find(c.Id)
	return known != nil && known.Phase == lifecycle.Running && c.State == rt.ContainerState_CONTAINER_EXITED
}

// observe takes in what the runtime says of a container.
func (w *worker) observe(c *lifecycle.Container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.merge(c)
	w.poke()
}

func (w *worker) merge(c *lifecycle.Container) {
	merge(w.state, c)
	if c.Phase != lifecycle.Running {
		delete(w.paths, c.ID)
		if cancel := w.probes[c.ID]; cancel != nil {
			cancel()
			delete(w.probes, c.ID)
		}
	}
}

func (w *worker) observeSandbox(s *rt.PodSandboxStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.state.Sandboxes {
		if one := &w.state.Sandboxes[i]; one.ID == s.Id && one.Ready && s.State != rt.PodSandboxState_SANDBOX_READY {
			one.Ready = false
			if w.state.Kill == nil {
				w.event(corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
			}
			w.poke()
		}
	}
}

// held adds the ids of what the runtime holds for the pod, as far as is known.
func (w *worker) held(ids map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, records := range w.state.Containers {
		for _, c := range records {
			if c.Phase == lifecycle.Running {
				ids[c.ID] = true
			}
		}
	}
	for i := range w.state.Sandboxes {
		if s := &w.state.Sandboxes[i]; s.Ready {
			ids[s.ID] = true
		}
	}
}

// lost marks what the runtime no longer has.
func (w *worker) lost(gone map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, records := range w.state.Containers {
		for _, c := range records {
			if c.Phase == lifecycle.Running && gone[c.ID] {
				c.Phase, c.ExitCode, c.Reason, c.FinishedAt = lifecycle.Exited, 137, "ContainerStatusUnknown", time.Now()
				c.Message = "The container could not be located when the pod was deleted.  The container used to be Running"
				w.poke()
			}
		}
	}
	for i := range w.state.Sandboxes {
		if s := &w.state.Sandboxes[i]; s.Ready && gone[s.ID] {
			s.Ready = false
			w.poke()
		}
	}
}

// report begins a status write when there is something new to say, and returns when to try again after a failed one. One
// write is under way at most: what changes meanwhile goes into the next.
func (w *worker) report(ctx context.Context, now time.Time) time.Time {
	if w.state.Gone || w.writing || w.state.Busy[lifecycle.KeyFinish] {
		return time.Time{}
	}
	status := lifecycle.Status(w.pod, w.state, *w.a.host.Load(), now)
	if equality.Semantic.DeepEqual(status, w.pod.Status) {
		return time.Time{}
	}
	if now.Before(w.writeAfter) {
		return w.writeAfter
	}
	if at := w.written.Add(startQuiet); w.state.Kill == nil && now.Before(at) && w.comingUp() {
		// The end of the start, a tenth of a second away, has more to say.
		return at
	}
	w.writing, w.written = true, now
	pod := w.pod
	w.wait.Go(func() {
		written, err := w.write(ctx, pod, status)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.writing = false
		w.poke()
		switch {
		case err == nil:
			if newer(written, w.pod) {
				w.become(written)
			}
		case apierrors.IsNotFound(err) || ctx.Err() != nil:
		case apierrors.IsConflict(err):
			w.refetch(ctx, pod)
		default:
			w.a.Logger.Warn("pod status is not written", "pod", pod.Namespace+"/"+pod.Name, "err", err)
			w.writeAfter = time.Now().Add(time.Second)
		}
	})
	return time.Time{}
}

// startQuiet is how long the second report of a pod that is just coming up waits for more news.
const startQuiet = time.Second

// comingUp says whether something is being made without which the pod cannot be ready.
func (w *worker) comingUp() bool {
	for key, busy := range w.state.Busy {
		kind, _, _ := strings.Cut(key, "/")
		if busy && (kind == "start" || kind == "image" || key == lifecycle.KeySandbox || key == lifecycle.KeyVolumes) {
			return true
		}
	}
	return false
}

// write stores a status at the version of the pod that it was made from.
func (w *worker) write(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) (*corev1.Pod, error) {
	changed := pod.DeepCopy() // the server owns what it is given, and the spec is everybody's
	changed.Status = status
	return client.UpdateStatus(ctx, w.a.Client, changed)
}

// refetch reads the pod again after somebody else has written it.
func (w *worker) refetch(ctx context.Context, pod *corev1.Pod) {
	now, err := client.Get[*corev1.Pod](ctx, w.a.Client, pod.Namespace, pod.Name)
	if err == nil && now.UID == w.uid && newer(now, w.pod) {
		w.become(now)
		return
	}
	w.writeAfter = time.Now().Add(100 * time.Millisecond) // the feed will bring it
}

// turn waits for the pod's turn to have something made by the runtime, as long as the pod is wanted.
func (w *worker) turn(kind turnKind, pod *corev1.Pod) (done func(), err error) {
	return w.a.turns.take(w.wanted, kind, pod.Namespace+"/"+pod.Name, func(why string) {
		w.a.Recorder.EventAt(pod, "", corev1.EventTypeWarning, "RuntimeBusy", "%s", why)
	})
}

// event records something that happened to the pod.
func (w *worker) event(eventType, reason, message string) {
	w.a.Recorder.EventAt(w.pod, "", eventType, reason, "%s", message)
}

// tell records something that happened to a container.
func (w *worker) tell(pod *corev1.Pod, container, eventType, reason, message string) {
	w.a.Recorder.EventAt(pod, fieldPath(pod, container), eventType, reason, "%s", message)
}

func fieldPath(pod *corev1.Pod, container string) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == container {
			return "spec.initContainers{" + container + "}"
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == container {
			return "spec.ephemeralContainers{" + container + "}"
		}
	}
	return "spec.containers{" + container + "}"
}

// find returns a container's spec, or nil.
func find(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == name {
			c := corev1.Container(e.EphemeralContainerCommon)
			return &c
		}
	}
	return nil
}
