package workloads

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/controller"
)

// ordinalPlan is the next step of a StatefulSet.
type ordinalPlan struct {
	create   []slot
	remove   []*corev1.Pod
	recreate []*corev1.Pod // finished pods that are deleted to be made anew
	relabel  []*corev1.Pod // pods that lack the labels of their identity
	pending  []int         // ordinals of pods that may wait for a claim that is missing
	keep     []*corev1.Pod // within the wanted ordinals
	leave    []*corev1.Pod // beyond them
	status   appsv1.StatefulSetStatus
	again    time.Duration
}

// slot is a pod to create; current says from the current revision instead of the update.
type slot struct {
	ordinal int
	current bool
}

func podName(set *appsv1.StatefulSet, ordinal int) string {
	return fmt.Sprintf("%s-%d", set.Name, ordinal)
}

// ordinalOf returns the number in a pod's name, when the name is one of the set's.
func ordinalOf(set *appsv1.StatefulSet, name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, set.Name+"-")
	n, err := strconv.ParseInt(digits, 10, 32)
	if !ok || err != nil || strconv.FormatInt(n, 10) != digits {
		return 0, false
	}
	return int(n), true
}

func startOrdinal(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

func healthy(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && controller.PodReady(pod) && pod.DeletionTimestamp == nil
}

func podRevision(pod *corev1.Pod) string { return pod.Labels[appsv1.ControllerRevisionHashLabelKey] }

// planStatefulSet decides the next step. With ordered pod management it is at most one creation or deletion, made only when all that come
// before are well; with parallel management creations and scale-downs go at once, while updates still go one by one (or maxUnavailable
// at once).
func planStatefulSet(set *appsv1.StatefulSet, current, update string, pods []*corev1.Pod, now time.Time) *ordinalPlan {
	p := &ordinalPlan{}
	start, wanted := startOrdinal(set), int(count32(set.Spec.Replicas))
	slots := make([]*corev1.Pod, wanted)
	for _, pod := range pods {
		n, ok := ordinalOf(set, pod.Name)
		switch {
		case !ok:
		case n >= start && n < start+wanted:
			slots[n-start] = pod
			p.keep = append(p.keep, pod)
		default:
			p.leave = append(p.leave, pod)
		}
	}
	slices.SortFunc(p.leave, func(a, b *corev1.Pod) int {
		i, _ := ordinalOf(set, a.Name)
		j, _ := ordinalOf(set, b.Name)
		return cmp.Compare(j, i)
	})
	p.status = statefulSetStatus(set, current, update, pods, now)
	if set.DeletionTimestamp != nil {
		return p
	}
	s := &stepper{ordinalPlan: p, set: set, now: now, ordered: set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement}
	if s.fill(slots, start) && s.shrink(slots) {
		s.roll(slots, update)
	}
	return p
}

// stepper walks over the pods; each of its walks returns false when what follows must wait.
type stepper struct {
	*ordinalPlan
	set     *appsv1.StatefulSet
	now     time.Time
	ordered bool
}

// fill creates what is missing, from the lowest ordinal up.
func (s *stepper) fill(slots []*corev1.Pod, start int) bool {
	for i, pod := range slots {
		switch {
		case pod == nil:
			s.create = append(s.create, slot{start + i, s.wantsCurrent(start + i)})
		case controller.PodFinished(pod):
			if pod.DeletionTimestamp == nil {
				s.recreate = append(s.recreate, pod)
			}
		default:
			for k, v := range identity(s.set, pod.Name) {
				if pod.Labels[k] != v {
					s.relabel = append(s.relabel, pod)
					break
				}
			}
			if pod.Status.Phase == corev1.PodPending && pod.Spec.NodeName == "" {
				s.pending = append(s.pending, start+i)
			}
			if s.ready(pod) {
				continue
			}
		}
		if s.ordered {
			return false
		}
	}
	return true
}

// ready says whether a pod is well and has been for long enough.
func (s *stepper) ready(pod *corev1.Pod) bool {
	if !healthy(pod) {
		return false
	}
	ok, wait := controller.PodAvailable(pod, s.set.Spec.MinReadySeconds, s.now)
	s.again = controller.Sooner(s.again, wait)
	return ok
}

// wantsCurrent says whether a pod that is missing comes back from the current revision: below the partition.
func (s *stepper) wantsCurrent(ordinal int) bool {
	if s.set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType {
		return false
	}
	kept := int(s.set.Status.CurrentReplicas)
	if r := s.set.Spec.UpdateStrategy.RollingUpdate; r != nil {
		kept = int(ptr.Deref(r.Partition, 0))
	}
	return ordinal < startOrdinal(s.set)+kept
}

// shrink deletes the pods beyond the wanted ordinals, from the highest down. Ordered, it does not go on while a pod is
// unwell, unless that is the lowest unwell one and itself to be deleted.
func (s *stepper) shrink(slots []*corev1.Pod) bool {
	unwell := s.firstUnwell(slots)
	for _, pod := range s.leave {
		if pod.DeletionTimestamp == nil {
			if s.ordered && pod != unwell && !s.ready(pod) {
				return false
			}
			s.remove = append(s.remove, pod)
		}
		if s.ordered {
			return false
		}
	}
	return true
}

// firstUnwell is the unwell pod of the lowest ordinal, or nil.
func (s *stepper) firstUnwell(slots []*corev1.Pod) *corev1.Pod {
	for _, pod := range slots {
		if pod != nil && !healthy(pod) {
			return pod
		}
	}
	for _, pod := range slices.Backward(s.leave) {
		if !healthy(pod) {
			return pod
		}
	}
	return nil
}

// roll deletes pods of older revisions from the highest ordinal down to the partition, as many at once as may be unavailable; they come back
// updated.
func (s *stepper) roll(slots []*corev1.Pod, update string) {
	strategy := s.set.Spec.UpdateStrategy
	if strategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return
	}
	partition, budget := 0, 1
	if r := strategy.RollingUpdate; r != nil {
		partition = int(ptr.Deref(r.Partition, 0))
		if r.MaxUnavailable != nil {
			n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, len(slots), true)
			if err == nil {
				budget = max(1, n)
			}
		}
	}
	for i := len(slots) - 1; i >= partition && budget > 0; i-- {
		pod := slots[i]
		switch {
		case pod == nil:
			budget--
		case podRevision(pod) != update && pod.DeletionTimestamp == nil:
			s.remove = append(s.remove, pod)
			budget--
		case !s.ready(pod):
			budget--
		}
	}
}

