package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// file is one file of a live volume.
type file struct {
	data []byte
	mode int32
	user *int64 // owner; nil: root
}

const (
	dataLink = "..data"
	newLink  = "..data_tmp"
)

// writeAtomic makes the directory show exactly these files. Readers see the old set or the new one, never a mixture: the
// files lie in a directory of their own that ..data points at, and a rename turns that link. For each first path element there is a link
// through ..data, as programs that watch such volumes expect. Nothing is written when nothing changed.
func writeAtomic(dir string, files map[string]file, group *int64) error {
	for name := range files {
		if err := checkPath(name); err != nil {
			return err
		}
	}
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if old != "" && same(filepath.Join(dir, old), files) {
		return link(dir, files)
	}
	fresh, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return err
	}
	if err := writeFiles(fresh, files, group); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	if err := os.Remove(filepath.Join(dir, newLink)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(fresh), filepath.Join(dir, newLink)); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, newLink), filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	if err := link(dir, files); err != nil {
		return err
	}
	return prune(dir, filepath.Base(fresh), files)
}

// checkPath refuses what would leave the directory or collide with its own names.
func checkPath(name string) error {
	if name == "" || path.IsAbs(name) || path.Clean(name) != name || strings.HasPrefix(name, "..") {
		return fmt.Errorf("invalid path %q: must be relative, clean and not start with '..'", name)
	}
	return nil
}

// same says whether dir holds exactly the files. Modes are not compared: a pod's spec fixes them, and containers mount
// such volumes read-only.
func same(dir string, files map[string]file) bool {
	count := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		want, ok := files[rel]
		if !ok {
			return fs.ErrNotExist
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, want.data) {
			return fs.ErrInvalid
		}
		count++
		return nil
	})
	return err == nil && count == len(files)
}

func writeFiles(dir string, files map[string]file, group *int64) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		target := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, f.data, 0o600); err != nil {
			return err
		}
		if f.user != nil {
			if err := os.Lchown(target, int(*f.user), -1); err != nil {
				return err
			}
		}
		if err := os.Chmod(target, fs.FileMode(f.mode)&fs.ModePerm); err != nil {
			return err
		}
	}
	if group == nil {
		return nil
	}
	return ownTree(dir, *group, true)
}

// link makes a link for each first path element that has none.
func link(dir string, files map[string]file) error {
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		err := os.Symlink(path.Join(dataLink, first), filepath.Join(dir, first))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// prune removes links to files that are gone, and the directories of former sets, a crash's leftovers included.
func prune(dir, current string, files map[string]file) error {
	keep := map[string]bool{dataLink: true, current: true}
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		keep[first] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
