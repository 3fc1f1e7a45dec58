package lifecycle

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Verb is what an Action does.
type Verb string

// The verbs.
const (
	// MountVolumes mounts all volumes of the pod.
	MountVolumes Verb = "mount volumes"
	// PullImage satisfies the pull policy of a container's image.
	PullImage Verb = "pull image"
	// RunSandbox makes a sandbox, its network and its cgroup.
	RunSandbox Verb = "run sandbox"
	// StartContainer creates and starts a container, and begins its postStart hook.
	StartContainer Verb = "start container"
	// HoldBack records that a container waits for its back-off.
	HoldBack Verb = "hold back"
	// StopContainer runs the preStop hook and stops a container, at Deadline at the latest.
	StopContainer Verb = "stop container"
	// RemoveContainer removes a dead container that no status shows any more.
	RemoveContainer Verb = "remove container"
	// Resize gives a running container the resources that were granted.
	Resize Verb = "resize"
	// Clean stops the sandboxes, unmounts the volumes and removes the cgroup of an ended pod.
	Clean Verb = "clean"
	// Finish reports the final status and deletes the object.
	Finish Verb = "finish"
	// Forget removes what is left of a pod whose object is gone; the worker ends.
	Forget Verb = "forget"
)

// Action is one thing to do now. Actions of one Plan are independent of each other.
type Action struct {
	Verb      Verb
	Key       string // of State.Busy
	Container string
	ID        string
	Attempt   uint32
	Deadline  time.Time
	// Reason and Message are why, for the status and the event.
	Reason, Message string
	// Backoff is what the container's back-off becomes.
	Backoff Backoff
}

// Plan is what Next decides.
type Plan struct {
	Actions []Action
	// Wake is when to ask again if nothing happens; zero: never.
	Wake time.Time
	// Verdict, Kill and Epoch are to be kept in the State when set.
	Verdict *Verdict
	Kill    *Kill
	Epoch   time.Time
}

type planner struct {
	Plan
	pod *corev1.Pod
	s   *State
	now time.Time
}

// Next decides what to do for a pod now. It changes nothing.
func Next(pod *corev1.Pod, s *State, now time.Time) Plan {
	p := &planner{pod: pod, s: s, now: now}
	p.judge()
	start, finished := p.wanted()
	if p.ending(finished) {
		p.end()
	} else {
		p.run(start)
		p.prune()
	}
	return p.Plan
}

// judge ends a pod whose time is over.
func (p *planner) judge() {
	limit := p.pod.Spec.ActiveDeadlineSeconds
	if limit == nil || p.s.StartTime.IsZero() || p.verdict() != nil || p.finishedPhase() {
		return
	}
	end := p.s.StartTime.Add(time.Duration(*limit) * time.Second)
	if p.now.Before(end) {
		p.wake(end)
		return
	}
	p.Verdict = &Verdict{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
}

func (p *planner) verdict() *Verdict {
	if p.Verdict != nil {
		return p.Verdict
	}
	return p.s.Verdict
}

// finishedPhase says whether the API has the pod as ended already, which nothing reverts.
func (p *planner) finishedPhase() bool {
	return p.pod.Status.Phase == corev1.PodSucceeded || p.pod.Status.Phase == corev1.PodFailed
}

// ending says whether the pod is to end, and sets the deadline for it.
func (p *planner) ending(finished bool) bool {
	deleted := p.s.Gone || p.pod.DeletionTimestamp != nil
	if !deleted && p.verdict() == nil && !finished && !p.finishedPhase() {
		return false
	}
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if g := p.pod.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = *g
	}
	if g := p.pod.DeletionGracePeriodSeconds; g != nil {
		grace = *g
	}
	grace = max(grace, 1)
	if v := p.verdict(); v != nil && v.Evicted {
		grace = min(grace, evictionGrace)
	}
	deadline := p.now.Add(time.Duration(grace) * time.Second)
	switch k := p.s.Kill; {
	case k == nil:
		p.Kill = &Kill{deadline, grace}
	case grace < k.Grace && deadline.Before(k.Deadline):
		p.Kill = &Kill{deadline, grace}
	default:
		p.Kill = k
	}
	return true
}