// statefulSetStatus counts the pods. When all are of the update revision and ready, that becomes the current one.
func statefulSetStatus(set *appsv1.StatefulSet, current, update string, pods []*corev1.Pod, now time.Time) appsv1.StatefulSetStatus {
	s := appsv1.StatefulSetStatus{
		ObservedGeneration: set.Generation, CurrentRevision: current, UpdateRevision: update,
		CollisionCount: ptr.To(ptr.Deref(set.Status.CollisionCount, 0)), Conditions: set.Status.Conditions,
	}
	for _, pod := range pods {
		if controller.PodFinished(pod) {
			continue
		}
		s.Replicas++
		if pod.Status.Phase == corev1.PodRunning && controller.PodReady(pod) {
			s.ReadyReplicas++
			if ok, _ := controller.PodAvailable(pod, set.Spec.MinReadySeconds, now); ok {
				s.AvailableReplicas++
			}
		}
		if pod.DeletionTimestamp != nil {
			continue
		}
		if podRevision(pod) == current {
			s.CurrentReplicas++
		}
		if podRevision(pod) == update {
			s.UpdatedReplicas++
		}
	}
	if set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType &&
		s.UpdatedReplicas == s.Replicas && s.ReadyReplicas == s.Replicas && s.UpdatedReplicas == count32(set.Spec.Replicas) {
		s.CurrentReplicas, s.CurrentRevision = s.UpdatedReplicas, s.UpdateRevision
	}
	return s
}
