// Package cgroup keeps the control groups of pods: one tree per node with a branch for each quality of service, on cgroup v1
// and v2, driven through the file system (the runtime's cgroupfs driver). The runtime makes the containers' groups below. Only agent imports it.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// Tree is the node's tree of groups.
type Tree struct {
	// V2 is the unified hierarchy.
	V2 bool
	// root is the parent of all pods' groups, "/kubepods".
	root string
	// mounts by controller; v2 has one under "".
	mounts map[string]string
}

// Limits of one group. Zero values set nothing, but for Shares, which is always set.
type Limits struct {
	Shares int64 // of 1024 per CPU
	Quota  int64 // µs per 100 ms
	Memory int64 // bytes
}

// Detect finds out how this machine's groups are mounted. root is the path of the tree, "/kubepods" by default.
func Detect(root string) (*Tree, error) {
	if root == "" {
		root = "/kubepods"
	}
	t := &Tree{root: filepath.Clean("/" + root), mounts: map[string]string{}}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		switch kind[0] {
		case "cgroup2":
			if fields[4] == "/sys/fs/cgroup" {
				t.V2, t.mounts = true, map[string]string{"": fields[4]}
				return t, nil
			}
			// Beside the hierarchies of v1, where the runtime makes groups too: nothing is set there, but they must go.
			t.mounts["unified"] = fields[4]
		case "cgroup":
			for _, option := range strings.Split(kind[2], ",") {
				if option != "rw" && option != "ro" {
					t.mounts[option] = fields[4]
				}
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	for _, needed := range []string{"cpu", "memory"} {
		if t.mounts[needed] == "" {
			return nil, fmt.Errorf("find control groups: no %s controller is mounted", needed)
		}
	}
	return t, nil
}

// Setup makes the top groups. memory is what all pods together may use; 0: no limit.
func (t *Tree) Setup(cpuShares, memory int64) error {
	if err := t.Ensure(t.root, Limits{Shares: cpuShares, Memory: memory}); err != nil {
		return err
	}
	for _, qos := range []string{"burstable", "besteffort"} {
		if err := t.Ensure(filepath.Join(t.root, qos), Limits{Shares: 2}); err != nil {
			return err
		}
	}
	return nil
}

// Burstable sets the weight of all burstable pods together: the sum of what they request.
func (t *Tree) Burstable(shares int64) error {
	return t.Ensure(filepath.Join(t.root, "burstable"), Limits{Shares: max(shares, 2)})
}

// Pod is the path of a pod's group.
func (t *Tree) Pod(uid string, qos corev1.PodQOSClass) string {
	switch qos {
	case corev1.PodQOSBurstable:
		return filepath.Join(t.root, "burstable", "pod"+uid)
	case corev1.PodQOSBestEffort:
		return filepath.Join(t.root, "besteffort", "pod"+uid)
	}
	return filepath.Join(t.root, "pod"+uid)
}

// Pods lists the uids that have a group.
func (t *Tree) Pods() ([]string, error) {
	var out []string
	for _, mount := range t.mounts {
		for _, branch := range []string{"", "burstable", "besteffort"} {
			entries, err := os.ReadDir(filepath.Join(mount, t.root, branch))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("list pods' control groups: %w", err)
			}
			for _, e := range entries {
				if uid, ok := strings.CutPrefix(e.Name(), "pod"); ok && e.IsDir() && !slices.Contains(out, uid) {
					out = append(out, uid)
				}
			}
		}
	}
	return out, nil
}

// Ensure makes a group and sets its limits. Repeatable.
func (t *Tree) Ensure(path string, l Limits) error {
	if t.V2 {
		return t.ensureV2(path, l)
	}
	for _, controller := range []string{"cpu", "memory", "pids"} {
		mount := t.mounts[controller]
		if mount == "" {
			continue
		}
		if err := os.MkdirAll(filepath.Join(mount, path), 0o755); err != nil {
			return fmt.Errorf("make control group %s: %w", path, err)
		}
	}
	if l.Memory > 0 {
		if err := t.set("memory", path, "memory.limit_in_bytes", l.Memory); err != nil {
			return err
		}
	}
	if l.Quota > 0 {
		if err := t.set("cpu", path, "cpu.cfs_period_us", 100000); err != nil {
			return err
		}
		if err := t.set("cpu", path, "cpu.cfs_quota_us", l.Quota); err != nil {
			return err
		}
	}
	return t.set("cpu", path, "cpu.shares", max(l.Shares, 2))
}

func (t *Tree) set(controller, path, file string, value int64) error {
	return t.write(controller, path, file, strconv.FormatInt(value, 10))
}

func (t *Tree) write(controller, path, file, value string) error {
	name := filepath.Join(t.mounts[controller], path, file)
	if err := os.WriteFile(name, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s of control group %s to %s: %w", file, path, value, err)
	}
	return nil
}

// Weight converts shares (2 to 262144) to the weight of cgroup v2 (1 to 10000), as the runtimes do.
func Weight(shares int64) int64 {
	return 1 + (min(max(shares, 2), 262144)-2)*9999/262142
}

func (t *Tree) ensureV2(path string, l Limits) error {
	mount := t.mounts[""]
	at := mount
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		// Controllers must be handed down level by level.
		have, err := os.ReadFile(filepath.Join(at, "cgroup.controllers"))
		if err != nil {
			return fmt.Errorf("make control group %s: %w", path, err)
		}
		var want []string
		for _, c := range strings.Fields(string(have)) {
			if slices.Contains([]string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb"}, c) {
				want = append(want, "+"+c)
			}
		}
		if err := os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte(strings.Join(want, " ")), 0); err != nil {
			return fmt.Errorf("hand controllers down to %s: %w", path, err)
		}
		at = filepath.Join(at, part)
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make control group %s: %w", path, err)
		}
	}
	if l.Memory > 0 {
		if err := t.set("", path, "memory.max", l.Memory); err != nil {
			return err
		}
	}
	if l.Quota > 0 {
		if err := t.write("", path, "cpu.max", strconv.FormatInt(l.Quota, 10)+" 100000"); err != nil {
			return err
		}
	}
	return t.set("", path, "cpu.weight", Weight(l.Shares))
}

// Remove kills what still runs in a pod's group, whatever its quality of service was, and removes it. Repeatable.
func (t *Tree) Remove(uid string) error {
	if uid == "" || strings.ContainsAny(uid, "/\x00") {
		return fmt.Errorf("remove control group of pod %q: not a uid", uid)
	}
	var errs []error
	done := map[string]bool{}
	for _, mount := range t.mounts {
		for _, branch := range []string{"", "burstable", "besteffort"} {
			dir := filepath.Join(mount, t.root, branch, "pod"+uid)
			if !done[dir] {
				done[dir] = true
				errs = append(errs, removeDir(dir))
			}
		}
	}
	return errors.Join(errs...)
}

// Reset removes the whole tree.
func (t *Tree) Reset() error {
	var errs []error
	for _, mount := range t.mounts {
		errs = append(errs, removeDir(filepath.Join(mount, t.root)))
	}
	return errors.Join(errs...)
}

// emptyTries bounds the wait for killed processes to be gone: 100 times 10 ms.
const emptyTries = 100

// removeDir removes a group and all below, deepest first.
func removeDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove control group %s: %w", dir, err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeDir(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for try := 0; ; try++ {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || try == emptyTries {
			return fmt.Errorf("remove control group %s: %w", dir, err)
		}
		killAll(dir)
		time.Sleep(10 * time.Millisecond)
	}
}

func killAll(dir string) {
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, f := range strings.Fields(string(procs)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
			// A process that is gone already is what is wanted.
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}
