// Package fake is a container runtime that runs nothing: containers "run" by the clock of package time, so under
// testing/synctest hours pass at once. It keeps the promises that cri/critest checks on a real runtime. Tests and testcluster
// import it, and daemon for simulated nodes.
package fake

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/cri"
)

// Options program a Runtime. The zero value pulls any image at once and runs any command as Command says.
type Options struct {
	// Behave tells what a container will do when it is started; nil means Command.
	Behave func(sandbox *rt.PodSandboxConfig, config *rt.ContainerConfig) Behaviour
	// Pull is called for each pull and may wait; nil error puts the image there. nil pulls all at once.
	Pull func(ctx context.Context, image string, auth *rt.AuthConfig) error
	// Sandbox is called before a sandbox is made; an error fails it. May be nil.
	Sandbox func(config *rt.PodSandboxConfig) error
	// Images are there from the start.
	Images []string
	// PodCIDR is the range that sandboxes get addresses from; default 10.88.0.0/16.
	PodCIDR netip.Prefix
}

// Behaviour is what one container does.
type Behaviour struct {
	// ExitAfter is how long it runs; 0 means until it is stopped.
	ExitAfter time.Duration
	ExitCode  int32
	// IgnoreTerm: only SIGKILL ends it.
	IgnoreTerm bool
	// Log is written to its log once it starts, line by line.
	Log string
	// MilliCores is how much it uses of a processor while it runs, in thousandths.
	MilliCores int64
	// Termination is written to the file mounted at the termination message path when it ends by itself.
	Termination string
	// CreateErr and StartErr fail the calls.
	CreateErr, StartErr error
	// Exec answers commands; nil treats them as Command would run them.
	Exec func(cmd []string) (stdout string, code int32, err error)
}

// Command is the behaviour of the test application's commands, "/app VERB ARGS…", the same program that critest runs on
// real runtimes. Verbs: "run" (until SIGTERM), "stubborn" (until SIGKILL), "exit CODE", "exit-after DURATION CODE",
// "log TEXT" (then run), "say DURATION CODE TEXT" (log, run that long, exit), "message FILE TEXT CODE" (write a file, then exit), "sleep DURATION". Anything else runs until
// stopped.
func Command(cmd []string) Behaviour {
	arg := func(i int) string {
		if i < len(cmd) {
			return cmd[i]
		}
		return ""
	}
	number := func(i int) int32 {
		n, _ := strconv.ParseInt(arg(i), 10, 32)
		return int32(n)
	}
	length := func(i int) time.Duration {
		d, _ := time.ParseDuration(arg(i))
		return d
	}
	switch arg(1) {
	case "stubborn":
		return Behaviour{IgnoreTerm: true}
	case "exit":
		return Behaviour{ExitAfter: time.Nanosecond, ExitCode: number(2)}
	case "exit-after":
		return Behaviour{ExitAfter: length(2), ExitCode: number(3)}
	case "log":
		return Behaviour{Log: strings.Join(cmd[2:], " ")}
	case "say":
		return Behaviour{ExitAfter: max(length(2), time.Nanosecond), ExitCode: number(3), Log: strings.Join(cmd[min(4, len(cmd)):], " ")}
	case "message":
		return Behaviour{ExitAfter: time.Nanosecond, Termination: arg(3), ExitCode: number(4)}
	case "sleep":
		return Behaviour{ExitAfter: length(2)}
	}
	return Behaviour{}
}

// Runtime is the fake. Make it with New.
type Runtime struct {
	opts Options

	mu         sync.Mutex
	next       int
	addr       netip.Addr
	sandboxes  map[string]*sandbox
	containers map[string]*container
	images     map[string]*rt.Image
	listeners  map[*listener]struct{}
}

var _ cri.Runtime = (*Runtime)(nil)

type sandbox struct {
	status *rt.PodSandboxStatus
	config *rt.PodSandboxConfig
}

type container struct {
	status    *rt.ContainerStatus
	config    *rt.ContainerConfig
	sandbox   string
	behaviour Behaviour
	exit      *time.Timer
	done      chan struct{} // closed when it has ended
}

// New returns a fake runtime with nothing in it but the images of opts.
func New(opts Options) *Runtime {
	if opts.Behave == nil {
		opts.Behave = func(_ *rt.PodSandboxConfig, c *rt.ContainerConfig) Behaviour {
			return Command(append(append([]string{}, c.GetCommand()...), c.GetArgs()...))
		}
	}
	if opts.Pull == nil {
		opts.Pull = func(context.Context, string, *rt.AuthConfig) error { return nil }
	}
	if !opts.PodCIDR.IsValid() {
		opts.PodCIDR = netip.MustParsePrefix("10.88.0.0/16")
	}
	r := &Runtime{
		opts:       opts,
		addr:       opts.PodCIDR.Masked().Addr().Next(),
		sandboxes:  map[string]*sandbox{},
		containers: map[string]*container{},
		images:     map[string]*rt.Image{},
		listeners:  map[*listener]struct{}{},
	}
	for _, name := range opts.Images {
		r.addImage(name)
	}
	return r
}

