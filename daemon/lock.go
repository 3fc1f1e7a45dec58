package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lock is the claim of one process to a data directory. The kernel releases it when the process ends, however it ends.
type lock struct{ file *os.File }

func lockPath(dataDir string) string { return filepath.Join(dataDir, "keb.lock") }

// takeLock claims the data directory, which it makes, or says which process has it.
func takeLock(dataDir string) (*lock, error) {
	if err := os.MkdirAll(dataDir, 0o711); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	held, by, err := lockFile(lockPath(dataDir))
	if errors.Is(err, unix.EAGAIN) {
		return nil, fmt.Errorf("data directory %s is in use by process %d; stop it or choose another --data-dir", dataDir, by)
	}
	if err != nil {
		return nil, fmt.Errorf("lock data directory %s: %w", dataDir, err)
	}
	return held, nil
}

// lockFile claims a file and writes this process's number into it. by is who holds it.
func lockFile(path string) (held *lock, by int, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, 0, err
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, wholeFile()); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EAGAIN) {
			by = readPID(f)
		}
		return nil, by, err
	}
	if err := f.Truncate(0); err != nil {
		return nil, 0, err
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return nil, 0, err
	}
	return &lock{f}, 0, nil
}

func (l *lock) release() { l.file.Close() }

// wholeFile is the lock itself. It belongs to the open file, and unlike one of flock can be asked for without being taken:
// whoever looks is never in the way of a server that starts.
func wholeFile() *unix.Flock_t { return &unix.Flock_t{Type: unix.F_WRLCK} }

func readPID(f *os.File) int {
	buf := make([]byte, 16)
	n, _ := f.ReadAt(buf, 0)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	return pid
}

// Holder returns the process that runs on a data directory, or 0 when none does.
func Holder(dataDir string) (int, error) {
	f, err := os.Open(lockPath(dataDir))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at data directory: %w", err)
	}
	defer f.Close()
	held := wholeFile()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, held); err != nil {
		return 0, fmt.Errorf("look at data directory: %w", err)
	}
	if held.Type == unix.F_UNLCK {
		return 0, nil
	}
	return readPID(f), nil
}

// stopHolder ends the process that runs on a data directory: politely, and by force when it does not go.
func stopHolder(dataDir string, grace time.Duration) error {
	pid, err := Holder(dataDir)
	if err != nil || pid == 0 {
		return err
	}
	// The pidfd names this very process, whose lock was just seen: its number cannot come to mean another.
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGTERM, grace}, {syscall.SIGKILL, 5 * time.Second}} {
		if err := unix.PidfdSendSignal(fd, step.signal, nil, 0); errors.Is(err, unix.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("stop process %d: %w", pid, err)
		}
		if ended(fd, step.wait) {
			return nil
		}
	}
	return fmt.Errorf("stop process %d: it does not end", pid)
}

// ended waits until the process behind a pidfd has ended.
func ended(fd int, wait time.Duration) bool {
	deadline := time.Now().Add(wait)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if n > 0 {
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
	}
}
