package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestTree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("control groups need root")
	}
	tree, err := Detect("/kebtest-cgroup")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := tree.Reset(); err != nil {
			t.Error(err)
		}
	})
	if err := tree.Setup(2048, 1<<30); err != nil {
		t.Fatal(err)
	}
	path := tree.Pod("u-1", corev1.PodQOSBurstable)
	for range 2 {
		if err := tree.Ensure(path, Limits{Shares: 512, Quota: 50000, Memory: 64 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(v1, v2 string) string {
		controller, _, _ := strings.Cut(v1, ".")
		name := filepath.Join(tree.mounts[controller], path, v1)
		if tree.V2 {
			name = filepath.Join(tree.mounts[""], path, v2)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(data))
	}
	if got := read("memory.limit_in_bytes", "memory.max"); got != "67108864" {
		t.Errorf("memory %s", got)
	}
	if got := read("cpu.shares", "cpu.weight"); got != "512" && got != "20" {
		t.Errorf("shares %s", got)
	}
	if uids, err := tree.Pods(); err != nil || !slices.Equal(uids, []string{"u-1"}) {
		t.Errorf("pods %v, %v", uids, err)
	}
	// A process that was left in the group is ended with it.
	left := exec.Command("sleep", "60")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	for _, mount := range tree.mounts {
		if dir := filepath.Join(mount, path); exists(dir) {
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(left.Process.Pid)), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- left.Wait() }()
	if err := tree.Remove("u-1"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the process ended well, it was not killed")
	}
	if uids, err := tree.Pods(); err != nil || len(uids) > 0 {
		t.Errorf("pods %v, %v", uids, err)
	}
	if err := tree.Remove("../x"); err == nil {
		t.Error("a path was taken for a uid")
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
