package lifecycle

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Host is what a pod's status says of its node.
type Host struct {
	IPs []string
	// Runtime is the scheme of container ids: "containerd".
	Runtime string
}

// Status returns what to report of a pod. Conditions of others and fields that the node does not own are kept from the
// pod's present status; times of unchanged conditions too. It changes nothing.
func Status(pod *corev1.Pod, s *State, host Host, now time.Time) corev1.PodStatus {
	r := &reporter{pod: pod, s: s, host: host, now: metav1.NewTime(now.Truncate(time.Second))}
	st := pod.Status.DeepCopy()
	st.ObservedGeneration = pod.Generation
	st.QOSClass = cmp.Or(st.QOSClass, QOS(pod))
	if v := s.Verdict; v != nil {
		st.Reason, st.Message = v.Reason, v.Message
	}
	if st.StartTime == nil && !s.StartTime.IsZero() {
		t := metav1.NewTime(s.StartTime.Truncate(time.Second))
		st.StartTime = &t
	}
	r.addresses(st)
	r.ended = s.Clean || (s.Kill != nil && !s.Alive())
	st.InitContainerStatuses = r.containers(pod.Spec.InitContainers, true, pod.Status.InitContainerStatuses)
	st.ContainerStatuses = r.containers(pod.Spec.Containers, false, pod.Status.ContainerStatuses)
	st.EphemeralContainerStatuses = r.ephemeral()
	byName := func(a, b corev1.ContainerStatus) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortFunc(st.ContainerStatuses, byName)
	slices.SortFunc(st.EphemeralContainerStatuses, byName)
	st.Phase = r.phase(st)
	r.conditions(st)
	if s.Verdict != nil && len(s.Containers) == 0 && len(s.Sandboxes) == 0 && len(pod.Status.ContainerStatuses) == 0 {
		// A pod that was refused has no containers to speak of; waiting ones would hide the reason from kubectl's list.
		st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses = nil, nil, nil
	}
	return *st
}

type reporter struct {
	pod   *corev1.Pod
	s     *State
	host  Host
	now   metav1.Time
	ended bool // nothing of the pod runs any more, nor will
}

// QOS is the pod's quality of service, for pods whose status does not hold it yet.
func QOS(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	any, guaranteed := false, true
	look := func(r *corev1.ResourceRequirements) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := r.Requests[name], r.Limits[name]
			any = any || !request.IsZero() || !limit.IsZero()
			guaranteed = guaranteed && !limit.IsZero() && (request.IsZero() || request.Cmp(limit) == 0)
		}
	}
	if r := pod.Spec.Resources; r != nil && (len(r.Requests) > 0 || len(r.Limits) > 0) {
		look(r)
	} else {
		for i := range pod.Spec.InitContainers {
			look(&pod.Spec.InitContainers[i].Resources)
		}
		for i := range pod.Spec.Containers {
			look(&pod.Spec.Containers[i].Resources)
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

func (r *reporter) addresses(st *corev1.PodStatus) {
	if len(r.host.IPs) > 0 {
		st.HostIP = r.host.IPs[0]
		st.HostIPs = nil
		for _, ip := range r.host.IPs {
			st.HostIPs = append(st.HostIPs, corev1.HostIP{IP: ip})
		}
	}
	ips := PodIPs(r.pod, r.s, r.host)
	if len(ips) == 0 {
		return
	}
	st.PodIP, st.PodIPs = ips[0], nil
	for _, ip := range ips {
		st.PodIPs = append(st.PodIPs, corev1.PodIP{IP: ip})
	}
}

// PodIPs are the addresses of a pod: its sandbox's, or on the host's network the node's; none while there is no sandbox.
func PodIPs(pod *corev1.Pod, s *State, host Host) []string {
	sandbox := s.Current()
	if sandbox == nil {
		return nil
	}
	if pod.Spec.HostNetwork {
		return host.IPs
	}
	return sandbox.IPs
}

func (r *reporter) containers(list []corev1.Container, init bool, old []corev1.ContainerStatus) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for i := range list {
		c := &list[i]
		st := r.container(c, init)
		if prev := find(old, c.Name); prev != nil && r.s.Latest(c.Name) == nil {
			r.remember(&st, prev)
		}
		out = append(out, st)
	}
	return out
}

func find(list []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

// remember keeps what the API knows of a container that the runtime has forgotten: it ran once, so it ended somehow.
func (r *reporter) remember(st, old *corev1.ContainerStatus) {
	if old.ContainerID == "" {
		return
	}
	if old.State.Terminated != nil && r.ended {
		*st = *old // the last word on it
		return
	}
	st.RestartCount, st.LastTerminationState = old.RestartCount, old.LastTerminationState
	st.ContainerID, st.ImageID, st.Image = old.ContainerID, old.ImageID, old.Image
	lost := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: 137, Reason: "ContainerStatusUnknown", ContainerID: old.ContainerID,
		Message: "The container could not be located when the pod was terminated",
	}}
	switch {
	case old.State.Terminated != nil:
		st.LastTerminationState = old.State
	case r.ended:
		st.State = lost
	default:
		lost.Terminated.Message = "The container could not be located when the pod was deleted.  The container used to be Running"
		st.LastTerminationState = lost
	}
}

