package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/shim"
	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// pods starts and ends shims; containerd runs this executable anew for each. For bundles of containers it is containerd's own.
type pods struct {
	shim.Shim
}

func newManager() shim.Shim { return pods{manager.NewShimManager("io.containerd.runc.v2")} }

// Start starts the shim of a pod: this executable once more, with the socket on which containerd will call it.
func (m pods) Start(ctx context.Context, p *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	// Only containers have a specification.
	if _, err := os.Lstat("config.json"); !errors.Is(err, fs.ErrNotExist) {
		return m.Shim.Start(ctx, p)
	}
	sockets := p.GetSocketDir()
	if sockets == "" {
		sockets = filepath.Join(defaults.DefaultStateDir, "s")
	}
	address, err := shim.CreateSocketAddress(ctx, sockets, p.GetContainerdGrpcAddress(), p.GetInstanceID(), false)
	if err != nil {
		return nil, err
	}
	listener, err := shim.NewSocket(address)
	if err != nil {
		return nil, fmt.Errorf("listen for containerd: %w", err)
	}
	defer listener.Close()
	listener.SetUnlinkOnClose(false)
	if err := serve(p, listener.File); err != nil {
		return nil, errors.Join(err, shim.RemoveSocket(address))
	}
	return &bootapi.BootstrapResult{Version: 3, Protocol: "ttrpc", Address: address}, nil
}

func serve(p *bootapi.BootstrapParams, socket func() (*os.File, error)) error {
	file, err := socket()
	if err != nil {
		return err
	}
	defer file.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-namespace", p.GetNamespace(), "-id", p.GetInstanceID(), "-address", p.GetContainerdGrpcAddress())
	if p.GetLogLevel() == bootapi.LogLevel_LOG_LEVEL_DEBUG || p.GetLogLevel() == bootapi.LogLevel_LOG_LEVEL_TRACE {
		cmd.Args = append(cmd.Args, "-debug")
	}
	cmd.ExtraFiles = []*os.File{file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := shim.AdjustOOMScore(cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	return cmd.Process.Release()
}

// Stop cleans up after a shim that is gone, however it went.
func (m pods) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	if !isPod(".") {
		runc.Monitor = commands{runc.Monitor}
		return m.Shim.Stop(ctx, id)
	}
	p, err := readPod(".")
	if err != nil {
		return shim.StopStatus{}, err
	}
	status := shim.StopStatus{Pid: p.Pid, ExitStatus: 128 + int(unix.SIGKILL), ExitedAt: time.Now()}
	return status, errors.Join(p.kill(), p.release(), removeSocket())
}

// removeSocket removes the socket of a shim that was killed.
func removeSocket() error {
	data, err := os.ReadFile("bootstrap.json")
	if err != nil {
		return ignoreMissing(err)
	}
	var boot bootapi.BootstrapResult
	if err := json.Unmarshal(data, &boot); err != nil {
		return err
	}
	return ignoreMissing(shim.RemoveSocket(boot.Address))
}
