package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// replaceFile writes a file aside, syncs it and renames it into place: after a crash there is the old or the new one, whole.
func replaceFile(path string, write func(*os.File) error) error {
	aside := path + ".tmp"
	f, err := os.OpenFile(aside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(aside, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(aside))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lockDir keeps a second process out of the directory for as long as the returned file is open.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another process is using it (%s is locked)", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// Values of lseek's whence that package io does not name; see lseek(2).
const (
	seekData = 3
	seekHole = 4
)

// readData returns a file's bytes up to the end of its last extent that was written. Log segments are preallocated, and
// reading megabytes of nothing would cost more than reading the log.
func readData(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var end int64
	for {
		start, err := f.Seek(end, seekData)
		if errors.Is(err, syscall.ENXIO) {
			break
		}
		if err != nil { // a file system without holes
			return os.ReadFile(path)
		}
		if end, err = f.Seek(start, seekHole); err != nil {
			return os.ReadFile(path)
		}
	}
	data := make([]byte, end)
	_, err = f.ReadAt(data, 0)
	return data, err
}
