package local

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kebernetes/kebernetes/volume/csi"
)

// controller reaches the folders below dir as the control plane does: over a node's API.
func controller(t *testing.T, dir string) spec.ControllerClient {
	t.Helper()
	folders, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	relay := &csi.Relay{Driver: func(name string) (grpc.ClientConnInterface, error) {
		if name != Driver {
			return nil, errors.New("no such driver")
		}
		return csi.InProcess(&spec.Controller_ServiceDesc, folders), nil
	}}
	return spec.NewControllerClient(csi.Dial(func() (http.Handler, error) { return relay, nil }, Driver))
}

func request(name string, size int64, mode spec.VolumeCapability_AccessMode_Mode) *spec.CreateVolumeRequest {
	return &spec.CreateVolumeRequest{Name: name, CapacityRange: &spec.CapacityRange{RequiredBytes: size}, VolumeCapabilities: []*spec.VolumeCapability{{
		AccessType: &spec.VolumeCapability_Mount{Mount: &spec.VolumeCapability_MountVolume{}},
		AccessMode: &spec.VolumeCapability_AccessMode{Mode: mode},
	}}}
}

const once = spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER

func TestFolders(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volumes")
	c := controller(t, dir)
	defer syscall.Umask(syscall.Umask(0o077))
	made, err := c.CreateVolume(t.Context(), request("pvc-1", 1<<20, once))
	if err != nil {
		t.Fatal(err)
	}
	path := made.Volume.VolumeContext[PathKey]
	if path != filepath.Join(dir, "pvc-1") || made.Volume.CapacityBytes != 1<<20 {
		t.Errorf("volume %v", made.Volume)
	}
	for at, want := range map[string]os.FileMode{dir: 0o700, path: 0o777} {
		if info, err := os.Stat(at); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", at, info.Mode(), err)
		}
	}
	if _, err := c.CreateVolume(t.Context(), request("pvc-2", 1<<20, once)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "data"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateVolume(t.Context(), request("pvc-1", 1<<20, once)); err != nil {
		t.Errorf("made again: %v", err)
	}
	list, err := c.ListVolumes(t.Context(), &spec.ListVolumesRequest{})
	if err != nil || len(list.Entries) != 2 || list.Entries[0].Volume.VolumeContext[EmptyKey] != "" || list.Entries[1].Volume.VolumeContext[EmptyKey] != "true" {
		t.Errorf("list %v, %v", list, err)
	}
	for name, mode := range map[string]spec.VolumeCapability_AccessMode_Mode{
		"many": spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, "../out": once, ".hidden": once, "a/b": once, "": once,
	} {
		if _, err := c.CreateVolume(t.Context(), request(name, 1, mode)); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestDeletingStaysInside(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	dir := filepath.Join(t.TempDir(), "volumes")
	c := controller(t, dir)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	made, err := c.CreateVolume(t.Context(), request("pvc-1", 0, once))
	if err != nil {
		t.Fatal(err)
	}
	path := made.Volume.VolumeContext[PathKey]
	if err := errors.Join(os.Mkdir(filepath.Join(path, "d"), 0o700), os.Symlink(filepath.Dir(outside), filepath.Join(path, "d", "link"))); err != nil {
		t.Fatal(err)
	}
	remove := func() error {
		_, err := c.DeleteVolume(t.Context(), &spec.DeleteVolumeRequest{VolumeId: "pvc-1"})
		return err
	}
	at := t.TempDir()
	// In use elsewhere, as a pod's mount of it; a part of it is, as a subPath; and something is mounted in it.
	for _, m := range []struct{ source, target string }{{path, at}, {filepath.Join(path, "d"), at}, {at, filepath.Join(path, "d")}} {
		if err := unix.Mount(m.source, m.target, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		if err := remove(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), m.target) {
			t.Errorf("with %s mounted at %s: %v", m.source, m.target, err)
		}
		if err := unix.Unmount(m.target, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder stays: %v", err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("what a link led to: %v", err)
	}
	if err := remove(); err != nil {
		t.Errorf("deleted again: %v", err)
	}
	if _, err := c.DeleteVolume(t.Context(), &spec.DeleteVolumeRequest{VolumeId: ".."}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("deleted the parent: %v", err)
	}
}

// disk mounts a small ext4 with project quotas for the duration of the test, or without them where the kernel has none.
func disk(t *testing.T) (at string, bounded bool) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	file := filepath.Join(t.TempDir(), "disk")
	at = t.TempDir()
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 64<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-O", "project,quota", "-E", "quotatype=prjquota", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command("mount", "-o", "loop,prjquota", file, at).CombinedOutput()
	if err != nil {
		t.Logf("no project quotas: %v: %s", err, out)
		return at, false
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	return at, true
}

func TestSizeIsBoundWhereTheFileSystemCan(t *testing.T) {
	at, bounded := disk(t)
	c := controller(t, filepath.Join(at, "volumes"))
	small, err := c.CreateVolume(t.Context(), request("small", 1<<20, once))
	if err != nil {
		t.Fatal(err)
	}
	if got := small.Volume.VolumeContext["bounded"]; got != strconv.FormatBool(bounded) {
		t.Errorf("said to be bounded: %q, where it is %t", got, bounded)
	}
	if _, err := c.CreateVolume(t.Context(), request("other", 8<<20, once)); err != nil {
		t.Fatal(err)
	}
	// dd as a user's process: who may exceed resources (CAP_SYS_RESOURCE) is not bound by quotas.
	write := func(volume string, megabytes string) error {
		cmd := exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(at, "volumes", volume, "f"), "bs=1M", "count="+megabytes)
		cmd.SysProcAttr = &syscall.SysProcAttr{AmbientCaps: nil, Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		var out bytes.Buffer
		cmd.Stderr = &out
		if err := cmd.Run(); err != nil {
			return errors.New(out.String())
		}
		return nil
	}
	// The way to the folders is root's; the test's user gets it for once.
	for _, dir := range []string{filepath.Dir(at), at, filepath.Join(at, "volumes")} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	switch err := write("small", "2"); {
	case !bounded && err != nil:
		t.Errorf("2 MB into a volume of 1 MB that nothing bounds: %v", err)
	case bounded && (err == nil || !strings.Contains(err.Error(), "quota")):
		t.Errorf("2 MB into a volume of 1 MB: %v", err)
	}
	if err := write("other", "4"); err != nil {
		t.Errorf("another volume: %v", err)
	}
	if _, err := c.ControllerExpandVolume(t.Context(), &spec.ControllerExpandVolumeRequest{VolumeId: small.Volume.VolumeId, CapacityRange: &spec.CapacityRange{RequiredBytes: 4 << 20}}); err != nil {
		t.Fatal(err)
	}
	if err := write("small", "2"); err != nil {
		t.Errorf("2 MB after the volume has grown to 4: %v", err)
	}
	for _, name := range []string{"small", "other"} {
		if _, err := c.DeleteVolume(t.Context(), &spec.DeleteVolumeRequest{VolumeId: name}); err != nil {
			t.Error(err)
		}
	}
}