func notFound(kind, id string) error {
	return status.Errorf(codes.NotFound, "an error occurred when try to find %s %q: not found", kind, id)
}

func (r *Runtime) newID() string {
	r.next++
	return fmt.Sprintf("%064x", r.next)
}

// RunPodSandbox implements cri.Sandboxes.
func (r *Runtime) RunPodSandbox(ctx context.Context, config *rt.PodSandboxConfig, handler string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if r.opts.Sandbox != nil {
		if err := r.opts.Sandbox(config); err != nil {
			return "", err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	network := &rt.PodSandboxNetworkStatus{}
	options := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if options.GetNetwork() != rt.NamespaceMode_NODE {
		r.addr = r.addr.Next()
		network.Ip = r.addr.String()
	}
	id := r.newID()
	r.sandboxes[id] = &sandbox{config: config, status: &rt.PodSandboxStatus{
		Id: id, Metadata: config.Metadata, State: rt.PodSandboxState_SANDBOX_READY, CreatedAt: time.Now().UnixNano(),
		Network: network, Labels: config.Labels, Annotations: config.Annotations, RuntimeHandler: handler,
		Linux: &rt.LinuxPodSandboxStatus{Namespaces: &rt.Namespace{Options: options}},
	}}
	r.publish(id, id, rt.ContainerEventType_CONTAINER_CREATED_EVENT)
	r.publish(id, id, rt.ContainerEventType_CONTAINER_STARTED_EVENT)
	return id, nil
}

// StopPodSandbox implements cri.Sandboxes.
func (r *Runtime) StopPodSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil
	}
	for cid, c := range r.containers {
		if c.sandbox == id {
			r.end(cid, 137)
		}
	}
	if s.status.State == rt.PodSandboxState_SANDBOX_READY {
		s.status = cloneSandbox(s.status)
		s.status.State = rt.PodSandboxState_SANDBOX_NOTREADY
		s.status.Network = &rt.PodSandboxNetworkStatus{}
		r.publish(id, id, rt.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
	return nil
}

// RemovePodSandbox implements cri.Sandboxes.
func (r *Runtime) RemovePodSandbox(ctx context.Context, id string) error {
	if err := r.StopPodSandbox(ctx, id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sandboxes[id] == nil {
		return nil
	}
	for cid, c := range r.containers {
		if c.sandbox == id {
			delete(r.containers, cid)
			r.publish(id, cid, rt.ContainerEventType_CONTAINER_DELETED_EVENT)
		}
	}
	r.publish(id, id, rt.ContainerEventType_CONTAINER_DELETED_EVENT)
	delete(r.sandboxes, id)
	return nil
}

// PodSandboxStatus implements cri.Sandboxes.
func (r *Runtime) PodSandboxStatus(_ context.Context, id string) (*rt.PodSandboxStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil, notFound("sandbox", id)
	}
	return s.status, nil
}

// ListPodSandbox implements cri.Sandboxes.
func (r *Runtime) ListPodSandbox(_ context.Context, filter *rt.PodSandboxFilter) ([]*rt.PodSandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*rt.PodSandbox
	for id, s := range r.sandboxes {
		st := s.status
		if f := filter; f != nil {
			if f.Id != "" && f.Id != id || f.State != nil && f.State.State != st.State || !matches(f.LabelSelector, st.Labels) {
				continue
			}
		}
		out = append(out, &rt.PodSandbox{Id: id, Metadata: st.Metadata, State: st.State, CreatedAt: st.CreatedAt,
			Labels: st.Labels, Annotations: st.Annotations, RuntimeHandler: st.RuntimeHandler})
	}
	return out, nil
}

func matches(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// CreateContainer implements cri.Containers.
func (r *Runtime) CreateContainer(ctx context.Context, sandboxID string, config *rt.ContainerConfig, sandboxConfig *rt.PodSandboxConfig) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	behaviour := r.opts.Behave(sandboxConfig, config)
	if behaviour.CreateErr != nil {
		return "", behaviour.CreateErr
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[sandboxID]
	if s == nil {
		return "", notFound("sandbox", sandboxID)
	}
	if s.status.State != rt.PodSandboxState_SANDBOX_READY {
		return "", status.Errorf(codes.Unknown, "sandbox %q is not running", sandboxID)
	}
	image := r.findImage(config.GetImage().GetImage())
	if image == nil {
		return "", notFound("image", config.GetImage().GetImage())
	}
	id := r.newID()
	logPath := ""
	if sandboxConfig.GetLogDirectory() != "" && config.LogPath != "" {
		logPath = filepath.Join(sandboxConfig.LogDirectory, config.LogPath)
	}
	r.containers[id] = &container{
		sandbox: sandboxID, config: config, behaviour: behaviour, done: make(chan struct{}),
		status: &rt.ContainerStatus{
			Id: id, Metadata: config.Metadata, State: rt.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(),
			Image: &rt.ImageSpec{Image: imageName(image)}, ImageRef: imageRef(image), ImageId: image.Id,
			Labels: config.Labels, Annotations: config.Annotations, Mounts: config.Mounts, LogPath: logPath,
			Resources: &rt.ContainerResources{Linux: config.GetLinux().GetResources()},
		},
	}
	r.publish(sandboxID, id, rt.ContainerEventType_CONTAINER_CREATED_EVENT)
	return id, nil
}

// StartContainer implements cri.Containers.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return notFound("container", id)
	}
	if c.status.State != rt.ContainerState_CONTAINER_CREATED {
		return status.Errorf(codes.Unknown, "container %q is in %s state", id, c.status.State)
	}
	if err := c.behaviour.StartErr; err != nil {
		c.status = cloneContainer(c.status)
		c.status.State = rt.ContainerState_CONTAINER_EXITED
		c.status.FinishedAt, c.status.ExitCode = time.Now().UnixNano(), 128
		c.status.Reason, c.status.Message = "StartError", err.Error()
		close(c.done)
		r.publish(c.sandbox, id, rt.ContainerEventType_CONTAINER_STOPPED_EVENT)
		return err
	}
	c.status = cloneContainer(c.status)
	c.status.State = rt.ContainerState_CONTAINER_RUNNING
	c.status.StartedAt = time.Now().UnixNano()
	if c.behaviour.Log != "" && c.status.LogPath != "" {
		if err := appendLog(c.status.LogPath, c.behaviour.Log); err != nil {
			return status.Error(codes.Unknown, err.Error())
		}
	}
	r.publish(c.sandbox, id, rt.ContainerEventType_CONTAINER_STARTED_EVENT)
	if c.behaviour.ExitAfter > 0 {
		c.exit = time.AfterFunc(c.behaviour.ExitAfter, func() { r.exit(id) })
	}
	return nil
}

func appendLog(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(text, "\n") {
		if _, err = fmt.Fprintf(f, "%s stdout F %s\n", time.Now().UTC().Format(time.RFC3339Nano), line); err != nil {
			break
		}
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// exit ends a container by itself.
func (r *Runtime) exit(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil || c.status.State != rt.ContainerState_CONTAINER_RUNNING {
		return
	}
	if text := c.behaviour.Termination; text != "" {
		for _, m := range c.config.Mounts {
			if m.ContainerPath == c.config.Annotations["io.kubernetes.container.terminationMessagePath"] {
				_ = os.WriteFile(m.HostPath, []byte(text), 0o666)
			}
		}
	}
	r.end(id, c.behaviour.ExitCode)
}

// end marks a container as ended; the caller holds the lock.
func (r *Runtime) end(id string, code int32) {
	c := r.containers[id]
	if c.status.State == rt.ContainerState_CONTAINER_EXITED {
		return
	}
	if c.exit != nil {
		c.exit.Stop()
	}
	c.status = cloneContainer(c.status)
	c.status.State = rt.ContainerState_CONTAINER_EXITED
	c.status.FinishedAt = time.Now().UnixNano()
	c.status.ExitCode = code
	c.status.Reason = "Completed"
	if code != 0 {
		c.status.Reason = "Error"
	}
	close(c.done)
	r.publish(c.sandbox, id, rt.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// Kill ends a running container from outside, as an operator's or the kernel's kill would. reason is "Error" or "OOMKilled".
func (r *Runtime) Kill(id string, code int32, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil || c.status.State != rt.ContainerState_CONTAINER_RUNNING {
		return
	}
	r.end(id, code)
	c.status = cloneContainer(c.status)
	c.status.Reason = reason
	r.publish(c.sandbox, id, rt.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// StopContainer implements cri.Containers.
func (r *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	r.mu.Lock()
	c := r.containers[id]
	if c == nil {
		r.mu.Unlock()
		return nil
	}
	if c.status.State != rt.ContainerState_CONTAINER_RUNNING || grace > 0 && !c.behaviour.IgnoreTerm {
		r.end(id, 143)
		r.mu.Unlock()
		return nil
	}
	r.mu.Unlock()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.containers[id] != nil {
		r.end(id, 137)
	}
	return nil
}

// RemoveContainer implements cri.Containers.
func (r *Runtime) RemoveContainer(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil
	}
	r.end(id, 137)
	delete(r.containers, id)
	r.publish(c.sandbox, id, rt.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}

// ListContainers implements cri.Containers.
func (r *Runtime) ListContainers(_ context.Context, filter *rt.ContainerFilter) ([]*rt.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*rt.Container
	for id, c := range r.containers {
		st := c.status
		if f := filter; f != nil {
			if f.Id != "" && f.Id != id || f.PodSandboxId != "" && f.PodSandboxId != c.sandbox ||
				f.State != nil && f.State.State != st.State || !matches(f.LabelSelector, st.Labels) {
				continue
			}
		}
		out = append(out, &rt.Container{Id: id, PodSandboxId: c.sandbox, Metadata: st.Metadata, Image: st.Image, ImageRef: st.ImageRef,
			State: st.State, CreatedAt: st.CreatedAt, Labels: st.Labels, Annotations: st.Annotations, ImageId: st.ImageId})
	}
	return out, nil
}

// ContainerStatus implements cri.Containers.
func (r *Runtime) ContainerStatus(_ context.Context, id string) (*rt.ContainerStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, notFound("container", id)
	}
	return c.status, nil
}

// UpdateContainerResources implements cri.Containers.
func (r *Runtime) UpdateContainerResources(_ context.Context, id string, resources *rt.LinuxContainerResources) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return notFound("container", id)
	}
	c.status = cloneContainer(c.status)
	c.status.Resources = &rt.ContainerResources{Linux: resources}
	return nil
}

// ReopenContainerLog implements cri.Containers.
func (r *Runtime) ReopenContainerLog(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return notFound("container", id)
	}
	if c.status.State != rt.ContainerState_CONTAINER_RUNNING {
		return status.Errorf(codes.Unknown, "container is not running")
	}
	if c.status.LogPath == "" {
		return nil
	}
	f, err := os.OpenFile(c.status.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return status.Error(codes.Unknown, err.Error())
	}
	return f.Close()
}

// ExecSync implements cri.Streams.
func (r *Runtime) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (*rt.ExecSyncResponse, error) {
	r.mu.Lock()
	c := r.containers[id]
	state := rt.ContainerState_CONTAINER_UNKNOWN
	if c != nil {
		state = c.status.State
	}
	r.mu.Unlock()
	if c == nil {
		return nil, notFound("container", id)
	}
	if state != rt.ContainerState_CONTAINER_RUNNING {
		return nil, status.Errorf(codes.Unknown, "container is in %s state", state)
	}
	if c.behaviour.Exec != nil {
		out, code, err := c.behaviour.Exec(cmd)
		return &rt.ExecSyncResponse{Stdout: []byte(out), ExitCode: code}, err
	}
	b := Command(cmd)
	wait := b.ExitAfter
	if wait == 0 || timeout > 0 && wait > timeout {
		if timeout == 0 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		time.Sleep(timeout)
		return nil, status.Errorf(codes.DeadlineExceeded, "failed to exec in container: timeout %s exceeded: context deadline exceeded", timeout)
	}
	time.Sleep(wait)
	return &rt.ExecSyncResponse{Stdout: []byte(b.Log), ExitCode: b.ExitCode}, nil
}

// Exec implements cri.Streams; the fake has no streaming server.
func (r *Runtime) Exec(context.Context, *rt.ExecRequest) (string, error) {
	return "", status.Error(codes.Unimplemented, "exec: the fake runtime has no processes")
}

// Attach implements cri.Streams; the fake has no streaming server.
func (r *Runtime) Attach(context.Context, *rt.AttachRequest) (string, error) {
	return "", status.Error(codes.Unimplemented, "attach: the fake runtime has no processes")
}

// PortForward implements cri.Streams; the fake has no streaming server.
func (r *Runtime) PortForward(context.Context, *rt.PortForwardRequest) (string, error) {
	return "", status.Error(codes.Unimplemented, "port-forward: the fake runtime has no processes")
}

// cloneContainer and cloneSandbox copy one level: what listeners hold is never changed.
func cloneContainer(s *rt.ContainerStatus) *rt.ContainerStatus {
	return &rt.ContainerStatus{Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, StartedAt: s.StartedAt,
		FinishedAt: s.FinishedAt, ExitCode: s.ExitCode, Image: s.Image, ImageRef: s.ImageRef, ImageId: s.ImageId, Reason: s.Reason,
		Message: s.Message, Labels: maps.Clone(s.Labels), Annotations: maps.Clone(s.Annotations), Mounts: s.Mounts, LogPath: s.LogPath,
		Resources: s.Resources, User: s.User}
}

func cloneSandbox(s *rt.PodSandboxStatus) *rt.PodSandboxStatus {
	return &rt.PodSandboxStatus{Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Network: s.Network,
		Linux: s.Linux, Labels: s.Labels, Annotations: s.Annotations, RuntimeHandler: s.RuntimeHandler}
}