func (r *reporter) container(c *corev1.Container, init bool) corev1.ContainerStatus {
	no := false
	st := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: &no}
	last := r.s.Latest(c.Name)
	if last == nil || last.CreatedAt.Before(r.s.Epoch) || last.Phase == Created {
		st.State = r.waiting(c.Name, init)
		if last != nil {
			st.RestartCount = last.Attempt
			if last.Phase == Exited {
				st.LastTerminationState = r.terminated(last)
			} else if previous := r.previous(c.Name); previous != nil {
				st.LastTerminationState = r.terminated(previous)
			}
		}
		return st
	}
	st.RestartCount = last.Attempt
	st.Image, st.ImageID = cmp.Or(last.Image, c.Image), last.ImageRef
	st.ContainerID = r.id(last.ID)
	st.User = last.User
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		st.StopSignal = last.Signal
	}
	previous := r.previous(c.Name)
	switch {
	case last.Phase == Exited:
		if w := r.s.Waiting[c.Name]; w != nil && !r.ended {
			st.State.Waiting = &corev1.ContainerStateWaiting{Reason: w.Reason, Message: w.Message}
			st.LastTerminationState = r.terminated(last)
			break
		}
		st.State = r.terminated(last)
		if previous != nil {
			st.LastTerminationState = r.terminated(previous)
		}
	case last.PostStart:
		st.State = r.waiting(c.Name, init)
		if previous != nil {
			st.LastTerminationState = r.terminated(previous)
		}
	default:
		st.State.Running = &corev1.ContainerStateRunning{StartedAt: seconds(last.StartedAt)}
		if previous != nil {
			st.LastTerminationState = r.terminated(previous)
		}
		started := last.Started
		st.Started = &started
		st.Ready = last.Ready && started
	}
	if init && !Sidecar(c) {
		st.Ready = last.Phase == Exited && last.ExitCode == 0
	}
	r.resources(c, last, &st)
	st.VolumeMounts = mountStatuses(c)
	return st
}

// resources reports what the container runs with, and what the node has granted.
func (r *reporter) resources(c *corev1.Container, last *Container, st *corev1.ContainerStatus) {
	granted := c.Resources
	if a, ok := r.s.Allocated[c.Name]; ok {
		granted = a
	}
	st.AllocatedResources = granted.Requests.DeepCopy()
	if last.Applied != nil {
		st.Resources = last.Applied.DeepCopy()
		return
	}
	if last.Phase == Running {
		st.Resources = &corev1.ResourceRequirements{Limits: granted.Limits.DeepCopy(), Requests: granted.Requests.DeepCopy(), Claims: granted.Claims}
	}
}

