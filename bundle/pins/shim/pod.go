package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"golang.org/x/sys/unix"
)

const (
	recordFile = "pod.json" // in the pod's bundle
	filesDir   = "files"    // there too
	shmSize    = 64 << 20   // bytes, as every runtime gives

	cgroupMount = "/sys/fs/cgroup"
	// oomScore keeps the kernel from ending the pod's own process for want of memory; it is upstream's.
	oomScore = -998
)

// pod is what a sandbox has on the machine. It is written to the bundle, so that `delete` finds it when the shim was killed.
type pod struct {
	Pid     int      `json:"pid,omitempty"`     // of the pause process
	Started string   `json:"started,omitempty"` // its start, in the kernel's own unit: with it the pid is unique
	Group   string   `json:"group,omitempty"`   // control group of its own, on cgroup v2
	Links   []string `json:"links,omitempty"`   // lead the runtime interface to the pod's files
	Shm     string   `json:"shm,omitempty"`     // mounted
}

// isPod says whether a bundle is a pod's and not a container's.
func isPod(bundle string) bool {
	_, err := os.Lstat(filepath.Join(bundle, recordFile))
	return err == nil
}

func readPod(bundle string) (pod, error) {
	var p pod
	data, err := os.ReadFile(filepath.Join(bundle, recordFile))
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("read %s: %w", recordFile, err)
	}
	return p, nil
}

func (p *pod) write() error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := os.WriteFile(recordFile+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(recordFile+".new", recordFile)
}

// makePod makes the files of a pod in the working directory, which is its bundle. What is made when an error is returned is in the record.
func makePod(id string, c *podConfig) (pod, error) {
	var p pod
	bundle, err := os.Getwd()
	if err != nil {
		return p, err
	}
	if p.Links, err = interfaceDirs(bundle, id); err != nil {
		return p, err
	}
	files := filepath.Join(bundle, filesDir)
	if !c.hostIPC {
		p.Shm = filepath.Join(files, "shm")
	}
	if c.cgroupParent != "" && cgroups.Mode() == cgroups.Unified {
		p.Group = filepath.Join(cgroupMount, c.cgroupParent, id)
	}
	if err := p.write(); err != nil {
		return p, err
	}
	if err := writeFiles(files, c); err != nil {
		return p, fmt.Errorf("write the pod's files: %w", err)
	}
	if p.Shm != "" {
		if err := os.Mkdir(p.Shm, 0o700); err != nil {
			return p, err
		}
		if err := unix.Mount("shm", p.Shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, fmt.Sprintf("mode=1777,size=%d", shmSize)); err != nil {
			return p, fmt.Errorf("mount the pod's shared memory: %w", err)
		}
	}
	if p.Group != "" {
		if err := os.MkdirAll(p.Group, 0o755); err != nil {
			return p, fmt.Errorf("make control group: %w", err)
		}
	}
	for _, link := range p.Links {
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			return p, err
		}
		if err := os.Symlink(files, link); err != nil {
			return p, err
		}
	}
	return p, nil
}

// interfaceDirs are where containerd's runtime interface looks for a pod's files: below its root for those that live on, below its state for the shared
// memory. Links lead from there to the bundle. Directories would be emptied when containerd starts, since it counts as pods only what has a container.
func interfaceDirs(bundle, id string) ([]string, error) {
	work, err := os.Readlink(filepath.Join(bundle, "work"))
	if err != nil {
		return nil, fmt.Errorf("find containerd's root: %w", err)
	}
	var out []string
	for _, dir := range []string{work, bundle} { // TOP/PLUGIN/NAMESPACE/ID
		top := filepath.Dir(filepath.Dir(filepath.Dir(dir)))
		out = append(out, filepath.Join(top, "io.containerd.grpc.v1.cri", "sandboxes", id))
	}
	return out, nil
}

