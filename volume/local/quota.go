package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Project quotas: a folder and all that is made in it carry a project's number, and the file system bounds what a project
// holds. ext4 has them when made with the feature "project" and mounted with prjquota, XFS when mounted so.

// firstProject is where the numbers of volumes begin: above those that people write into /etc/projid.
const firstProject = 1 << 21

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	flags, extSize, extents, project, cowExtSize uint32
	_                                            [8]byte
}

// dqblk is struct if_dqblk of linux/quota.h; limits are in blocks of 1024 bytes.
type dqblk struct {
	hard, soft, space       uint64
	filesHard, filesSoft    uint64
	files, grace, fileGrace uint64
	valid                   uint32
	_                       uint32
}

const (
	ioctlGetAttr  = 0x801c581f // FS_IOC_FSGETXATTR
	ioctlSetAttr  = 0x401c5820 // FS_IOC_FSSETXATTR
	inheritFlag   = 0x200      // FS_XFLAG_PROJINHERIT
	projectQuota  = 2          // PRJQUOTA
	setQuota      = 0x800008   // Q_SETQUOTA
	validLimits   = 1          // QIF_BLIMITS
	bytesPerBlock = 1024
)

// limit bounds a folder to size bytes, and says whether the file system can; 0 lifts the bound.
func (f *Folders) limit(name string, size int64) (bounded bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	dir, err := f.open(name)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	project, err := projectOf(dir)
	if unsupported(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read quota project of %s: %w", name, err)
	}
	if project == 0 {
		if project, err = f.freeProject(); err != nil {
			return false, err
		}
	}
	// The bound before the number: a folder with a number and no bound would be of no use.
	if err := setLimit(dir, project, size); unsupported(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("set quota of %s: %w", name, err)
	}
	if err := setProject(dir, project); unsupported(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("set quota project of %s: %w", name, err)
	}
	return true, nil
}

// unlimit gives the number of a folder back.
func (f *Folders) unlimit(name string) error {
	dir, err := f.open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	project, err := projectOf(dir)
	if err != nil || project < firstProject {
		return nil // no quotas here, or none of ours
	}
	if err := setLimit(dir, project, 0); err != nil && !unsupported(err) {
		return fmt.Errorf("lift quota of %s: %w", name, err)
	}
	return nil
}

func (f *Folders) open(name string) (*os.File, error) {
	return f.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

// freeProject is a number that no folder has. The caller holds mu.
func (f *Folders) freeProject() (uint32, error) {
	entries, err := fs.ReadDir(f.root.FS(), ".")
	if err != nil {
		return 0, err
	}
	highest := uint32(firstProject)
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir, err := f.open(e.Name())
		if err != nil {
			continue // it is being deleted
		}
		project, err := projectOf(dir)
		dir.Close()
		if err == nil {
			highest = max(highest, project)
		}
	}
	return highest + 1, nil
}

// unsupported says that an error means that the file system has no project quotas, or that the kernel is too old to set them by
// a directory (5.14).
func unsupported(err error) bool {
	for _, no := range []error{unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS, unix.ESRCH} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

func projectOf(dir *os.File) (uint32, error) {
	attr, err := attributes(dir)
	return attr.project, err
}

func attributes(dir *os.File) (attr fsxattr, err error) {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ioctlGetAttr, uintptr(unsafe.Pointer(&attr))); errno != 0 {
		return attr, errno
	}
	return attr, nil
}

// setProject gives a directory, and what will be made in it, to a project.
func setProject(dir *os.File, project uint32) error {
	attr, err := attributes(dir)
	if err != nil {
		return err
	}
	if attr.project == project && attr.flags&inheritFlag != 0 {
		return nil
	}
	attr.project, attr.flags = project, attr.flags|inheritFlag
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ioctlSetAttr, uintptr(unsafe.Pointer(&attr))); errno != 0 {
		return errno
	}
	return nil
}

// setLimit bounds a project of the file system that dir lies on.
func setLimit(dir *os.File, project uint32, size int64) error {
	blocks := uint64(size+bytesPerBlock-1) / bytesPerBlock
	q := dqblk{hard: blocks, soft: blocks, valid: validLimits}
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, dir.Fd(), setQuota<<8|projectQuota, uintptr(project), uintptr(unsafe.Pointer(&q)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
