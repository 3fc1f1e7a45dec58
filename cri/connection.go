package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Bounds of the calls. Two minutes is upstream's runtimeRequestTimeout, a sandbox may take twice that, and 16 MiB is its
// message limit; a list of a thousand containers with labels needs about one.
const (
	callTimeout    = 2 * time.Minute
	sandboxTimeout = 2 * callTimeout
	maxMessage     = 16 << 20
	// unavailableRetry is how soon a runtime that is coming up is asked again.
	unavailableRetry = 10 * time.Millisecond
)

// connection makes the calls over gRPC.
type connection struct {
	runtime rt.RuntimeServiceClient
	images  rt.ImageServiceClient
}

var _ Runtime = (*connection)(nil)

// Connect returns the runtime that listens at endpoint ("unix:///run/containerd/containerd.sock"). It does not wait for it:
// Version does. The connection is mended whenever it breaks, and closed when ctx is done.
func Connect(ctx context.Context, endpoint string) (Runtime, error) {
	path, ok := strings.CutPrefix(endpoint, "unix://")
	if !ok || !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("runtime endpoint %q: want unix:///absolute/path", endpoint)
	}
	conn, err := grpc.NewClient("unix://"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithIdleTimeout(0),
		grpc.WithUnaryInterceptor(awaitRuntime),
		// A runtime that is just starting shall be found within milliseconds, not after gRPC's default second.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("runtime endpoint %q: %w", endpoint, err)
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	return &connection{runtime: rt.NewRuntimeServiceClient(conn), images: rt.NewImageServiceClient(conn)}, nil
}

// patient are the calls that wait, as long as their context allows, for a runtime that starts (again), instead of failing: those
// that look and those that start something. Status is to tell at once that it is away, and a probe's ExecSync has little time.
var patient = map[string]bool{
	rt.RuntimeService_Version_FullMethodName:         true,
	rt.RuntimeService_RunPodSandbox_FullMethodName:   true,
	rt.RuntimeService_CreateContainer_FullMethodName: true,
	rt.RuntimeService_StartContainer_FullMethodName:  true,
	rt.RuntimeService_ListPodSandbox_FullMethodName:  true,
	rt.RuntimeService_ListContainers_FullMethodName:  true,
	rt.ImageService_ImageStatus_FullMethodName:       true,
	rt.ImageService_PullImage_FullMethodName:         true,
}

// notUp is what containerd answers while it listens, but still recovers its containers; it has then done nothing.
const notUp = "server is not initialized yet"

// awaitRuntime makes the patient calls.
func awaitRuntime(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if !patient[method] {
		return invoke(ctx, method, req, reply, conn, opts...)
	}
	opts = append(opts, grpc.WaitForReady(true))
	for {
		err := invoke(ctx, method, req, reply, conn, opts...)
		if status.Code(err) != codes.Unavailable || !strings.Contains(Message(err), notUp) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(unavailableRetry):
		}
	}
}

// IsNotFound says that the sandbox, container or image of a call is not there.
func IsNotFound(err error) bool { return status.Code(err) == codes.NotFound }

// IsUnimplemented says that the runtime does not know the call.
func IsUnimplemented(err error) bool { return status.Code(err) == codes.Unimplemented }

// IsDeadline says that a call, or the command of an ExecSync, took longer than it may.
func IsDeadline(err error) bool {
	return status.Code(err) == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded)
}

// Message is what the runtime said, without the wrapping of gRPC.
func Message(err error) string { return status.Convert(err).Message() }

func gone(err error) error {
	if IsNotFound(err) {
		return nil
	}
	return err
}

// wholeSeconds rounds up: a grace of 300 ms must not become "kill at once".
func wholeSeconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}

func (c *connection) RunPodSandbox(ctx context.Context, config *rt.PodSandboxConfig, handler string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	resp, err := c.runtime.RunPodSandbox(ctx, &rt.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	return resp.GetPodSandboxId(), err
}

func (c *connection) StopPodSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	_, err := c.runtime.StopPodSandbox(ctx, &rt.StopPodSandboxRequest{PodSandboxId: id})
	return gone(err)
}

func (c *connection) RemovePodSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	_, err := c.runtime.RemovePodSandbox(ctx, &rt.RemovePodSandboxRequest{PodSandboxId: id})
	return gone(err)
}

func (c *connection) PodSandboxStatus(ctx context.Context, id string) (*rt.PodSandboxStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.runtime.PodSandboxStatus(ctx, &rt.PodSandboxStatusRequest{PodSandboxId: id})
	return resp.GetStatus(), err
}

func (c *connection) ListPodSandbox(ctx context.Context, filter *rt.PodSandboxFilter) ([]*rt.PodSandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.runtime.ListPodSandbox(ctx, &rt.ListPodSandboxRequest{Filter: filter})
	return resp.GetItems(), err
}

func (c *connection) CreateContainer(ctx context.Context, sandbox string, config *rt.ContainerConfig, sandboxConfig *rt.PodSandboxConfig) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.runtime.CreateContainer(ctx, &rt.CreateContainerRequest{PodSandboxId: sandbox, Config: config, SandboxConfig: sandboxConfig})
	return resp.GetContainerId(), err
}

func (c *connection) StartContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.runtime.StartContainer(ctx, &rt.StartContainerRequest{ContainerId: id})
	return err
}

func (c *connection) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+grace)
	defer cancel()
	_, err := c.runtime.StopContainer(ctx, &rt.StopContainerRequest{ContainerId: id, Timeout: wholeSeconds(grace)})
	return gone(err)
}

