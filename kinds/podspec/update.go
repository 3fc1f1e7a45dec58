package podspec

import (
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

const immutablePod = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// ValidatePodUpdate checks an update of a pod, metadata apart: it must be a good pod, and only images, the deadline,
// tolerations and gates may have changed; a pod that is still held by a gate may be given a narrower choice of nodes.
func ValidatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	r := &report{}
	r.pod(pod)
	at := field.NewPath("spec")
	r.unchangedAppArmor(pod, old)
	if !r.sameCount(at.Child("containers"), len(pod.Spec.Containers), len(old.Spec.Containers)) ||
		!r.sameCount(at.Child("initContainers"), len(pod.Spec.InitContainers), len(old.Spec.InitContainers)) ||
		!r.deadlineUpdate(at.Child("activeDeadlineSeconds"), pod.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds) {
		return r.Errs
	}
	r.addedTolerations(at.Child("tolerations"), pod.Spec.Tolerations, old.Spec.Tolerations)
	for _, g := range pod.Spec.SchedulingGates {
		if !slices.Contains(old.Spec.SchedulingGates, g) {
			r.Forbidden(at.Child("schedulingGates"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name))
		}
	}
	// What may change, or has been judged already, is set back; the rest must be what it was.
	rest := pod.Spec.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds, rest.Tolerations, rest.SchedulingGates = old.Spec.ActiveDeadlineSeconds, old.Spec.Tolerations, old.Spec.SchedulingGates
	if g := old.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 && ptr.Deref(rest.TerminationGracePeriodSeconds, 0) == 1 {
		rest.TerminationGracePeriodSeconds = g
	}
	if len(old.Spec.SchedulingGates) > 0 {
		r.gatedUpdate(at, rest, &old.Spec)
	}
	if !equality.Semantic.DeepEqual(*rest, old.Spec) {
		r.Forbidden(at, fmt.Sprintf("%s\n%v", immutablePod, difference(old.Spec, *rest)))
	}
	return r.Errs
}

func (r *report) sameCount(at *field.Path, n, before int) bool {
	if n != before {
		r.Forbidden(at, "pod updates may not add or remove containers")
	}
	return n == before
}

// deadlineUpdate lets a deadline be set and drawn nearer.
func (r *report) deadlineUpdate(at *field.Path, value, old *int64) bool {
	switch {
	case value == nil && old != nil:
		r.Invalid(at, value, "must not update from a positive integer to nil value")
	case value == nil:
	case *value < 0 || *value > math.MaxInt32:
		r.Invalid(at, *value, validation.InclusiveRangeError(0, math.MaxInt32))
		return false
	case old != nil && *old < *value:
		r.Invalid(at, *value, "must be less than or equal to previous value")
		return false
	}
	return true
}

// addedTolerations lets tolerations be added, and their seconds be changed.
func (r *report) addedTolerations(at *field.Path, tolerations, old []corev1.Toleration) {
	for _, before := range old {
		before.TolerationSeconds = nil
		if !slices.ContainsFunc(tolerations, func(t corev1.Toleration) bool {
			t.TolerationSeconds = nil
			return t == before
		}) {
			r.Forbidden(at, "existing toleration can not be modified except its tolerationSeconds")
			return
		}
	}
	r.tolerations(at, tolerations)
}

// gatedUpdate lets a pod that is not yet up for scheduling ask for fewer nodes, and sets rest's wishes back to old's.
func (r *report) gatedUpdate(at *field.Path, rest, old *corev1.PodSpec) {
	if !equality.Semantic.DeepEqual(rest.NodeSelector, old.NodeSelector) {
		for key, value := range old.NodeSelector {
			if v, ok := rest.NodeSelector[key]; !ok || v != value {
				r.Invalid(at.Child("nodeSelector"), rest.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)")
				break
			}
		}
		rest.NodeSelector = old.NodeSelector
	}
	nodes := func(s *corev1.PodSpec) *corev1.NodeAffinity {
		if s.Affinity == nil {
			return nil
		}
		return s.Affinity.NodeAffinity
	}
	wanted, before := nodes(rest), nodes(old)
	if equality.Semantic.DeepEqual(wanted, before) {
		return
	}
	r.narrowedAffinity(at.Child("affinity", "nodeAffinity", required), wanted, before)
	if rest.Affinity == nil {
		rest.Affinity = &corev1.Affinity{}
	}
	rest.Affinity.NodeAffinity = before
	if old.Affinity == nil && *rest.Affinity == (corev1.Affinity{}) {
		rest.Affinity = nil
	}
}

