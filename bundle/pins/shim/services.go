package main

import (
	"context"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// register names the services that the shim offers on its socket.
func register() {
	registry.Register(&plugin.Registration{
		Type: plugins.TTRPCPlugin, ID: "sandbox", Requires: []plugin.Type{plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			down, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			return newSandbox(down.(shutdown.Service)), nil
		},
	})
	registry.Register(&plugin.Registration{
		Type: plugins.TTRPCPlugin, ID: "task", Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, err
			}
			down, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			containers, err := task.NewTaskService(ic.Context, publisher.(shim.Publisher), down.(shutdown.Service))
			if err != nil {
				return nil, err
			}
			// The service has just made its reaper the monitor of all commands.
			runc.Monitor = commands{runc.Monitor}
			return tasks{containers}, nil
		},
	})
}

// tasks is containerd's service for containers, except that the shim lives as long as its pod.
type tasks struct {
	taskapi.TTRPCTaskService
}

func (t tasks) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, t)
	return nil
}

// Shutdown is called for each container that was removed, and means the shim only where there is no pod.
func (t tasks) Shutdown(ctx context.Context, r *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	if isPod(".") {
		return &emptypb.Empty{}, nil
	}
	return t.TTRPCTaskService.Shutdown(ctx, r)
}
