package volume

import (
	"errors"
	"path"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/volume/downward"
)

// downwardAPI computes the files of a downward API volume.
func (m *Mounter) downwardAPI(pod *corev1.Pod, s *corev1.DownwardAPIVolumeSource) (*content, error) {
	files := map[string]file{}
	err := m.downwardFiles(pod, s.Items, modeOf(s.DefaultMode), files)
	return &content{files: files}, err
}

func (m *Mounter) downwardFiles(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode int32, files map[string]file) error {
	var errs []error
	for _, item := range items {
		var text string
		var err error
		switch {
		case item.FieldRef != nil:
			text, err = downward.Field(pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			text, err = downward.Resource(pod, item.ResourceFieldRef.ContainerName, item.ResourceFieldRef, m.Objects.Allocatable())
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		one := mode
		if item.Mode != nil {
			one = *item.Mode
		}
		files[path.Clean(item.Path)] = file{data: []byte(text), mode: one}
	}
	return errors.Join(errs...)
}
