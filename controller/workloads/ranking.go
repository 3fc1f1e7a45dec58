package workloads

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/controller"
)

// scaleDownOrder sorts pods so that those that a scale-down should take come first. The order is upstream's (see
// https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-down-a-replicaset): not yet on a node,
// pending, not ready, lower deletion cost, on nodes with more replicas, ready for less time, more restarts, newer. Times are
// compared on a logarithmic scale, so that among pods of about one age the choice is spread by UID instead of always
// meeting the newest. neighbours counts the related pods per node.
func scaleDownOrder(pods []*corev1.Pod, neighbours map[string]int, now time.Time) []*corev1.Pod {
	ranked := make([]rankedPod, len(pods))
	for i, pod := range pods {
		ranked[i] = rank(pod, neighbours)
	}
	slices.SortFunc(ranked, func(a, b rankedPod) int { return a.compare(&b, now) })
	out := make([]*corev1.Pod, len(ranked))
	for i := range ranked {
		out[i] = ranked[i].pod
	}
	return out
}

// rankedPod holds what the order compares, computed once.
type rankedPod struct {
	pod                    *corev1.Pod
	assigned, phase, ready int
	cost                   int32
	neighbours             int
	readySince             time.Time
	restarts, initRestarts int32
}

func rank(pod *corev1.Pod, neighbours map[string]int) rankedPod {
	r := rankedPod{pod: pod}
	if pod.Spec.NodeName != "" {
		r.assigned = 1
		r.neighbours = neighbours[pod.Spec.NodeName]
	}
	switch pod.Status.Phase {
	case corev1.PodPending, "":
		r.phase = 0
	case corev1.PodUnknown:
		r.phase = 1
	default:
		r.phase = 2
	}
	if c := controller.PodCondition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		r.ready = 1
		r.readySince = c.LastTransitionTime.Time
	}
	if n, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32); err == nil {
		r.cost = int32(n)
	}
	for i := range pod.Status.ContainerStatuses {
		r.restarts = max(r.restarts, pod.Status.ContainerStatuses[i].RestartCount)
	}
	for i := range pod.Status.InitContainerStatuses {
		r.initRestarts = max(r.initRestarts, pod.Status.InitContainerStatuses[i].RestartCount)
	}
	return r
}

// compare is negative when a should be deleted before b.
func (a *rankedPod) compare(b *rankedPod, now time.Time) int {
	return cmp.Or(
		cmp.Compare(a.assigned, b.assigned),
		cmp.Compare(a.phase, b.phase),
		cmp.Compare(a.ready, b.ready),
		cmp.Compare(a.cost, b.cost),
		cmp.Compare(b.neighbours, a.neighbours),
		compareAge(a.readySince, b.readySince, now),
		cmp.Compare(b.restarts, a.restarts),
		cmp.Compare(b.initRestarts, a.initRestarts),
		compareAge(a.pod.CreationTimestamp.Time, b.pod.CreationTimestamp.Time, now),
		cmp.Compare(a.pod.UID, b.pod.UID),
	)
}

// compareAge puts the younger first, and counts ages of one power of two as equal. A pod without a time is the youngest.
func compareAge(a, b time.Time, now time.Time) int {
	if a.Equal(b) {
		return 0
	}
	return cmp.Compare(ageClass(a, now), ageClass(b, now))
}

func ageClass(t, now time.Time) int {
	if t.IsZero() {
		return -2
	}
	age := now.Sub(t)
	if age <= 0 {
		return -1
	}
	return int(math.Log2(float64(age)))
}
