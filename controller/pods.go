package controller

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// PodCondition returns the pod's condition of a type, or nil.
func PodCondition(pod *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// PodReady says whether the pod's Ready condition is true.
func PodReady(pod *corev1.Pod) bool {
	c := PodCondition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// PodFinished says whether the pod has run to its end and will not run again.
func PodFinished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// PodActive says whether the pod counts as a replica: neither finished nor being deleted.
func PodActive(pod *corev1.Pod) bool {
	return !PodFinished(pod) && pod.DeletionTimestamp == nil
}

// PodAvailable says whether the pod has been ready for minReadySeconds; when it is ready but not for long enough, wait is the
// time until it will be.
func PodAvailable(pod *corev1.Pod, minReadySeconds int32, now time.Time) (available bool, wait time.Duration) {
	c := PodCondition(pod, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return false, 0
	}
	if minReadySeconds == 0 {
		return true, 0
	}
	if c.LastTransitionTime.IsZero() {
		return false, 0
	}
	wait = c.LastTransitionTime.Add(time.Duration(minReadySeconds) * time.Second).Sub(now)
	if wait > 0 {
		return false, wait
	}
	return true, 0
}

// Sooner returns the shorter of two waits, where 0 means none.
func Sooner(a, b time.Duration) time.Duration {
	if a <= 0 {
		return b
	}
	if b <= 0 {
		return a
	}
	return min(a, b)
}