func (r *report) narrowedAffinity(at *field.Path, wanted, before *corev1.NodeAffinity) {
	terms := func(a *corev1.NodeAffinity) []corev1.NodeSelectorTerm {
		if a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
			return nil
		}
		return a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	now, old := terms(wanted), terms(before)
	at = at.Child("nodeSelectorTerms")
	if len(old) == 0 {
		return
	}
	if len(now) != len(old) {
		r.Invalid(at, Dump(now), "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
		return
	}
	starts := func(list, with []corev1.NodeSelectorRequirement) bool {
		return len(list) >= len(with) && equality.Semantic.DeepEqual(append([]corev1.NodeSelectorRequirement{}, list[:len(with)]...), append([]corev1.NodeSelectorRequirement{}, with...))
	}
	for i := range old {
		empty := len(old[i].MatchExpressions)+len(old[i].MatchFields) == 0
		added := len(now[i].MatchExpressions)+len(now[i].MatchFields) > 0
		if empty && added || !starts(now[i].MatchExpressions, old[i].MatchExpressions) || !starts(now[i].MatchFields, old[i].MatchFields) {
			r.Invalid(at.Index(i), Dump(now[i]), "only additions are allowed (no mutations or deletions)")
		}
	}
}

// unchangedAppArmor keeps the old annotations of AppArmor profiles as they were.
func (r *report) unchangedAppArmor(pod, old *corev1.Pod) {
	at := field.NewPath("metadata", "annotations")
	names := func(key string) bool {
		return strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
	}
	for key, before := range old.Annotations {
		if now, kept := pod.Annotations[key]; names(key) && (!kept || now != before) {
			r.Forbidden(at.Key(key), "may not remove or update AppArmor annotations")
		}
	}
	for key := range pod.Annotations {
		if _, had := old.Annotations[key]; names(key) && !had {
			r.Forbidden(at.Key(key), "may not add AppArmor annotations")
		}
	}
}

// ValidateEphemeralUpdate checks an update that may only add ephemeral containers.
func ValidateEphemeralUpdate(pod, old *corev1.Pod) field.ErrorList {
	r := &report{}
	r.pod(pod)
	at := field.NewPath("spec", "ephemeralContainers")
	if _, static := pod.Annotations[corev1.MirrorPodAnnotationKey]; static {
		r.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")
	}
	for i := range old.Spec.EphemeralContainers {
		before := &old.Spec.EphemeralContainers[i]
		j := slices.IndexFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == before.Name })
		switch {
		case j < 0:
			r.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", before.Name))
		case !equality.Semantic.DeepEqual(*before, pod.Spec.EphemeralContainers[j]):
			r.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", before.Name,
				difference(*before, pod.Spec.EphemeralContainers[j])))
		}
	}
	return r.Errs
}

// ValidateResize checks an update that may only change how much CPU and memory a pod and its containers have. The kind of
// service that this gives the pod stays, and nothing that was asked for or limited may be given up.
func ValidateResize(pod, old *corev1.Pod) field.ErrorList {
	r := &report{}
	r.pod(pod)
	at := field.NewPath("spec")
	if _, static := old.Annotations[corev1.MirrorPodAnnotationKey]; static {
		r.Forbidden(field.NewPath(""), "static pods cannot be resized")
		return r.Errs
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		r.Forbidden(field.NewPath(""), "windows pods cannot be resized")
		return r.Errs
	}
	if QOSClass(pod) != QOSClass(old) {
		r.Invalid(at, pod.Status.QOSClass, "Pod QOS Class may not change as a result of resizing")
	}
	if !r.sameContainers(at.Child("containers"), pod.Spec.Containers, old.Spec.Containers) ||
		!r.sameContainers(at.Child("initContainers"), pod.Spec.InitContainers, old.Spec.InitContainers) {
		return r.Errs
	}
	rest := pod.Spec.DeepCopy()
	for _, l := range []struct {
		name      string
		now, then []corev1.Container
		immutable func(*corev1.Container) bool
	}{
		{"containers", rest.Containers, old.Spec.Containers, func(*corev1.Container) bool { return false }},
		{"initContainers", rest.InitContainers, old.Spec.InitContainers, func(c *corev1.Container) bool { return !isSidecar(c) }},
	} {
		for i := range l.now {
			now, then := &l.now[i], &l.then[i]
			at := at.Child(l.name).Index(i).Child("resources")
			if l.immutable(then) && !equality.Semantic.DeepEqual(now.Resources, then.Resources) {
				r.Forbidden(at, "resources for non-sidecar init containers are immutable")
			}
			r.keptResources(at, &now.Resources, &then.Resources)
			now.Resources = restoreResources(now.Resources, then.Resources)
		}
	}
	if rest.Resources != nil {
		then := ptr.Deref(old.Spec.Resources, corev1.ResourceRequirements{})
		r.keptResources(at.Child("resources"), rest.Resources, &then)
		*rest.Resources = restoreResources(*rest.Resources, then)
		// A pod may get resources of its own by a resize.
		if old.Spec.Resources == nil && equality.Semantic.DeepEqual(*rest.Resources, then) {
			rest.Resources = nil
		}
	}
	if !equality.Semantic.DeepEqual(*rest, old.Spec) {
		r.Forbidden(at, "only cpu and memory resources are mutable")
	}
	return r.Errs
}

func (r *report) sameContainers(at *field.Path, now, then []corev1.Container) bool {
	if len(now) != len(then) {
		r.Forbidden(at, "containers may not be added or removed on resize")
		return false
	}
	for i := range now {
		if now[i].Name != then[i].Name {
			r.Forbidden(at, "containers may not be renamed or reordered on resize")
			return false
		}
	}
	return true
}

// keptResources reports requests and limits that a resize drops.
func (r *report) keptResources(at *field.Path, now, then *corev1.ResourceRequirements) {
	for _, l := range []struct {
		name, refusal string
		now, then     corev1.ResourceList
	}{
		{"limits", "resource limits cannot be removed", now.Limits, then.Limits},
		{"requests", "resource requests cannot be removed", now.Requests, then.Requests},
	} {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			_, is := l.now[name]
			if _, was := l.then[name]; was && !is {
				r.Forbidden(at.Child(l.name), l.refusal)
				break
			}
		}
	}
}

// restoreResources sets CPU and memory, which may change, back to what they were.
func restoreResources(now, then corev1.ResourceRequirements) corev1.ResourceRequirements {
	list := func(now, then corev1.ResourceList) corev1.ResourceList {
		out := now.DeepCopy()
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			delete(out, name)
			if q, ok := then[name]; ok {
				withDefaults(&out, corev1.ResourceList{name: q})
			}
		}
		return out
	}
	now.Limits, now.Requests = list(now.Limits, then.Limits), list(now.Requests, then.Requests)
	return now
}
