package volume

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
)

// Reads says whether the pod's volumes show the contents of that ConfigMap or Secret (kind "ConfigMap" or "Secret").
func Reads(pod *corev1.Pod, kind, name string) bool {
	for k, n := range References(pod) {
		if k == kind && n == name {
			return true
		}
	}
	return false
}

// References are the ConfigMaps and Secrets whose contents the pod's volumes show, as kind ("ConfigMap" or "Secret") and name, as
// often as the pod names them.
func References(pod *corev1.Pod) iter.Seq2[string, string] {
	return func(yield func(kind, name string) bool) {
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			switch {
			case v.ConfigMap != nil:
				if !yield("ConfigMap", v.ConfigMap.Name) {
					return
				}
			case v.Secret != nil:
				if !yield("Secret", v.Secret.SecretName) {
					return
				}
			case v.Projected != nil:
				for _, s := range v.Projected.Sources {
					if s.ConfigMap != nil && !yield("ConfigMap", s.ConfigMap.Name) || s.Secret != nil && !yield("Secret", s.Secret.Name) {
						return
					}
				}
			}
		}
	}
}