func writeFiles(dir string, c *podConfig) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	hostname := c.hostname
	if hostname == "" {
		var err error
		if hostname, err = os.Hostname(); err != nil {
			return err
		}
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	resolv := []byte(c.resolvConf())
	if !c.hasDNS {
		if resolv, err = os.ReadFile("/etc/resolv.conf"); err != nil {
			return err
		}
	}
	for name, data := range map[string][]byte{"hostname": []byte(hostname + "\n"), "hosts": hosts, "resolv.conf": resolv} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// start starts the pause process and returns once it has given up its rights. Its exit status comes by the channel.
func (p *pod) start(c *podConfig, netns string) (<-chan int, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	groups, err := p.groups(c.cgroupParent)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(filepath.Dir(self), "pause"))
	cmd.Args, cmd.Env, cmd.Dir = []string{"/pause"}, []string{}, "/"
	cmd.Stdin = bytes.NewReader(records(c, netns, groups))
	out, report, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout = report
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: cloneFlags(c)}
	ended, err := reaper.Default.Start(cmd)
	report.Close()
	if err != nil {
		return nil, fmt.Errorf("start pause: %w", err)
	}
	exits := make(chan int, 1)
	go func() {
		status, err := reaper.Default.Wait(cmd, ended)
		if err != nil {
			status = 255
		}
		exits <- status
	}()
	p.Pid = cmd.Process.Pid
	problem, err := io.ReadAll(io.LimitReader(out, 4096))
	if err == nil && len(problem) > 0 {
		err = errors.New(string(problem))
	}
	if err == nil {
		p.Started, err = startTime(p.Pid)
	}
	if err == nil {
		err = p.write()
	}
	if err != nil {
		_ = cmd.Process.Kill()
		<-exits
		return nil, fmt.Errorf("start pause: %w", err)
	}
	return exits, nil
}

func cloneFlags(c *podConfig) uintptr {
	flags := uintptr(unix.CLONE_NEWNS)
	if !c.hostNetwork {
		flags |= unix.CLONE_NEWUTS
	}
	if !c.hostIPC {
		flags |= unix.CLONE_NEWIPC
	}
	if c.sharedPID {
		flags |= unix.CLONE_NEWPID
	}
	return flags
}

// records are the orders that pause.c describes.
func records(c *podConfig, netns string, groups []string) []byte {
	var b bytes.Buffer
	add := func(letter byte, value string) { fmt.Fprintf(&b, "%c%s\x00", letter, value) }
	for _, g := range groups {
		add('c', g)
	}
	add('o', strconv.Itoa(oomScore))
	if !c.hostNetwork {
		add('n', netns)
		if c.hostname != "" {
			add('h', c.hostname)
		}
	}
	for name, value := range c.sysctls {
		add('s', "/proc/sys/"+name+"="+value)
	}
	return b.Bytes()
}

// groups are the files by which the pause process joins its control group. With cgroup v2 that has to be one of its own, since a group with controllers
// has groups or processes below it, never both. With v1 it is the pod's, which spares a directory in each of a dozen hierarchies.
func (p *pod) groups(parent string) ([]string, error) {
	if p.Group != "" {
		return []string{filepath.Join(p.Group, "cgroup.procs")}, nil
	}
	if parent == "" {
		return nil, nil
	}
	return filepath.Glob(filepath.Join(cgroupMount, "*", parent, "cgroup.procs"))
}

// startTime reads when a process was started, field 22 of its stat (proc(5)).
func startTime(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("stat of process %d is short", pid)
	}
	return fields[19], nil
}

// killWait is how long a killed process may take to go.
const killWait = 5 * time.Second

// kill kills the pause process, unless its number belongs to another by now, and returns when it is gone.
func (p *pod) kill() error {
	if p.Pid == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find pause: %w", err)
	}
	defer unix.Close(fd)
	if started, err := startTime(p.Pid); err != nil || started != p.Started {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill pause: %w", err)
	}
	for deadline := time.Now().Add(killWait); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = os.ErrDeadlineExceeded
		}
		if err != nil {
			return fmt.Errorf("wait for the end of pause: %w", err)
		}
		return nil
	}
}

// release gives back what the pod has on the machine. It may be repeated.
func (p *pod) release() error {
	var errs []error
	if p.Shm != "" {
		// A container that is stopped may hold it a moment longer; the memory goes with the last of them.
		if err := unix.Unmount(p.Shm, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p.Shm, err))
		}
	}
	for _, link := range p.Links {
		errs = append(errs, ignoreMissing(os.Remove(link)))
	}
	if p.Group != "" {
		errs = append(errs, ignoreMissing(os.Remove(p.Group)))
	}
	return errors.Join(errs...)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
