package volume

import corev1 "k8s.io/api/core/v1"

// Reads says whether the pod's volumes show the contents of that ConfigMap or Secret (kind "ConfigMap" or "Secret").
func Reads(pod *corev1.Pod, kind, name string) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.ConfigMap != nil:
			if kind == "ConfigMap" && v.ConfigMap.Name == name {
				return true
			}
		case v.Secret != nil:
			if kind == "Secret" && v.Secret.SecretName == name {
				return true
			}
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if kind == "ConfigMap" && s.ConfigMap != nil && s.ConfigMap.Name == name ||
					kind == "Secret" && s.Secret != nil && s.Secret.Name == name {
					return true
				}
			}
		}
	}
	return false
}
