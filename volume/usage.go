package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Used is what a tree of files takes of its file system.
type Used struct{ Bytes, Inodes int64 }

// Add sums two up.
func (u Used) Add(o Used) Used { return Used{u.Bytes + o.Bytes, u.Inodes + o.Inodes} }

// deepest is how deep Measure looks. A descriptor is open per level, and whoever owns the files chooses how many levels there are.
const deepest = 500

// Measure adds up the blocks that a directory and all in it take, as du does: holes take none, a file with several names counts
// once. It follows no link and enters no mount, whatever the owner of the files does meanwhile, and changes no access times.
func Measure(ctx context.Context, dir string) (Used, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if err != nil {
		return Used{}, fmt.Errorf("measure %s: %w", dir, err)
	}
	root := os.NewFile(uintptr(fd), dir)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Used{}, errors.Join(fmt.Errorf("measure %s: %w", dir, err), root.Close())
	}
	m := &measure{device: st.Dev, linked: map[uint64]struct{}{}}
	m.add(&st)
	if err := m.walk(ctx, root, 0); err != nil {
		return Used{}, fmt.Errorf("measure %s: %w", dir, err)
	}
	return m.Used, nil
}

type measure struct {
	Used
	device uint64
	// linked are the files seen that have several names.
	linked map[uint64]struct{}
}

func (m *measure) add(st *unix.Stat_t) {
	m.Bytes += st.Blocks * 512 // whatever the file system's block size: stat(2)
	m.Inodes++
}

// walk measures what is in a directory, and closes it. What goes away meanwhile is not counted.
func (m *measure) walk(ctx context.Context, dir *os.File, depth int) error {
	defer dir.Close()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		names, err := dir.Readdirnames(512)
		for _, name := range names {
			if err := m.one(ctx, dir, name, depth); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return err
		}
	}
}

func (m *measure) one(ctx context.Context, dir *os.File, name string, depth int) error {
	fd := int(dir.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return err
	}
	if st.Dev != m.device {
		return nil
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if st.Nlink > 1 && !isDir {
		if _, seen := m.linked[st.Ino]; seen {
			return nil
		}
		m.linked[st.Ino] = struct{}{}
	}
	m.add(&st)
	if !isDir || depth == deepest {
		return nil
	}
	child, err := unix.Openat2(fd, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NOATIME | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	for _, swapped := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV} {
		if errors.Is(err, swapped) {
			return nil
		}
	}
	if err != nil {
		return err
	}
	return m.walk(ctx, os.NewFile(uintptr(child), name), depth+1)
}
