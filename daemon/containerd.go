package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kebernetes/kebernetes/bundle"
	conf "github.com/kebernetes/kebernetes/cri/containerd"
)

const (
	containerdStart   = 15 * time.Second // until a started containerd must answer
	containerdStop    = 10 * time.Second // between SIGTERM and SIGKILL
	containerdBackoff = time.Second      // between its death and the next start
	containerdLog     = 10 << 20         // bytes of its log, and as many of the log before
)

// containerd runs the bundled containerd as a child. Containers are children of their shims, not of containerd, so they
// live on when it is restarted.
type containerd struct {
	bin         string // where the executables lie
	root        string // images and snapshots
	state       string // sockets and mounts; gone after a reboot
	cniConf     string
	snapshotter string
	log         *slog.Logger
	ready       chan struct{} // closed once the socket answers
}

func newContainerd(dataDir string, log *slog.Logger) *containerd {
	return &containerd{
		bin:         filepath.Join(dataDir, "bin"),
		root:        filepath.Join(dataDir, "containerd"),
		state:       filepath.Join(dataDir, "run", "containerd"),
		cniConf:     filepath.Join(dataDir, "cni"),
		snapshotter: snapshotterFor(dataDir),
		log:         log,
		ready:       make(chan struct{}),
	}
}

func (c *containerd) Name() string { return "containerd" }

// Endpoint is the CRI socket.
func (c *containerd) Endpoint() string { return "unix://" + c.socket() }

func (c *containerd) socket() string { return filepath.Join(c.state, "containerd.sock") }
func (c *containerd) config() string { return filepath.Join(c.root, "config.toml") }
func (c *containerd) pid() string    { return filepath.Join(c.state, "containerd.pid") }

// Run unpacks the executables, ends a containerd that an earlier run left, and keeps one running.
func (c *containerd) Run(ctx context.Context) error {
	if err := c.prepare(); err != nil {
		return err
	}
	for {
		err := c.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if c.isFirst() {
			return fmt.Errorf("start containerd: %w (its log: %s)", err, c.logFile())
		}
		c.log.Error("containerd ended and is started again; containers go on", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(containerdBackoff):
		}
	}
}

// isFirst says that containerd never answered: then something is wrong that another try will not mend.
func (c *containerd) isFirst() bool {
	select {
	case <-c.ready:
		return false
	default:
		return true
	}
}

func (c *containerd) prepare() error {
	if err := bundle.Unpack(c.bin, bundle.Containerd, bundle.Shim, bundle.Runc, bundle.Pause, bundle.CNI); err != nil {
		return err
	}
	for _, dir := range []string{c.root, c.state, c.cniConf} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("prepare containerd: %w", err)
		}
	}
	text, err := conf.Config{
		Root: c.root, State: c.state, Socket: c.socket(), Bin: c.bin, CNIConf: c.cniConf,
		Snapshotter: c.snapshotter, Certs: filepath.Join(filepath.Dir(c.root), "registries"),
	}.TOML()
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.config(), text, 0o600); err != nil {
		return fmt.Errorf("prepare containerd: %w", err)
	}
	if err := c.dropDeadLinks(); err != nil {
		return fmt.Errorf("remove pods of an earlier boot: %w", err)
	}
	return c.endEarlier()
}

// dropDeadLinks removes the links to pods' files that lead nowhere: the files were part of the state that went with the last boot.
func (c *containerd) dropDeadLinks() error {
	links, err := filepath.Glob(filepath.Join(c.root, "io.containerd.grpc.v1.cri", "sandboxes", "*"))
	if err != nil {
		return err
	}
	for _, link := range links {
		if _, err := os.Stat(link); errors.Is(err, fs.ErrNotExist) {
			if err := os.Remove(link); err != nil {
				return err
			}
		}
	}
	return nil
}

// endEarlier ends the containerd of a keb that was killed, if it is still there.
func (c *containerd) endEarlier() error {
	data, err := os.ReadFile(c.pid())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find an earlier containerd: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return nil // a torn file of a crash
	}
	// A pidfd names this very process: between the check and the signal its number cannot go to another.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(args, []byte(c.config())) {
		return nil // the number belongs to somebody else by now
	}
	c.log.Info("ending the containerd of an earlier run", "pid", pid)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end earlier containerd %d: %w", pid, err)
	}
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(containerdStop.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for earlier containerd %d: %w", pid, err)
	}
	return nil
}

func (c *containerd) logFile() string { return filepath.Join(c.root, "containerd.log") }

// once runs containerd until it ends or ctx is done.
func (c *containerd) once(ctx context.Context) error {
	// The kernel kills the child when the thread that started it ends, so that thread must live as long as the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out := &boundedLog{path: c.logFile(), most: containerdLog}
	defer out.Close()
	if err := os.Remove(c.socket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cmd := exec.Command(filepath.Join(c.bin, bundle.Containerd), "--config", c.config(), "--log-level", "warn")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second // should a child of containerd hold its output open
	cmd.Env = []string{"PATH=" + c.bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := os.WriteFile(c.pid(), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		c.log.Warn("containerd's pid not written", "err", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	if err := c.await(ctx, exited); err != nil {
		_ = cmd.Process.Kill()
		<-exited // its root and sockets are free for the next one
		return err
	}
	select {
	case err := <-exited:
		return fmt.Errorf("containerd: %w", err)
	case <-ctx.Done():
	}
	return stopProcess(cmd.Process, exited)
}

func stopProcess(p *os.Process, exited <-chan error) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-exited:
	case <-time.After(containerdStop):
		if err := p.Kill(); err != nil {
			return err
		}
		<-exited
	}
	return nil
}

// await waits until containerd answers.
func (c *containerd) await(ctx context.Context, exited chan error) error {
	deadline := time.Now().Add(containerdStart)
	for {
		conn, err := net.Dial("unix", c.socket())
		if err == nil {
			conn.Close()
			break
		}
		select {
		case err := <-exited:
			exited <- err
			return fmt.Errorf("containerd ended at its start: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond): // only while starting
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("containerd does not answer after %s", containerdStart)
		}
	}
	if c.isFirst() {
		close(c.ready)
	}
	return nil
}

// dropStateOfEarlierBoot empties dir when the machine was started anew since it was filled: its sockets and mounts are gone.
func dropStateOfEarlierBoot(dir string) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("read boot id: %w", err)
	}
	mark := filepath.Join(dir, "boot-id")
	if have, err := os.ReadFile(mark); err == nil && bytes.Equal(have, boot) {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("drop the state of an earlier boot: %w", err)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	return os.WriteFile(mark, boot, 0o600)
}

// snapshotterFor chooses how containerd lays out root file systems: overlayfs, unless the data directory lies on an
// overlay itself (a container's own root), which overlayfs cannot stack on.
func snapshotterFor(dir string) string {
	const overlayMagic = 0x794c7630
	for ; dir != "/"; dir = filepath.Dir(dir) {
		var s unix.Statfs_t
		if err := unix.Statfs(dir, &s); err == nil {
			if s.Type == overlayMagic {
				return "native"
			}
			break
		}
	}
	return "overlayfs"
}
