// Package cri speaks the Container Runtime Interface (k8s.io/cri-api runtime/v1): the calls that the node agent needs, as
// plain Go methods, and a connection that makes them over a unix socket. cri/fake keeps the same promises in memory and in
// virtual time; cri/critest is the suite that both pass. cri imports nothing else of this module; agent and daemon import it.
package cri

import (
	"context"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Runtime is a container runtime with its image store. Safe for concurrent use. Errors carry gRPC status codes, see
// IsNotFound and IsUnimplemented.
type Runtime interface {
	Sandboxes
	Containers
	Streams
	Images
	Stats
	Host
}

// Sandboxes are the pods' shells: the namespaces, network and cgroup that the containers of one pod share.
type Sandboxes interface {
	// RunPodSandbox creates and starts a sandbox, its network included, and returns its id.
	RunPodSandbox(ctx context.Context, config *rt.PodSandboxConfig, handler string) (string, error)
	// StopPodSandbox kills what still runs in it and gives its network back. Repeatable; a gone sandbox is no error.
	StopPodSandbox(ctx context.Context, id string) error
	// RemovePodSandbox removes a sandbox and its containers. Repeatable; a gone sandbox is no error.
	RemovePodSandbox(ctx context.Context, id string) error
	PodSandboxStatus(ctx context.Context, id string) (*rt.PodSandboxStatus, error)
	// ListPodSandbox lists all sandboxes that the filter (nil: any) matches.
	ListPodSandbox(ctx context.Context, filter *rt.PodSandboxFilter) ([]*rt.PodSandbox, error)
}

// Containers run in a sandbox.
type Containers interface {
	CreateContainer(ctx context.Context, sandbox string, config *rt.ContainerConfig, sandboxConfig *rt.PodSandboxConfig) (string, error)
	StartContainer(ctx context.Context, id string) error
	// StopContainer sends the stop signal, and SIGKILL once grace has passed. It returns when the container has ended.
	// Grace is rounded up to whole seconds; 0 kills at once. A gone container is no error.
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	// RemoveContainer removes a container, killing it first when it runs. A gone container is no error.
	RemoveContainer(ctx context.Context, id string) error
	ListContainers(ctx context.Context, filter *rt.ContainerFilter) ([]*rt.Container, error)
	ContainerStatus(ctx context.Context, id string) (*rt.ContainerStatus, error)
	UpdateContainerResources(ctx context.Context, id string, resources *rt.LinuxContainerResources) error
	// ReopenContainerLog makes the runtime write to a new file at the container's log path, after a rotation moved the old one.
	ReopenContainerLog(ctx context.Context, id string) error
	// Events calls f for every container event from now on, in order and from one goroutine, until ctx is done (nil) or the
	// stream breaks (the error). ready is called once, as soon as no later event can be missed.
	Events(ctx context.Context, ready func(), f func(*rt.ContainerEventResponse)) error
}

// Streams reach into running containers.
type Streams interface {
	// ExecSync runs a command and waits for its end. A command that outlives timeout (0: none) is killed, and the error is
	// a DeadlineExceeded; see IsDeadline.
	ExecSync(ctx context.Context, container string, cmd []string, timeout time.Duration) (*rt.ExecSyncResponse, error)
	// Exec, Attach and PortForward return the URL of the runtime's streaming server that serves the request.
	Exec(ctx context.Context, req *rt.ExecRequest) (string, error)
	Attach(ctx context.Context, req *rt.AttachRequest) (string, error)
	PortForward(ctx context.Context, req *rt.PortForwardRequest) (string, error)
}

// Images are what the runtime has on disk.
type Images interface {
	// ImageStatus returns nil when the image is not there.
	ImageStatus(ctx context.Context, image *rt.ImageSpec) (*rt.Image, error)
	ListImages(ctx context.Context) ([]*rt.Image, error)
	// PullImage fetches an image, with credentials when auth is not nil, and returns the reference to create containers from.
	PullImage(ctx context.Context, image *rt.ImageSpec, auth *rt.AuthConfig, config *rt.PodSandboxConfig) (string, error)
	// RemoveImage removes an image. A gone image is no error.
	RemoveImage(ctx context.Context, image *rt.ImageSpec) error
	// ImageFsInfo tells where images are kept and how much they use.
	ImageFsInfo(ctx context.Context) (*rt.ImageFsInfoResponse, error)
}

// Stats measure what runs.
type Stats interface {
	ContainerStats(ctx context.Context, id string) (*rt.ContainerStats, error)
	ListContainerStats(ctx context.Context, filter *rt.ContainerStatsFilter) ([]*rt.ContainerStats, error)
	PodSandboxStats(ctx context.Context, id string) (*rt.PodSandboxStats, error)
	ListPodSandboxStats(ctx context.Context, filter *rt.PodSandboxStatsFilter) ([]*rt.PodSandboxStats, error)
}

// Host is what the runtime says of itself.
type Host interface {
	// Version waits, as long as ctx allows, for a runtime that is not up yet.
	Version(ctx context.Context) (*rt.VersionResponse, error)
	// Status tells the conditions RuntimeReady and NetworkReady, and the runtime's features.
	Status(ctx context.Context) (*rt.StatusResponse, error)
	// RuntimeConfig tells the cgroup driver.
	RuntimeConfig(ctx context.Context) (*rt.RuntimeConfigResponse, error)
	// UpdateRuntimeConfig hands the node's pod address range over.
	UpdateRuntimeConfig(ctx context.Context, config *rt.RuntimeConfig) error
}
