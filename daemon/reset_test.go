package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A volume may be a directory of the machine's own: whatever becomes of its mount, what it holds is not deleted.
func TestRemovedFilesEndAtMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	dir := t.TempDir()
	foreign, real, link := filepath.Join(dir, "foreign"), filepath.Join(dir, "real"), filepath.Join(dir, "link")
	at := filepath.Join(real, "pods", "u", "volume-subpaths")
	for _, d := range []string{foreign, at} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	precious := filepath.Join(foreign, "precious")
	if err := os.WriteFile(precious, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(foreign, at, "", unix.MS_BIND, ""); err != nil {
		t.Skip("no bind mounts here: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	if err := removeFiles(real, link); err == nil {
		t.Error("files were removed below a mount")
	}
	if err := unmountBelow(real); err != nil {
		t.Fatal(err)
	}
	if err := removeFiles(real, link); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("what was mounted is gone: %v", err)
	}
	for _, gone := range []string{real, link} {
		if _, err := os.Lstat(gone); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", gone, err)
		}
	}
	if err := removeFiles(real, link); err != nil {
		t.Errorf("again: %v", err)
	}
}

// After a boot, links to pods' files lead nowhere; others are of pods that run.
func TestDeadLinksGo(t *testing.T) {
	c := newContainerd(t.TempDir(), nil)
	dir := filepath.Join(c.root, "io.containerd.grpc.v1.cri", "sandboxes")
	files := filepath.Join(c.state, "files")
	for _, d := range []string{dir, files} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"runs": files, "gone": filepath.Join(c.state, "nothing")} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := c.dropDeadLinks(); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "runs" {
		t.Errorf("left: %v, %v", left, err)
	}
}
