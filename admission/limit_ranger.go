package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resources "k8s.io/component-helpers/resource"

	"github.com/kebernetes/kebernetes/store"
)

const limitRangerAnnotation = "kubernetes.io/limit-ranger"

// limitRanger fills in the requests and limits that a namespace's LimitRanges set as defaults, and refuses pods and claims beyond their bounds.
func limitRanger(reader store.Reader) Step {
	ranges := func(r *Request) []*corev1.LimitRange {
		pod := (r.Operation == Create && r.is("pods", "")) || (r.Operation == Update && r.is("pods", "resize"))
		claim := (r.Operation == Create || r.Operation == Update) && r.is("persistentvolumeclaims", "")
		if !pod && !claim {
			return nil
		}
		var out []*corev1.LimitRange
		for item := range reader.Snapshot().List("limitranges", r.Namespace) {
			out = append(out, item.Object.(*corev1.LimitRange))
		}
		return out
	}
	return Step{
		Name: "LimitRanger",
		Mutate: func(_ context.Context, r *Request) error {
			pod, ok := r.newPod()
			if !ok {
				return nil
			}
			for _, l := range ranges(r) {
				setLimitDefaults(l, pod)
			}
			return nil
		},
		Validate: func(_ context.Context, r *Request) error {
			for _, l := range ranges(r) {
				var errs []error
				switch o := r.Object.(type) {
				case *corev1.Pod:
					errs = podLimits(l, o)
				case *corev1.PersistentVolumeClaim:
					errs = claimLimits(l, o)
				}
				if err := joined(errs); err != nil {
					return r.forbid("%w", err)
				}
			}
			return nil
		},
	}
}

// setLimitDefaults fills in what containers do not say, and writes down what it did.
func setLimitDefaults(l *corev1.LimitRange, pod *corev1.Pod) {
	limits, requests := corev1.ResourceList{}, corev1.ResourceList{}
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		for name, q := range item.DefaultRequest {
			requests[name] = q
		}
		for name, q := range item.Default {
			limits[name] = q
		}
	}
	var notes []string
	fill := func(kind string, containers []corev1.Container) {
		for i := range containers {
			c := &containers[i]
			// A limit without a request is a request too: that default runs first and stays.
			notes = appendNote(notes, fillMissing(&c.Resources.Requests, requests), "request", kind, c.Name)
			notes = appendNote(notes, fillMissing(&c.Resources.Limits, limits), "limit", kind, c.Name)
		}
	}
	fill("container", pod.Spec.Containers)
	fill("init container", pod.Spec.InitContainers)
	if len(notes) == 0 {
		return
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[limitRangerAnnotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
}

func appendNote(notes, set []string, what, kind, name string) []string {
	if len(set) == 0 {
		return notes
	}
	slices.Sort(set)
	return append(notes, fmt.Sprintf("%s %s for %s %s", strings.Join(set, ", "), what, kind, name))
}

func fillMissing(into *corev1.ResourceList, defaults corev1.ResourceList) []string {
	var set []string
	for name, q := range defaults {
		if _, ok := (*into)[name]; ok {
			continue
		}
		if *into == nil {
			*into = corev1.ResourceList{}
		}
		(*into)[name] = q.DeepCopy()
		set = append(set, string(name))
	}
	return set
}

func podLimits(l *corev1.LimitRange, pod *corev1.Pod) []error {
	var errs []error
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
				errs = append(errs, withinBounds(item, c.Resources.Requests, c.Resources.Limits)...)
			}
		case corev1.LimitTypePod:
			options := resources.PodResourcesOptions{}
			errs = append(errs, withinBounds(item, resources.PodRequests(pod, options), resources.PodLimits(pod, options))...)
		}
	}
	return errs
}

func claimLimits(l *corev1.LimitRange, claim *corev1.PersistentVolumeClaim) []error {
	var errs []error
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		if item.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		requests := claim.Spec.Resources.Requests
		for _, name := range sortedNames(item.Min) {
			errs = appendError(errs, minimum(item, name, requests, nil))
		}
		for _, name := range sortedNames(item.Max) {
			bound, asked := item.Max[name], requests[name]
			if asked.Cmp(bound) > 0 {
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, bound.String(), asked.String()))
			}
		}
	}
	return errs
}

func withinBounds(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	var errs []error
	for _, name := range sortedNames(item.Min) {
		errs = appendError(errs, minimum(item, name, requests, limits))
	}
	for _, name := range sortedNames(item.Max) {
		errs = appendError(errs, maximum(item, name, requests, limits))
	}
	for _, name := range sortedNames(item.MaxLimitRequestRatio) {
		errs = appendError(errs, ratio(item, name, requests, limits))
	}
	return errs
}

func appendError(errs []error, err error) []error {
	if err == nil {
		return errs
	}
	return append(errs, err)
}

func minimum(item *corev1.LimitRangeItem, name corev1.ResourceName, requests, limits corev1.ResourceList) error {
	bound := item.Min[name]
	asked, ok := requests[name]
	if !ok {
		return fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, item.Type, bound.String())
	}
	if asked.Cmp(bound) < 0 {
		return fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, item.Type, bound.String(), asked.String())
	}
	if limit, ok := limits[name]; ok && limit.Cmp(bound) < 0 {
		return fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, item.Type, bound.String(), limit.String())
	}
	return nil
}

func maximum(item *corev1.LimitRangeItem, name corev1.ResourceName, requests, limits corev1.ResourceList) error {
	bound := item.Max[name]
	limit, ok := limits[name]
	if !ok {
		return fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", name, item.Type, bound.String())
	}
	if limit.Cmp(bound) > 0 {
		return fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", name, item.Type, bound.String(), limit.String())
	}
	if asked, ok := requests[name]; ok && asked.Cmp(bound) > 0 {
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, bound.String(), asked.String())
	}
	return nil
}

func ratio(item *corev1.LimitRangeItem, name corev1.ResourceName, requests, limits corev1.ResourceList) error {
	bound := item.MaxLimitRequestRatio[name]
	asked, hasRequest := requests[name]
	limit, hasLimit := limits[name]
	switch {
	case !hasRequest || asked.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, item.Type, bound.String())
	case !hasLimit || limit.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, item.Type, bound.String())
	}
	if got := limit.AsApproximateFloat64() / asked.AsApproximateFloat64(); got > bound.AsApproximateFloat64() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, item.Type, bound.String(), got)
	}
	return nil
}

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	out := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