func mountStatuses(c *corev1.Container) []corev1.VolumeMountStatus {
	var out []corev1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		st := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if m.RecursiveReadOnly != nil {
				mode = *m.RecursiveReadOnly
			}
			st.RecursiveReadOnly = &mode
		}
		out = append(out, st)
	}
	return out
}

func (r *reporter) previous(name string) *Container {
	for i, c := range r.s.Containers[name] {
		if i > 0 && c.Phase == Exited {
			return c
		}
	}
	return nil
}

func (r *reporter) waiting(name string, init bool) corev1.ContainerState {
	if w := r.s.Waiting[name]; w != nil {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: w.Reason, Message: w.Message}}
	}
	reason := "ContainerCreating"
	if len(r.pod.Spec.InitContainers) > 0 {
		reason = "PodInitializing"
	}
	if r.ended && init {
		// An init container that was never reached.
		reason = "PodInitializing"
	}
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
}

func (r *reporter) terminated(c *Container) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message, StartedAt: seconds(c.StartedAt), FinishedAt: seconds(c.FinishedAt),
		ContainerID: r.id(c.ID),
	}}
}

func (r *reporter) id(id string) string { return r.host.Runtime + "://" + id }

// seconds is the resolution of times in the API.
func seconds(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.NewTime(t.Truncate(time.Second))
}

func (r *reporter) ephemeral() []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for i := range r.pod.Spec.EphemeralContainers {
		c := corev1.Container(r.pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		st := r.container(&c, false)
		if st.State.Waiting != nil && st.State.Waiting.Reason == "PodInitializing" {
			st.State.Waiting.Reason = "ContainerCreating"
		}
		st.Ready, st.Started, st.AllocatedResources, st.Resources = false, nil, nil, nil
		out = append(out, st)
	}
	return out
}

// phase sums the containers up. An ended phase never changes again.
func (r *reporter) phase(st *corev1.PodStatus) corev1.PodPhase {
	if p := r.pod.Status.Phase; p == corev1.PodSucceeded || p == corev1.PodFailed {
		return p
	}
	if r.s.Verdict != nil && (r.ended || len(r.s.Containers) == 0) {
		return corev1.PodFailed
	}
	if initPending, initFailed := r.initState(st); initFailed && r.ended {
		return corev1.PodFailed
	} else if initPending && !r.ended {
		return corev1.PodPending
	}
	var waiting, running, stopped, succeeded int
	for i := range st.ContainerStatuses {
		switch s := &st.ContainerStatuses[i]; {
		case s.State.Running != nil:
			running++
		case s.State.Terminated != nil:
			stopped++
			if s.State.Terminated.ExitCode == 0 {
				succeeded++
			}
		case s.LastTerminationState.Terminated != nil:
			stopped++
		default:
			waiting++
		}
	}
	switch {
	case r.ended && waiting == 0 && stopped > 0 && succeeded == stopped:
		return corev1.PodSucceeded
	case r.ended:
		return corev1.PodFailed
	case waiting > 0:
		return corev1.PodPending
	}
	return corev1.PodRunning
}

// initState says whether init containers have still to do, and whether one has failed for good.
func (r *reporter) initState(st *corev1.PodStatus) (pending, failed bool) {
	for i := range r.pod.Spec.Containers {
		if c := r.s.Latest(r.pod.Spec.Containers[i].Name); c != nil && !c.CreatedAt.Before(r.s.Epoch) {
			return false, false // they were all done once
		}
	}
	for i := range r.pod.Spec.InitContainers {
		c, s := &r.pod.Spec.InitContainers[i], &st.InitContainerStatuses[i]
		if Sidecar(c) {
			pending = pending || s.Started == nil || !*s.Started
			continue
		}
		if t := s.State.Terminated; t != nil && t.ExitCode == 0 {
			continue
		}
		pending = true
		if last := r.s.Latest(c.Name); last != nil && last.Phase == Exited && last.ExitCode != 0 && !initRestarts(r.pod, c, last) {
			failed = true
		}
	}
	return pending, failed
}
