package admission

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/kebernetes/kebernetes/store"
)

// runtimeClass puts the overhead, node selector and tolerations of a pod's runtime class into the pod.
func runtimeClass(reader store.Reader) Step {
	find := func(r *Request, pod *corev1.Pod) (*nodev1.RuntimeClass, error) {
		if pod.Spec.RuntimeClassName == nil {
			return nil, nil
		}
		class, ok := named[*nodev1.RuntimeClass](reader, "runtimeclasses.node.k8s.io", "", *pod.Spec.RuntimeClassName)
		if !ok {
			return nil, r.forbid("pod rejected: RuntimeClass %q not found", *pod.Spec.RuntimeClassName)
		}
		return class, nil
	}
	return Step{
		Name: "RuntimeClass",
		Mutate: func(_ context.Context, r *Request) error {
			pod, ok := r.newPod()
			if !ok {
				return nil
			}
			class, err := find(r, pod)
			if err != nil || class == nil {
				return err
			}
			if err := setOverhead(r, pod, class); err != nil {
				return err
			}
			return setScheduling(r, pod, class)
		},
		Validate: func(_ context.Context, r *Request) error {
			pod, ok := r.newPod()
			if !ok {
				return nil
			}
			class, err := find(r, pod)
			if err != nil {
				return err
			}
			if len(pod.Spec.Overhead) > 0 && (class == nil || class.Overhead == nil) {
				return r.forbid("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
			}
			return nil
		},
	}
}

func setOverhead(r *Request, pod *corev1.Pod, class *nodev1.RuntimeClass) error {
	if class.Overhead == nil {
		return nil
	}
	if pod.Spec.Overhead != nil && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
		return r.forbid("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
	}
	pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	return nil
}

func setScheduling(r *Request, pod *corev1.Pod, class *nodev1.RuntimeClass) error {
	if class.Scheduling == nil {
		return nil
	}
	selector := maps.Clone(pod.Spec.NodeSelector)
	for _, key := range slices.Sorted(maps.Keys(class.Scheduling.NodeSelector)) {
		value := class.Scheduling.NodeSelector[key]
		if own, ok := selector[key]; ok && own != value {
			return r.forbid("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, own)
		}
		if selector == nil {
			selector = map[string]string{}
		}
		selector[key] = value
	}
	pod.Spec.NodeSelector = selector
	for _, t := range class.Scheduling.Tolerations {
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(have corev1.Toleration) bool { return equality.Semantic.DeepEqual(have, t) }) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, *t.DeepCopy())
		}
	}
	return nil
}
