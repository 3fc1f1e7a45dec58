package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"

	"github.com/kebernetes/kebernetes/store"
)

const priorityClasses = "priorityclasses.scheduling.k8s.io"

// priority turns a pod's class into its number, and lets only one class be the default.
func priority(reader store.Reader) Step {
	return Step{
		Name: "Priority",
		Mutate: func(_ context.Context, r *Request) error {
			if pod, ok := r.newPod(); ok {
				return resolvePriority(reader, r, pod)
			}
			if pod, ok := r.Object.(*corev1.Pod); ok && r.Operation == Update && r.is("pods", "") {
				keepPriority(pod, r.Old.(*corev1.Pod))
			}
			return nil
		},
		Validate: func(_ context.Context, r *Request) error {
			class, ok := r.Object.(*schedulingv1.PriorityClass)
			if !ok || !class.GlobalDefault || (r.Operation != Create && r.Operation != Update) {
				return nil
			}
			if other := defaultPriorityClass(reader); other != nil && other.Name != class.Name {
				return r.forbid("PriorityClass %v is already marked as default. Only one default can exist", other.Name)
			}
			return nil
		},
	}
}

// keepPriority lets clients leave out what the server filled in.
func keepPriority(pod, old *corev1.Pod) {
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = old.Spec.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
	}
}

func resolvePriority(reader store.Reader, r *Request, pod *corev1.Pod) error {
	var class *schedulingv1.PriorityClass
	if name := pod.Spec.PriorityClassName; name != "" {
		var ok bool
		if class, ok = named[*schedulingv1.PriorityClass](reader, priorityClasses, "", name); !ok {
			return r.forbid("no PriorityClass with name %v was found", name)
		}
	} else {
		class = defaultPriorityClass(reader)
	}
	value, preemption := int32(0), corev1.PreemptLowerPriority
	if class != nil {
		pod.Spec.PriorityClassName, value = class.Name, class.Value
		if class.PreemptionPolicy != nil {
			preemption = *class.PreemptionPolicy
		}
	}
	if p := pod.Spec.Priority; p != nil && *p != value {
		return r.forbid("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *p, value)
	}
	pod.Spec.Priority = &value
	if p := pod.Spec.PreemptionPolicy; p != nil && *p != preemption {
		return r.forbid("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *p, preemption)
	}
	pod.Spec.PreemptionPolicy = &preemption
	return nil
}

// defaultPriorityClass is the class marked as default, the lowest should several be marked, or nil.
func defaultPriorityClass(reader store.Reader) *schedulingv1.PriorityClass {
	var lowest *schedulingv1.PriorityClass
	for item := range reader.Snapshot().List(priorityClasses, "") {
		class := item.Object.(*schedulingv1.PriorityClass)
		if class.GlobalDefault && (lowest == nil || class.Value < lowest.Value) {
			lowest = class
		}
	}
	return lowest
}
