package volume

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
	"k8s.io/utils/exec"
)

// Mounts makes and undoes mounts of this mount namespace.
type Mounts interface {
	// IsMount says whether path is a mount point.
	IsMount(path string) (bool, error)
	// Below lists the mount points at and under dir, in order of mounting.
	Below(dir string) ([]string, error)
	// Tmpfs mounts a tmpfs with the options of mount(8).
	Tmpfs(dir, options string) error
	// Bind mounts what the open file is at target. readOnly does not go down into mounts below.
	Bind(source *os.File, target string, readOnly bool) error
	// Mount is mount(8) with its helpers (mount.nfs), whose output is in the error.
	Mount(source, target, fsType string, options []string) error
	// Format is Mount of a disk, on which it first makes a file system if there is none, and checks one that is there.
	Format(disk, target, fsType string, options []string) error
	// Unmount undoes the mount at path; a busy one is detached and goes once it is no longer used.
	Unmount(path string) error
}

// Kernel is the real thing. It needs CAP_SYS_ADMIN.
type Kernel struct{}

var _ Mounts = Kernel{}

// IsMount asks the kernel for the mount's root attribute, which also sees bind mounts on one file system; a network file system is not
// asked, as its server may be gone.
func (Kernel) IsMount(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, unix.STATX_BASIC_STATS, &st)
	if err != nil {
		return false, fmt.Errorf("statx %s: %w", path, err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// Below reads /proc/self/mountinfo, where the kernel shows paths without links: dir is looked up as it shows it. A mount that
// was missed here would have its contents deleted.
func (Kernel) Below(dir string) ([]string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		at := unescape(fields[4])
		if at == dir || strings.HasPrefix(at, dir+"/") {
			out = append(out, at)
		}
	}
	return out, lines.Err()
}

// unescape undoes the kernel's octal escapes of blanks and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Tmpfs implements Mounts. What is in it is not swapped to a disk, where the kernel can see to that (Linux 6.4).
func (Kernel) Tmpfs(dir, options string) error {
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, options+",noswap")
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, options)
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
	}
	return nil
}

// Bind implements Mounts. The source is named by its descriptor, so nobody can swap it for a link in between.
func (Kernel) Bind(source *os.File, target string, readOnly bool) error {
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", source.Fd()), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s at %s: %w", source.Name(), target, err)
	}
	if !readOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", target, err)
	}
	return nil
}

// Mount implements Mounts.
func (Kernel) Mount(source, target, fsType string, options []string) error {
	return mount.NewWithoutSystemd("").Mount(source, target, fsType, options)
}

// Format implements Mounts.
func (Kernel) Format(disk, target, fsType string, options []string) error {
	return mount.NewSafeFormatAndMount(mount.NewWithoutSystemd(""), exec.New()).FormatAndMount(disk, target, fsType, options)
}

// Unmount implements Mounts.
func (Kernel) Unmount(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
