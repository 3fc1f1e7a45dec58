// Package lifecycle decides what becomes of a pod on its node. Next says what to do now and Status what to report, both
// pure functions of the pod, what was observed of it, and the time. agent runs them and carries out what they say.
package lifecycle

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// State is all that a node knows of one pod beside its object. agent changes it as results and events come in.
type State struct {
	// Sandboxes, newest first.
	Sandboxes []Sandbox
	// Containers by name, newest first. A record stays until the runtime's container is removed.
	Containers map[string][]*Container
	// Busy holds the keys of the actions that run.
	Busy map[string]bool

	// Volumes: all are mounted. VolumeFailure tells why not, and when to try again.
	Volumes       bool
	VolumeFailure *Failure
	// SandboxFailure is why no sandbox could be made.
	SandboxFailure *Failure
	// Images holds, by container, the image reference to create it from, once the pull policy is satisfied.
	Images map[string]string
	// Waiting holds, by container, why it does not run, as the pod's status shall say it.
	Waiting map[string]*Failure
	// Backoff holds how restarts of containers are slowed down.
	Backoff map[string]Backoff

	// StartTime is when the node first saw the pod.
	StartTime time.Time
	// Verdict ends the pod by the node's decision: rejected, or over its deadline.
	Verdict *Verdict
	// Kill is set once the pod's end has begun.
	Kill *Kill
	// Gone: the object is no longer in the API.
	Gone bool
	// Finished: the last status is written and the object's deletion asked for.
	Finished bool
	// Clean: no sandbox, volume mount or cgroup is left of an ended pod.
	Clean bool
	// Epoch: containers created before it belong to a former run (see ContainerRestartRuleActionRestartAllContainers).
	Epoch time.Time

	// Allocated holds, by container, the resources that the node has granted; absent: those of the spec.
	Allocated map[string]corev1.ResourceRequirements
	// Resize is the condition of a resize under way or not possible; nil: none.
	Resize *corev1.PodCondition
}

// NewState returns the state of a pod that the node has just seen.
func NewState() *State {
	return &State{
		Containers: map[string][]*Container{}, Busy: map[string]bool{}, Images: map[string]string{},
		Waiting: map[string]*Failure{}, Backoff: map[string]Backoff{}, Allocated: map[string]corev1.ResourceRequirements{},
	}
}

// Sandbox is one of the runtime's sandboxes of the pod.
type Sandbox struct {
	ID      string
	Attempt uint32
	Ready   bool
	IPs     []string
}

// Phase is where a container stands.
type Phase uint8

// The phases, as the runtime has them.
const (
	Created Phase = iota
	Running
	Exited
	Unknown
)

// Container is one of the runtime's containers of the pod.
type Container struct {
	ID, Name, Sandbox string
	Attempt           int32
	Phase             Phase
	CreatedAt         time.Time
	StartedAt         time.Time
	FinishedAt        time.Time
	ExitCode          int32
	Reason            string
	// Message is the termination message.
	Message string
	// Image is the name, ImageRef the digest, as the runtime resolved them.
	Image, ImageRef string
	// Hash tells whether the spec that it was made from has changed.
	Hash string
	// User that the first process runs as, when the runtime tells.
	User *corev1.ContainerUser
	// Applied are the resources that it runs with.
	Applied *corev1.ResourceRequirements
	// Signal is the stop signal, when the runtime tells.
	Signal *corev1.Signal

	// PostStart: the hook still runs.
	PostStart bool
	// Ready and Started are what the probes say.
	Ready, Started bool
	// Unhealthy is why it must be restarted, set by liveness and startup probes and failed hooks; "" when it need not.
	Unhealthy string
	// Grace overrides the pod's grace for a restart (a probe's terminationGracePeriodSeconds).
	Grace *int64
	// Stopping is when it will be killed at the latest; zero: not being stopped.
	Stopping time.Time
}

// Failure is why something waits.
type Failure struct {
	Reason, Message string
	// Retry is when to try again; zero: never by itself.
	Retry time.Time
	// Delay is the back-off that led to Retry.
	Delay time.Duration
}

// Backoff slows down restarts of one container.
type Backoff struct {
	Delay time.Duration
	Since time.Time
}

// Verdict is an end that the node decided.
type Verdict struct {
	Reason, Message string
	// Evicted: the pod goes for what it took of the node. It gets a second, and the condition DisruptionTarget says why.
	Evicted bool
}

// Kill is the end of a pod under way.
type Kill struct {
	Deadline time.Time
	Grace    int64
}

// Current is the newest sandbox, or nil when it is not ready.
func (s *State) Current() *Sandbox {
	if len(s.Sandboxes) > 0 && s.Sandboxes[0].Ready {
		return &s.Sandboxes[0]
	}
	return nil
}

// Latest is the newest record of a container, or nil.
func (s *State) Latest(name string) *Container {
	if records := s.Containers[name]; len(records) > 0 {
		return records[0]
	}
	return nil
}

// Find returns the record of that id, or nil.
func (s *State) Find(id string) *Container {
	for _, records := range s.Containers {
		for _, c := range records {
			if c.ID == id {
				return c
			}
		}
	}
	return nil
}

// Alive says whether any container runs, or is about to.
func (s *State) Alive() bool {
	for _, records := range s.Containers {
		for _, c := range records {
			if c.Phase == Running || c.Phase == Created && s.Busy[KeyStart(c.Name)] {
				return true
			}
		}
	}
	return false
}

// Keys of Busy.
const (
	KeyVolumes = "volumes"
	KeySandbox = "sandbox"
	KeyClean   = "clean"
	KeyFinish  = "finish"
)

// KeyImage, KeyStart and KeyRemove are the keys of actions on containers; KeyStop takes an id.
func KeyImage(container string) string { return "image/" + container }

// KeyStart is the key of starting a container.
func KeyStart(container string) string { return "start/" + container }

// KeyResize is the key of resizing a container.
func KeyResize(container string) string { return "resize/" + container }

// KeyStop is the key of stopping the container of that id.
func KeyStop(id string) string { return "stop/" + id }

// KeyRemove is the key of removing the container of that id.
func KeyRemove(id string) string { return "remove/" + id }

// Sidecar says whether an init container runs beside the pod's containers.
func Sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}
