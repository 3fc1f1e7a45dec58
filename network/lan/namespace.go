package lan

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// openNamespace makes sure that there is a network namespace at path, which keeps it while no process is in it. made says
// that it is new.
func openNamespace(path string) (made bool, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err == nil && s.Type == unix.NSFS_MAGIC {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	// The mount covers a file, which a crash may have left without it.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o444)
	if err != nil {
		return false, err
	}
	f.Close()
	err = apart(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	})
	return err == nil, err
}

// removeNamespace lets a namespace go. Its links and rules go with the last process in it.
func removeNamespace(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return ignoreMissing(os.Remove(path))
}

// apart calls f on a thread that ends with it: whatever f does to its thread nobody else is in.
func apart(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		done <- f()
	}()
	return <-done
}
