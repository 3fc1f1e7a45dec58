package volume

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// secret computes the files of a Secret volume.
func (m *Mounter) secret(ctx context.Context, pod *corev1.Pod, s *corev1.SecretVolumeSource) (*content, error) {
	files := map[string]file{}
	err := m.secretFiles(ctx, pod.Namespace, s.SecretName, s.Items, isTrue(s.Optional), modeOf(s.DefaultMode), files)
	return &content{files: files}, err
}

func (m *Mounter) secretFiles(ctx context.Context, namespace, name string, items []corev1.KeyToPath, optional bool, mode int32, files map[string]file) error {
	s, err := m.Objects.Secret(ctx, namespace, name)
	if err != nil {
		if optional && apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	if key := project(s.Data, items, optional, mode, files); key != "" {
		return fmt.Errorf("references non-existent secret key: %s", key)
	}
	return nil
}
