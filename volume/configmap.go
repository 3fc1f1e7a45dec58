package volume

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// configMap computes the files of a ConfigMap volume.
func (m *Mounter) configMap(ctx context.Context, pod *corev1.Pod, s *corev1.ConfigMapVolumeSource) (*content, error) {
	files := map[string]file{}
	err := m.configMapFiles(ctx, pod.Namespace, s.Name, s.Items, isTrue(s.Optional), modeOf(s.DefaultMode), files)
	return &content{files: files}, err
}

func (m *Mounter) configMapFiles(ctx context.Context, namespace, name string, items []corev1.KeyToPath, optional bool, mode int32, files map[string]file) error {
	cm, err := m.Objects.ConfigMap(ctx, namespace, name)
	if err != nil {
		if optional && apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	if key := project(data, items, optional, mode, files); key != "" {
		return fmt.Errorf("configmap references non-existent config key: %s", key)
	}
	return nil
}

// project puts data under its own keys, or under the items' paths, and returns the first key that is missing.
func project(data map[string][]byte, items []corev1.KeyToPath, optional bool, mode int32, files map[string]file) (missing string) {
	if items == nil {
		for k, v := range data {
			files[k] = file{data: v, mode: mode}
		}
		return ""
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return item.Key
		}
		one := mode
		if item.Mode != nil {
			one = *item.Mode
		}
		files[item.Path] = file{data: v, mode: one}
	}
	return ""
}

func isTrue(b *bool) bool { return b != nil && *b }

// modeOf falls back to 0644, the API's default, for objects that were stored without.
func modeOf(mode *int32) int32 {
	if mode == nil {
		return 0o644
	}
	return *mode
}
