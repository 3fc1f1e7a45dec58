package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// resetGrace is how long a running server may take to stop before it is killed.
const resetGrace = 20 * time.Second

// Reset stops what runs on a data directory and removes all that it left on this machine: containers, mounts, links, rules,
// cgroups and the directory itself. It may be repeated; what is gone is no error.
func Reset(dataDir string, log *slog.Logger) error {
	// The kernel shows mounts and executables by paths without links.
	real, err := filepath.EvalSymlinks(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		real, err = dataDir, nil
	}
	if err != nil {
		return fmt.Errorf("find data directory: %w", err)
	}
	if err := stopHolder(dataDir, resetGrace); err != nil {
		return err
	}
	return errors.Join(
		removeContainers(dataDir, real, log),
		removeStep(log, "network", func() error { return resetNetwork(dataDir) }),
		removeStep(log, "files", func() error { return removeFiles(real, dataDir) }),
	)
}

// removeContainers ends the containers and the runtime of a data directory, whose path without links is real, and removes their mounts,
// cgroups and sockets.
func removeContainers(dataDir, real string, log *slog.Logger) error {
	root := cgroupRoot(dataDir)
	sockets := shimSockets(dataDir)
	return errors.Join(
		removeStep(log, "containers", func() error { return killCgroup(root) }),
		removeStep(log, "runtime", func() error { return killExecutables(filepath.Join(real, "bin")) }),
		removeStep(log, "mounts", func() error { return unmountBelow(real) }),
		removeStep(log, "cgroups", func() error { return removeCgroup(root) }),
		removeStep(log, "sockets", func() error { return removeSockets(sockets) }),
	)
}

func removeStep(log *slog.Logger, what string, do func() error) error {
	if err := do(); err != nil {
		return fmt.Errorf("remove %s: %w", what, err)
	}
	log.Debug("removed", "what", what)
	return nil
}

// removeFiles removes the data directory, and what leads to it when that is a link. Where something is still mounted below, it
// removes nothing: a volume may be a directory of the machine's own.
func removeFiles(real, dataDir string) error {
	if err := nothingMounted(real); err != nil {
		return err
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return ignoreMissing(err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(real, e.Name())))
	}
	if err := os.Remove(real); !errors.Is(err, unix.EBUSY) {
		errs = append(errs, ignoreMissing(err), ignoreMissing(os.Remove(dataDir)))
	}
	return errors.Join(errs...)
}

// nothingMounted says what is still mounted below a directory.
func nothingMounted(real string) error {
	left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(real))
	if err != nil {
		return err
	}
	// The directory may be the root of a file system of its own, which is emptied and stays.
	left = slices.DeleteFunc(left, func(m *mountinfo.Info) bool { return m.Mountpoint == real })
	if len(left) > 0 {
		return fmt.Errorf("%s is still mounted", left[0].Mountpoint)
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// cgroupMounts are the roots of all cgroup hierarchies: one per controller in version 1, one in version 2.
func cgroupMounts() ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	var out []string
	for _, m := range mounts {
		out = append(out, m.Mountpoint)
	}
	return out, nil
}

// cgroupDirs lists a cgroup and all below it in every hierarchy, the deepest first.
func cgroupDirs(root string) ([]string, error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, m := range mounts {
		err := filepath.WalkDir(filepath.Join(m, root), func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Reverse(dirs)
	return dirs, nil
}

// killWait is how long killed processes may take to go: those in uninterruptible sleep need their disk.
const killWait = 10 * time.Second

// killCgroup kills every process in a cgroup and below, until there is none.
func killCgroup(root string) error {
	deadline := time.Now().Add(killWait)
	for {
		dirs, err := cgroupDirs(root)
		if err != nil {
			return err
		}
		left := 0
		for _, dir := range dirs {
			data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil {
				continue
			}
			for field := range strings.FieldsSeq(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					left++
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes in cgroup %s do not end", left, root)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// removeCgroup removes a cgroup and all below it. A cgroup stays busy for a moment after its last process.
func removeCgroup(root string) error {
	deadline := time.Now().Add(killWait)
	for {
		dirs, err := cgroupDirs(root)
		if err != nil || len(dirs) == 0 {
			return err
		}
		var last error
		for _, dir := range dirs {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				last = fmt.Errorf("%s: %w", dir, err)
			}
		}
		if last != nil && time.Now().After(deadline) {
			return last
		}
		if last != nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// killExecutables kills the processes whose program lies in dir: the containerd and the shims of this data directory.
func killExecutables(dir string) error {
	procs, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return err
	}
	for _, link := range procs {
		exe, err := os.Readlink(link)
		if err != nil || filepath.Dir(exe) != dir {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil || pid == os.Getpid() {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		// Read again: only now the number is bound to the process.
		if again, err := os.Readlink(link); err == nil && again == exe {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			ended(fd, killWait)
		}
		unix.Close(fd)
	}
	return nil
}

// unmountBelow detaches every mount in dir, the newest first. dir itself is not ours to unmount.
func unmountBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		if m.Mountpoint == dir {
			continue
		}
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("%s: %w", m.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}

// shimSockets finds the sockets of the shims, which lie outside the data directory because their paths must be short.
func shimSockets(dataDir string) []string {
	files, _ := filepath.Glob(filepath.Join(dataDir, "run", "containerd", "io.containerd.*", "*", "*", "bootstrap.json"))
	var out []string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		var boot struct {
			Address string `json:"address"`
		}
		if json.Unmarshal(data, &boot) == nil {
			if path, ok := strings.CutPrefix(boot.Address, "unix://"); ok && strings.HasPrefix(path, "/run/containerd/s/") {
				out = append(out, path)
			}
		}
	}
	return out
}

func removeSockets(paths []string) error {
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// Only when nobody else's sockets are there.
	_ = os.Remove("/run/containerd/s")
	_ = os.Remove("/run/containerd")
	return nil
}
