package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// local mounts a directory or a disk of this node that a PV names. A directory is bound to the pod's own, a disk is formatted
// if it holds nothing yet; a raw device is handed on by its path.
func (m *Mounter) local(_ context.Context, r *Request) (Mounted, error) {
	source := r.PV.Spec.Local
	opened, err := os.OpenFile(source.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("path %q does not exist", source.Path)
		}
		return Mounted{}, Step("MountVolume.NewMounter initialization failed", err)
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return Mounted{}, err
	}
	disk := info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
	if r.Device() {
		if !disk {
			return Mounted{}, Step("MapVolume.MapPodDevice failed", fmt.Errorf("path %q is not a block device", source.Path))
		}
		return Mounted{Path: source.Path}, nil
	}
	if !info.IsDir() && !disk {
		return Mounted{}, fmt.Errorf("path %q is neither a directory nor a block device", source.Path)
	}
	there, err := m.mountPoint(r.Dir)
	if err != nil || there {
		return Mounted{Path: r.Dir}, err
	}
	if disk {
		fsType := "ext4"
		if source.FSType != nil && *source.FSType != "" {
			fsType = *source.FSType
		}
		options := r.Options()
		if r.ReadOnly {
			options = append(options, "ro")
		}
		if err := m.Mounts.Format(source.Path, r.Dir, fsType, options); err != nil {
			return Mounted{}, Step("MountVolume.MountDevice failed", err)
		}
	} else if err := m.Mounts.Bind(opened, r.Dir, r.ReadOnly); err != nil {
		return Mounted{}, err
	}
	if r.ReadOnly {
		return Mounted{Path: r.Dir}, nil
	}
	return Mounted{Path: r.Dir}, Own(r.Dir, r.Pod)
}

// mountPoint makes the directory, and says whether something is mounted there.
func (m *Mounter) mountPoint(dir string) (mounted bool, err error) {
	if err := makeDir(dir, 0o750); err != nil {
		return false, err
	}
	return m.Mounts.IsMount(dir)
}
