package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// SubPath makes a path inside a volume mountable and returns where: a bind mount of what was opened, so that a container which owns
// the volume cannot point the path elsewhere before the runtime mounts it. A path that does not exist becomes a directory
// with the mode of the volume's own. A path that leaves the volume, by .. or by links, is an error.
// index is the place of the mount in the container's list.
func (m *Mounter) SubPath(pod types.UID, volume, container string, index int, root, sub string, readOnly bool) (string, error) {
	opened, err := openBeneath(root, sub)
	if err != nil {
		return "", fmt.Errorf("subpath %q: %w", sub, err)
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return "", err
	}
	target := filepath.Join(m.PodDir(pod), "volume-subpaths", volume, container, strconv.Itoa(index))
	// A former container of that name may have left its mount; it must not decide what the next one sees.
	if there, err := m.Mounts.IsMount(target); err == nil && there {
		if err := m.Mounts.Unmount(target); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return "", err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if info.IsDir() {
		err = os.Mkdir(target, 0o750)
	} else {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return "", err
	}
	return target, m.Mounts.Bind(opened, target, readOnly)
}

// openBeneath opens root/sub without ever leaving root, making directories that are missing.
func openBeneath(root, sub string) (*os.File, error) {
	if filepath.IsAbs(sub) || sub == ".." || strings.HasPrefix(sub, "../") || strings.Contains(sub, "/../") || strings.HasSuffix(sub, "/..") {
		return nil, errors.New("must be a relative path without '..'")
	}
	base, err := os.OpenFile(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer base.Close()
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	open := func(name string) (*os.File, error) {
		fd, err := unix.Openat2(int(base.Fd()), name, &how)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: filepath.Join(root, name), Err: err}
		}
		return os.NewFile(uintptr(fd), filepath.Join(root, name)), nil
	}
	sub = filepath.Clean(sub)
	opened, err := open(sub)
	if !errors.Is(err, fs.ErrNotExist) {
		return opened, err
	}
	info, err := base.Stat()
	if err != nil {
		return nil, err
	}
	done := "."
	for part := range strings.SplitSeq(sub, "/") {
		if err := makeBeneath(open, done, part, info.Mode()); err != nil {
			return nil, err
		}
		done = filepath.Join(done, part)
	}
	return open(sub)
}

// makeBeneath makes one directory in a parent that is opened safely.
func makeBeneath(open func(string) (*os.File, error), parent, name string, mode fs.FileMode) error {
	dir, err := open(parent)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = unix.Mkdirat(int(dir.Fd()), name, uint32(mode.Perm()))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	// The umask took bits away.
	made, err := open(filepath.Join(parent, name))
	if err != nil {
		return err
	}
	defer made.Close()
	bits := uint32(mode.Perm())
	if mode&fs.ModeSetgid != 0 {
		bits |= unix.S_ISGID
	}
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", made.Fd()), bits)
}
