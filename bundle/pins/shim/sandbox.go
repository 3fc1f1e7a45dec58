package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	api "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/platforms"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// answerTime is how long the shim stays after it was told to go, so that its answer is read: the library that serves it does not say when it is sent.
const answerTime = 100 * time.Millisecond

// sandbox is the service that containerd's sandbox controller calls, for the one pod of this shim. Its working directory is the pod's bundle.
type sandbox struct {
	down shutdown.Service

	mu      sync.Mutex
	id      string
	config  *podConfig
	netns   string
	pod     pod
	created time.Time
	// ended is closed when the pause process is gone; it is nil as long as none was started.
	ended  chan struct{}
	exit   uint32
	exited time.Time
}

func newSandbox(down shutdown.Service) *sandbox { return &sandbox{down: down} }

var _ api.TTRPCSandboxService = (*sandbox)(nil)

// RegisterTTRPC is called by the shim's main.
func (s *sandbox) RegisterTTRPC(server *ttrpc.Server) error {
	api.RegisterTTRPCSandboxService(server, s)
	return nil
}

// CreateSandbox reads what the pod shall be. Nothing is made yet.
func (s *sandbox) CreateSandbox(_ context.Context, r *api.CreateSandboxRequest) (*api.CreateSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("sandbox %s: %w", s.id, errdefs.ErrAlreadyExists))
	}
	config, err := parsePod(r.GetOptions().GetValue())
	if err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err))
	}
	s.id, s.config, s.netns = r.GetSandboxID(), config, r.GetNetnsPath()
	return &api.CreateSandboxResponse{}, nil
}

// StartSandbox makes the pod's files and starts its process. What a failure leaves behind goes with ShutdownSandbox, which the controller then calls.
func (s *sandbox) StartSandbox(context.Context, *api.StartSandboxRequest) (*api.StartSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config == nil || s.ended != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("start sandbox %q: %w", s.id, errdefs.ErrFailedPrecondition))
	}
	var err error
	if s.pod, err = makePod(s.id, s.config); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	exits, err := s.pod.start(s.config, s.netns)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	s.created, s.ended = time.Now(), make(chan struct{})
	go func() {
		status := <-exits
		s.mu.Lock()
		s.exit, s.exited = uint32(status), time.Now()
		s.mu.Unlock()
		close(s.ended)
	}()
	return &api.StartSandboxResponse{Pid: uint32(s.pod.Pid), CreatedAt: timestamppb.New(s.created)}, nil
}

func (s *sandbox) Platform(context.Context, *api.PlatformRequest) (*api.PlatformResponse, error) {
	p := platforms.DefaultSpec()
	return &api.PlatformResponse{Platform: &types.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}}, nil
}

// process returns when the pause process was started and a channel that is closed at its end.
func (s *sandbox) process() (ended chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("sandbox %q: %w", s.id, errdefs.ErrNotFound))
	}
	return s.ended, nil
}

// StopSandbox ends the pause process, and with it every process of a shared process namespace.
func (s *sandbox) StopSandbox(ctx context.Context, _ *api.StopSandboxRequest) (*api.StopSandboxResponse, error) {
	if err := s.stop(ctx); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &api.StopSandboxResponse{}, nil
}

func (s *sandbox) stop(ctx context.Context) error {
	s.mu.Lock()
	ended, p := s.ended, s.pod
	s.mu.Unlock()
	if ended != nil {
		if err := p.kill(); err != nil {
			return err
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return fmt.Errorf("wait for sandbox's process %d: %w", p.Pid, ctx.Err())
		}
	}
	return p.release()
}

func (s *sandbox) WaitSandbox(ctx context.Context, _ *api.WaitSandboxRequest) (*api.WaitSandboxResponse, error) {
	ended, err := s.process()
	if err != nil {
		return nil, err
	}
	select {
	case <-ended:
	case <-ctx.Done():
		return nil, errgrpc.ToGRPC(ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &api.WaitSandboxResponse{ExitStatus: s.exit, ExitedAt: timestamppb.New(s.exited)}, nil
}

func (s *sandbox) SandboxStatus(context.Context, *api.SandboxStatusRequest) (*api.SandboxStatusResponse, error) {
	ended, err := s.process()
	if err != nil {
		return nil, err
	}
	out := &api.SandboxStatusResponse{SandboxID: s.id, Pid: uint32(s.pod.Pid), State: "SANDBOX_READY", CreatedAt: timestamppb.New(s.created)}
	select {
	case <-ended:
		out.State, out.ExitedAt = "SANDBOX_NOTREADY", timestamppb.New(s.exited)
	default:
	}
	return out, nil
}

func (s *sandbox) PingSandbox(context.Context, *api.PingRequest) (*api.PingResponse, error) {
	return &api.PingResponse{}, nil
}

// ShutdownSandbox removes all of the pod and ends the shim.
func (s *sandbox) ShutdownSandbox(ctx context.Context, _ *api.ShutdownSandboxRequest) (*api.ShutdownSandboxResponse, error) {
	if err := s.stop(ctx); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	time.AfterFunc(answerTime, s.down.Shutdown)
	return &api.ShutdownSandboxResponse{}, nil
}

// SandboxMetrics are those of the pod's control group.
func (s *sandbox) SandboxMetrics(context.Context, *api.SandboxMetricsRequest) (*api.SandboxMetricsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config == nil || s.config.cgroupParent == "" {
		return nil, errgrpc.ToGRPC(fmt.Errorf("control group of sandbox %q: %w", s.id, errdefs.ErrNotFound))
	}
	stats, err := groupStats(s.config.cgroupParent)
	if err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("read control group %s: %w", s.config.cgroupParent, err))
	}
	data, err := typeurl.MarshalAnyToProto(stats)
	if err != nil {
		return nil, err
	}
	return &api.SandboxMetricsResponse{Metrics: &types.Metric{Timestamp: timestamppb.Now(), ID: s.id, Data: data}}, nil
}

func groupStats(group string) (any, error) {
	if cgroups.Mode() == cgroups.Unified {
		g, err := cgroup2.Load(group)
		if err != nil {
			return nil, err
		}
		return g.StatFiltered(cgroup2.StatCPU | cgroup2.StatMemory)
	}
	g, err := cgroup1.Load(cgroup1.StaticPath(group))
	if err != nil {
		return nil, err
	}
	return g.Stat(cgroup1.IgnoreNotExist)
}

func (s *sandbox) UpdateSandbox(context.Context, *api.UpdateSandboxRequest) (*api.UpdateSandboxResponse, error) {
	return nil, errgrpc.ToGRPC(errdefs.ErrNotImplemented)
}
