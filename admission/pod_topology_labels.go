package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/store"
)

// podTopologyLabels copies a node's zone and region to the pods that are bound to it: to the binding, whose labels go to
// the pod, or to a pod that is created with its node.
func podTopologyLabels(reader store.Reader) Step {
	return Step{Name: "PodTopologyLabels", Mutate: func(_ context.Context, r *Request) error {
		if r.Operation != Create || r.Kind.Resource != "pods" || r.Kind.Group != "" {
			return nil
		}
		target := ""
		switch o := r.Object.(type) {
		case *corev1.Binding:
			if o.Target.Kind == "" || o.Target.Kind == "Node" {
				target = o.Target.Name
			}
		case *corev1.Pod:
			target = o.Spec.NodeName
		}
		node, ok := named[*corev1.Node](reader, "nodes", "", target)
		if !ok {
			return nil
		}
		labels := r.Object.GetLabels()
		for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
			value, ok := node.Labels[key]
			if !ok {
				continue
			}
			if labels == nil {
				labels = map[string]string{}
			}
			labels[key] = value
		}
		r.Object.SetLabels(labels)
		return nil
	}}
}
