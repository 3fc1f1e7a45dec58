package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// taintNodesByCondition keeps pods away from a new node until it is known to be ready.
func taintNodesByCondition() Step {
	return Step{Name: "TaintNodesByCondition", Mutate: func(_ context.Context, r *Request) error {
		node, ok := r.Object.(*corev1.Node)
		if !ok || r.Operation != Create || !r.is("nodes", "") {
			return nil
		}
		taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
		if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
			node.Spec.Taints = append(node.Spec.Taints, taint)
		}
		return nil
	}}
}