// end takes a pod down: its containers at once, then its sidecars one by one in reverse order, then the rest.
func (p *planner) end() {
	message := ""
	if v := p.verdict(); v != nil && !v.Evicted {
		message = v.Message
	}
	sidecars := map[string]bool{}
	for i := range p.pod.Spec.InitContainers {
		if c := &p.pod.Spec.InitContainers[i]; Sidecar(c) {
			sidecars[c.Name] = true
		}
	}
	alive := false
	for name, records := range p.s.Containers {
		for _, c := range records {
			if c.Phase == Running && !sidecars[name] {
				alive = true
				p.stop(c, p.Kill.Deadline, message)
			}
		}
	}
	for i := len(p.pod.Spec.InitContainers) - 1; i >= 0 && !alive; i-- {
		name := p.pod.Spec.InitContainers[i].Name
		for _, c := range p.s.Containers[name] {
			if c.Phase == Running {
				alive = true
				p.stop(c, p.Kill.Deadline, message)
			}
		}
	}
	if alive || p.starting() {
		return
	}
	switch {
	case !p.s.Clean:
		p.act(Action{Verb: Clean, Key: KeyClean})
	case p.s.Gone:
		p.act(Action{Verb: Forget, Key: KeyFinish})
	case p.pod.DeletionTimestamp != nil && !p.s.Finished:
		p.act(Action{Verb: Finish, Key: KeyFinish})
	}
}

// starting says whether something is being made that must be awaited before the rest can be taken away.
func (p *planner) starting() bool {
	for key, busy := range p.s.Busy {
		if busy && key != KeyClean && key != KeyFinish {
			return true
		}
	}
	return false
}

// stop asks for a container's end, again when it shall come earlier than was asked for.
func (p *planner) stop(c *Container, deadline time.Time, message string) {
	if !c.Stopping.IsZero() && !deadline.Before(c.Stopping) {
		return
	}
	p.Actions = append(p.Actions, Action{Verb: StopContainer, Key: KeyStop(c.ID), Container: c.Name, ID: c.ID, Deadline: deadline, Message: message})
}

// act adds an action unless it runs already.
func (p *planner) act(a Action) {
	if !p.s.Busy[a.Key] {
		p.Actions = append(p.Actions, a)
	}
}

func (p *planner) wake(at time.Time) {
	if p.Wake.IsZero() || at.Before(p.Wake) {
		p.Wake = at
	}
}

// due says whether a failed thing may be tried again, and sees to waking up when not.
func (p *planner) due(f *Failure) bool {
	if f == nil || !p.now.Before(f.Retry) {
		return true
	}
	p.wake(f.Retry)
	return false
}

// run brings the containers up that shall start now. Volumes, images and sandbox are made at the same time.
func (p *planner) run(start []*corev1.Container) {
	if p.restartAll() {
		return
	}
	p.restartUnhealthy()
	p.killStrays()
	p.resize()
	sandbox := p.s.Current()
	// A pod that was adopted has its mounts, but their contents may be old.
	if !p.s.Volumes && (len(start) > 0 || sandbox != nil) && p.due(p.s.VolumeFailure) {
		p.act(Action{Verb: MountVolumes, Key: KeyVolumes})
	}
	if len(start) == 0 {
		return
	}
	if sandbox == nil && !p.straysAlive() && p.due(p.s.SandboxFailure) {
		attempt := uint32(0)
		if len(p.s.Sandboxes) > 0 {
			attempt = p.s.Sandboxes[0].Attempt + 1
		}
		p.act(Action{Verb: RunSandbox, Key: KeySandbox, Attempt: attempt})
	}
	for _, c := range start {
		p.start(c, sandbox)
	}
}

func (p *planner) start(c *corev1.Container, sandbox *Sandbox) {
	if p.s.Busy[KeyStart(c.Name)] {
		return
	}
	last := p.s.Latest(c.Name)
	backoff := p.s.Backoff[c.Name]
	if last != nil && last.Phase == Exited {
		d := backoff.delay(p.now)
		if at := last.FinishedAt.Add(d); d > 0 && p.now.Before(at) {
			p.wake(at)
			if w := p.s.Waiting[c.Name]; w == nil || w.Reason != "CrashLoopBackOff" || !w.Retry.Equal(at) {
				p.Actions = append(p.Actions, Action{Verb: HoldBack, Container: c.Name, Deadline: at, Reason: "CrashLoopBackOff", Message: fmt.Sprintf(
					"back-off %s restarting failed container=%s pod=%s", d, c.Name, PodText(p.pod))})
			}
			return
		}
	}
	ref := p.s.Images[c.Name]
	if ref == "" {
		w := p.s.Waiting[c.Name]
		if w == nil || w.Reason == "CrashLoopBackOff" || p.due(w) {
			p.act(Action{Verb: PullImage, Key: KeyImage(c.Name), Container: c.Name})
		} else if w.Reason == "ErrImagePull" {
			p.holdPull(c, w)
		}
		return
	}
	if sandbox == nil || !p.s.Volumes || !p.due(p.s.Waiting[c.Name]) {
		return
	}
	attempt := uint32(0)
	if last != nil {
		attempt = uint32(last.Attempt) + 1
		backoff = backoff.Next(p.now)
	}
	p.act(Action{Verb: StartContainer, Key: KeyStart(c.Name), Container: c.Name, Attempt: attempt, Backoff: backoff})
}