func (c *connection) RemoveContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.runtime.RemoveContainer(ctx, &rt.RemoveContainerRequest{ContainerId: id})
	return gone(err)
}

func (c *connection) ListContainers(ctx context.Context, filter *rt.ContainerFilter) ([]*rt.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.runtime.ListContainers(ctx, &rt.ListContainersRequest{Filter: filter})
	return resp.GetContainers(), err
}

func (c *connection) ContainerStatus(ctx context.Context, id string) (*rt.ContainerStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.runtime.ContainerStatus(ctx, &rt.ContainerStatusRequest{ContainerId: id})
	return resp.GetStatus(), err
}

func (c *connection) UpdateContainerResources(ctx context.Context, id string, resources *rt.LinuxContainerResources) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.runtime.UpdateContainerResources(ctx, &rt.UpdateContainerResourcesRequest{ContainerId: id, Linux: resources})
	return err
}

func (c *connection) ReopenContainerLog(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.runtime.ReopenContainerLog(ctx, &rt.ReopenContainerLogRequest{ContainerId: id})
	return err
}

// Events subscribes. The runtime confirms nothing, so ready is called once the request is on its way; a caller that lists
// after ready still misses nothing that matters, as the request and the list travel on one connection, in order.
func (c *connection) Events(ctx context.Context, ready func(), f func(*rt.ContainerEventResponse)) error {
	stream, err := c.runtime.GetContainerEvents(ctx, &rt.GetEventsRequest{})
	if err != nil {
		return streamEnd(ctx, err)
	}
	ready()
	for {
		event, err := stream.Recv()
		if err != nil {
			return streamEnd(ctx, err)
		}
		f(event)
	}
}

func streamEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (c *connection) ExecSync(ctx context.Context, container string, cmd []string, timeout time.Duration) (*rt.ExecSyncResponse, error) {
	limit := callTimeout
	if timeout > 0 {
		// The runtime itself ends the command in time; this only bounds a runtime that hangs.
		limit = timeout + 10*time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.runtime.ExecSync(ctx, &rt.ExecSyncRequest{ContainerId: container, Cmd: cmd, Timeout: wholeSeconds(timeout)})
}

func (c *connection) Exec(ctx context.Context, req *rt.ExecRequest) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.runtime.Exec(ctx, req)
	return resp.GetUrl(), err
}

func (c *connection) Attach(ctx context.Context, req *rt.AttachRequest) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.runtime.Attach(ctx, req)
	return resp.GetUrl(), err
}

func (c *connection) PortForward(ctx context.Context, req *rt.PortForwardRequest) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.runtime.PortForward(ctx, req)
	return resp.GetUrl(), err
}

func (c *connection) ImageStatus(ctx context.Context, image *rt.ImageSpec) (*rt.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.images.ImageStatus(ctx, &rt.ImageStatusRequest{Image: image})
	return resp.GetImage(), gone(err)
}

func (c *connection) ListImages(ctx context.Context) ([]*rt.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.images.ListImages(ctx, &rt.ListImagesRequest{})
	return resp.GetImages(), err
}

// PullImage has no time limit of its own: the runtime gives up when a download makes no progress.
func (c *connection) PullImage(ctx context.Context, image *rt.ImageSpec, auth *rt.AuthConfig, config *rt.PodSandboxConfig) (string, error) {
	resp, err := c.images.PullImage(ctx, &rt.PullImageRequest{Image: image, Auth: auth, SandboxConfig: config})
	return resp.GetImageRef(), err
}

func (c *connection) RemoveImage(ctx context.Context, image *rt.ImageSpec) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.images.RemoveImage(ctx, &rt.RemoveImageRequest{Image: image})
	return gone(err)
}

func (c *connection) ImageFsInfo(ctx context.Context) (*rt.ImageFsInfoResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.images.ImageFsInfo(ctx, &rt.ImageFsInfoRequest{})
}

func (c *connection) ContainerStats(ctx context.Context, id string) (*rt.ContainerStats, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.runtime.ContainerStats(ctx, &rt.ContainerStatsRequest{ContainerId: id})
	return resp.GetStats(), err
}

func (c *connection) ListContainerStats(ctx context.Context, filter *rt.ContainerStatsFilter) ([]*rt.ContainerStats, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.runtime.ListContainerStats(ctx, &rt.ListContainerStatsRequest{Filter: filter})
	return resp.GetStats(), err
}

func (c *connection) PodSandboxStats(ctx context.Context, id string) (*rt.PodSandboxStats, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.runtime.PodSandboxStats(ctx, &rt.PodSandboxStatsRequest{PodSandboxId: id})
	return resp.GetStats(), err
}

func (c *connection) ListPodSandboxStats(ctx context.Context, filter *rt.PodSandboxStatsFilter) ([]*rt.PodSandboxStats, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.runtime.ListPodSandboxStats(ctx, &rt.ListPodSandboxStatsRequest{Filter: filter})
	return resp.GetStats(), err
}

func (c *connection) Version(ctx context.Context) (*rt.VersionResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.runtime.Version(ctx, &rt.VersionRequest{Version: "v1"})
}

func (c *connection) Status(ctx context.Context) (*rt.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.runtime.Status(ctx, &rt.StatusRequest{})
}

func (c *connection) RuntimeConfig(ctx context.Context) (*rt.RuntimeConfigResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.runtime.RuntimeConfig(ctx, &rt.RuntimeConfigRequest{})
}

func (c *connection) UpdateRuntimeConfig(ctx context.Context, config *rt.RuntimeConfig) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.runtime.UpdateRuntimeConfig(ctx, &rt.UpdateRuntimeConfigRequest{RuntimeConfig: config})
	return err
}
