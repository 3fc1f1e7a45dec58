package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	corev1 "k8s.io/api/core/v1"
)

// hostPath checks, or makes, what the type asks for.
func (m *Mounter) hostPath(s *corev1.HostPathVolumeSource) (Mounted, error) {
	if err := checkHostPath(s); err != nil {
		return Mounted{}, fmt.Errorf("hostPath type check failed: %w", err)
	}
	return Mounted{Path: s.Path}, nil
}

func checkHostPath(s *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if s.Type != nil {
		kind = *s.Type
	}
	info, err := os.Stat(s.Path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	switch kind {
	case corev1.HostPathUnset:
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if missing {
			return os.MkdirAll(s.Path, 0o755)
		}
	case corev1.HostPathFileOrCreate:
		if missing {
			f, err := os.OpenFile(s.Path, os.O_CREATE|os.O_RDWR, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
	}
	is := func(ok bool, what string) error {
		if missing || !ok {
			return fmt.Errorf("%s is not a %s", s.Path, what)
		}
		return nil
	}
	var mode fs.FileMode
	if info != nil {
		mode = info.Mode()
	}
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		return is(mode.IsDir(), "directory")
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		return is(mode.IsRegular(), "file")
	case corev1.HostPathSocket:
		return is(mode&fs.ModeSocket != 0, "socket file")
	case corev1.HostPathCharDev:
		return is(mode&fs.ModeCharDevice != 0, "character device")
	case corev1.HostPathBlockDev:
		return is(mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0, "block device")
	}
	return fmt.Errorf("%s is an invalid volume type", kind)
}
