package volume

import (
	"io/fs"
	"os"
	"path/filepath"
)

// ownTree gives a tree to a group: files become readable (and writable, unless readOnly) for it, directories also
// searchable and setgid, so that new files belong to the group too. Links are not followed. nil does nothing.
func ownTree(dir string, group *int64, readOnly bool) error {
	if group == nil {
		return nil
	}
	add := fs.FileMode(0o660)
	if readOnly {
		add = 0o440
	}
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(p, -1, int(*group)); err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | add
		if d.IsDir() {
			mode |= 0o110 | fs.ModeSetgid
		}
		return os.Chmod(p, mode|info.Mode()&fs.ModeSticky)
	})
}
