package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
)

// defaultTolerationSeconds is how long pods stay on a node that is not ready or not reachable.
const tolerationSeconds = int64(300)

// defaultTolerationSeconds lets pods stay for five minutes on a node that has gone, unless they say something about it themselves.
func defaultTolerationSeconds() Step {
	return Step{Name: "DefaultTolerationSeconds", Mutate: func(_ context.Context, r *Request) error {
		pod, ok := r.Object.(*corev1.Pod)
		if !ok || !r.is("pods", "") || (r.Operation != Create && r.Operation != Update) {
			return nil
		}
		for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
			if tolerates(pod, key) {
				continue
			}
			seconds := tolerationSeconds
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
			})
		}
		return nil
	}}
}

func tolerates(pod *corev1.Pod, key string) bool {
	for i := range pod.Spec.Tolerations {
		t := &pod.Spec.Tolerations[i]
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}
