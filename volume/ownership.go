package volume

import (
	"io/fs"
	"os"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// Own gives what is mounted at dir to the pod's fsGroup, if it has one, as its fsGroupChangePolicy says.
func Own(dir string, pod *corev1.Pod) error {
	group := fsGroup(pod)
	if group == nil {
		return nil
	}
	if p := pod.Spec.SecurityContext.FSGroupChangePolicy; p != nil && *p == corev1.FSGroupChangeOnRootMismatch {
		info, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		const wanted = 0o770 | fs.ModeSetgid
		if s, ok := info.Sys().(*syscall.Stat_t); ok && int64(s.Gid) == *group && info.Mode()&wanted == wanted {
			return nil
		}
	}
	return ownTree(dir, *group, false)
}

// ownTree gives a tree to a group: files become readable (and writable, unless readOnly) for it, directories also searchable
// and setgid, so that new files belong to the group too. It never leaves the tree, whatever links others put there meanwhile.
func ownTree(dir string, group int64, readOnly bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	add := fs.FileMode(0o660)
	if readOnly {
		add = 0o440
	}
	return fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := root.Lchown(p, -1, int(group)); err != nil {
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
		return root.Chmod(p, mode|info.Mode()&fs.ModeSticky)
	})
}