// pullShown is how long a failed pull is reported as such before it is reported as waiting for its next try.
const pullShown = 2 * time.Second

func (p *planner) holdPull(c *corev1.Container, w *Failure) {
	if turn := w.Retry.Add(pullShown - w.Delay); p.now.Before(turn) {
		p.wake(turn)
		return
	}
	p.Actions = append(p.Actions, Action{Verb: HoldBack, Container: c.Name, Deadline: w.Retry, Reason: "ImagePullBackOff",
		Message: fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %s", c.Image, w.Message)})
}

// PodText names a pod in messages as upstream does: name_namespace(uid).
func PodText(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// restartUnhealthy stops what probes or changes of the spec want restarted.
func (p *planner) restartUnhealthy() {
	for _, c := range p.all() {
		last := p.s.Latest(c.Name)
		if last == nil || last.Phase != Running {
			continue
		}
		message := last.Unhealthy
		if message == "" && last.Hash != "" && last.Hash != Hash(c) {
			message = fmt.Sprintf("Container %s definition changed", c.Name)
		}
		if message == "" {
			continue
		}
		message += ", will be restarted"
		grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
		if g := p.pod.Spec.TerminationGracePeriodSeconds; g != nil {
			grace = *g
		}
		if last.Grace != nil {
			grace = *last.Grace
		}
		if last.Stopping.IsZero() {
			p.stop(last, p.now.Add(time.Duration(grace)*time.Second), message)
		}
	}
}

// resize brings running containers to what the node has granted; those whose policy wants it are restarted for it.
func (p *planner) resize() {
	for _, c := range p.all() {
		last := p.s.Latest(c.Name)
		granted, ok := p.s.Allocated[c.Name]
		if !ok || last == nil || last.Phase != Running || last.Applied == nil || !last.Stopping.IsZero() {
			continue
		}
		cpu, memory := differ(granted, *last.Applied, corev1.ResourceCPU), differ(granted, *last.Applied, corev1.ResourceMemory)
		if !cpu && !memory {
			continue
		}
		restart := slices.ContainsFunc(c.ResizePolicy, func(r corev1.ContainerResizePolicy) bool {
			return r.RestartPolicy == corev1.RestartContainer && (cpu && r.ResourceName == corev1.ResourceCPU || memory && r.ResourceName == corev1.ResourceMemory)
		})
		if restart {
			p.stop(last, p.now.Add(time.Duration(p.grace())*time.Second), fmt.Sprintf("Container %s resize requires restart", c.Name))
			continue
		}
		p.act(Action{Verb: Resize, Key: KeyResize(c.Name), Container: c.Name, ID: last.ID})
	}
}

func differ(a, b corev1.ResourceRequirements, name corev1.ResourceName) bool {
	same := func(x, y corev1.ResourceList) bool {
		p, q := x[name], y[name]
		return p.Cmp(q) == 0
	}
	return !same(a.Requests, b.Requests) || !same(a.Limits, b.Limits)
}

// killStrays stops containers that outlived their sandbox.
func (p *planner) killStrays() {
	current := p.s.Current()
	for _, records := range p.s.Containers {
		for _, c := range records {
			if c.Phase == Running && (current == nil || c.Sandbox != current.ID) {
				p.stop(c, p.now.Add(2*time.Second), "Pod sandbox changed, it will be killed and re-created.")
			}
		}
	}
}

func (p *planner) straysAlive() bool {
	for _, records := range p.s.Containers {
		for _, c := range records {
			if c.Phase == Running {
				return true
			}
		}
	}
	return false
}

// prune removes dead containers beyond the newest record and the one that lastState shows.
func (p *planner) prune() {
	for _, records := range p.s.Containers {
		dead := 0
		for i, c := range records {
			if i == 0 || c.Phase == Running || c.Phase == Created {
				continue
			}
			if dead++; dead > 1 {
				p.act(Action{Verb: RemoveContainer, Key: KeyRemove(c.ID), Container: c.Name, ID: c.ID})
			}
		}
	}
}
