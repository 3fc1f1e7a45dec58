package lifecycle

import (
	"fmt"
	"hash/fnv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Hash changes when a container must be made anew because of its spec: its name and image are all that may change so.
func Hash(c *corev1.Container) string {
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%s\x00%s", c.Name, c.Image)
	return fmt.Sprintf("%x", h.Sum32())
}

// all lists the init and regular containers.
func (p *planner) all() []*corev1.Container {
	out := make([]*corev1.Container, 0, len(p.pod.Spec.InitContainers)+len(p.pod.Spec.Containers))
	for i := range p.pod.Spec.InitContainers {
		out = append(out, &p.pod.Spec.InitContainers[i])
	}
	for i := range p.pod.Spec.Containers {
		out = append(out, &p.pod.Spec.Containers[i])
	}
	return out
}

// current is the newest record of a container when it belongs to the current sandbox and run, else nil.
func (p *planner) current(name string) *Container {
	c, sandbox := p.s.Latest(name), p.s.Current()
	if c == nil || sandbox == nil || c.Sandbox != sandbox.ID || c.CreatedAt.Before(p.s.Epoch) {
		return nil
	}
	return c
}

// wanted lists the containers that shall be started now, in order, and says whether the pod has done all that it was for.
func (p *planner) wanted() (start []*corev1.Container, finished bool) {
	if p.regularDone() {
		return nil, true
	}
	start, ready, failed := p.wantedInit()
	if failed {
		return nil, true
	}
	if ready {
		start = append(start, p.wantedRegular()...)
	}
	return append(start, p.wantedEphemeral()...), false
}

// regularDone says whether every regular container has ended for good.
func (p *planner) regularDone() bool {
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		last := p.s.Latest(c.Name)
		if last == nil || last.Phase != Exited || last.CreatedAt.Before(p.s.Epoch) {
			return false
		}
		if again, all := restarts(p.pod, c, last); again || all {
			return false
		}
	}
	return true
}

// wantedInit walks the init containers: each must have ended well, or as a sidecar have started, before the next one.
func (p *planner) wantedInit() (start []*corev1.Container, ready, failed bool) {
	initialised := false
	for i := range p.pod.Spec.Containers {
		initialised = initialised || p.current(p.pod.Spec.Containers[i].Name) != nil
	}
	for i := range p.pod.Spec.InitContainers {
		c := &p.pod.Spec.InitContainers[i]
		last := p.current(c.Name)
		switch {
		case Sidecar(c):
			if last == nil || last.Phase != Running {
				start = append(start, c)
			}
			if !initialised && (last == nil || last.Phase != Running || !last.Started || last.PostStart) {
				return start, false, false
			}
		case initialised:
		case last == nil:
			// A run in a former sandbox counts only for the policy: what may not run again has failed the pod.
			return append(start, c), false, false
		case last.Phase == Exited && last.ExitCode == 0:
		case last.Phase == Exited:
			if !initRestarts(p.pod, c, last) {
				return nil, false, true
			}
			return append(start, c), false, false
		default:
			if last.Phase == Created && !p.s.Busy[KeyStart(c.Name)] {
				start = append(start, c)
			}
			return start, false, false
		}
	}
	return start, true, false
}

// wantedRegular lists regular containers that do not run and shall. One whose predecessor is still in its postStart hook
// waits for its first start.
func (p *planner) wantedRegular() (start []*corev1.Container) {
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		last := p.s.Latest(c.Name)
		switch {
		case last == nil || last.CreatedAt.Before(p.s.Epoch):
			start = append(start, c)
		case last.Phase == Exited:
			if again, _ := restarts(p.pod, c, last); again {
				start = append(start, c)
			}
		case last.Phase == Created && !p.s.Busy[KeyStart(c.Name)]:
			start = append(start, c)
		}
		if c.Lifecycle != nil && c.Lifecycle.PostStart != nil && (last == nil || last.Phase == Created || last.PostStart) {
			break
		}
	}
	return start
}

// wantedEphemeral lists ephemeral containers, which start once and never again.
func (p *planner) wantedEphemeral() (start []*corev1.Container) {
	for i := range p.pod.Spec.EphemeralContainers {
		e := &p.pod.Spec.EphemeralContainers[i]
		if p.s.Current() != nil && p.s.Latest(e.Name) == nil {
			c := corev1.Container(e.EphemeralContainerCommon)
			start = append(start, &c)
		}
	}
	return start
}

// restartAll stops every container when one ended in a way that asks for it, and begins a new run once all have ended.
func (p *planner) restartAll() bool {
	asked := false
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		if last := p.s.Latest(c.Name); last != nil && last.Phase == Exited && !last.CreatedAt.Before(p.s.Epoch) {
			_, all := restarts(p.pod, c, last)
			asked = asked || all
		}
	}
	if !asked {
		return false
	}
	alive := false
	for _, records := range p.s.Containers {
		for _, c := range records {
			if c.Phase == Running {
				alive = true
				p.stop(c, p.now.Add(time.Duration(max(p.grace(), 1))*time.Second), "Restarting all containers of the pod")
			}
		}
	}
	if !alive && !p.starting() {
		p.Epoch = p.now
		p.wake(p.now)
	}
	return true
}

func (p *planner) grace() int64 {
	if g := p.pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return *g
	}
	return corev1.DefaultTerminationGracePeriodSeconds
}
