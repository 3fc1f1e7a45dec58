package lifecycle

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// conditions sets the conditions that the node owns.
func (r *reporter) conditions(st *corev1.PodStatus) {
	ready := r.containersReady(st)
	others := st.Conditions
	st.Conditions = nil
	r.set(st, others, r.network())
	r.set(st, others, r.initialized(st))
	r.set(st, others, r.ready(st, others, ready))
	r.set(st, others, ready)
	r.set(st, others, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
	if c := r.s.Resize; c != nil {
		r.set(st, others, *c)
	}
	if v := r.s.Verdict; v != nil && v.Evicted {
		r.set(st, others, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: v.Message,
		})
	}
	for _, c := range others {
		resize := c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress
		if have(st.Conditions, c.Type) == nil && !resize {
			st.Conditions = append(st.Conditions, c)
		}
	}
}

func have(list []corev1.PodCondition, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range list {
		if list[i].Type == t {
			return &list[i]
		}
	}
	return nil
}

// set adds a condition, with the time of its last change.
func (r *reporter) set(st *corev1.PodStatus, old []corev1.PodCondition, c corev1.PodCondition) {
	c.ObservedGeneration = r.pod.Generation
	c.LastTransitionTime = r.now
	if prev := have(old, c.Type); prev != nil {
		if prev.Status == c.Status {
			c.LastTransitionTime = prev.LastTransitionTime
		}
		c.LastProbeTime = prev.LastProbeTime
		if c.Type == corev1.PodScheduled {
			c.Reason, c.Message, c.ObservedGeneration = prev.Reason, prev.Message, max(prev.ObservedGeneration, r.pod.Generation)
		}
	}
	st.Conditions = append(st.Conditions, c)
}

func condition(t corev1.PodConditionType, ok bool, reason, message string) corev1.PodCondition {
	status := corev1.ConditionFalse
	if ok {
		status = corev1.ConditionTrue
	}
	return corev1.PodCondition{Type: t, Status: status, Reason: reason, Message: message}
}

func (r *reporter) network() corev1.PodCondition {
	return condition(corev1.PodReadyToStartContainers, r.s.Current() != nil && !r.s.Clean, "", "")
}

func (r *reporter) initialized(st *corev1.PodStatus) corev1.PodCondition {
	if len(r.pod.Spec.InitContainers) == 0 {
		if st.Phase == corev1.PodSucceeded {
			return condition(corev1.PodInitialized, true, "PodCompleted", "")
		}
		return condition(corev1.PodInitialized, true, "", "")
	}
	var incomplete []string
	pending, _ := r.initState(st)
	for i := range r.pod.Spec.InitContainers {
		c, s := &r.pod.Spec.InitContainers[i], &st.InitContainerStatuses[i]
		if Sidecar(c) && pending && (s.Started == nil || !*s.Started) || !Sidecar(c) && !s.Ready {
			incomplete = append(incomplete, c.Name)
		}
	}
	switch {
	case st.Phase == corev1.PodSucceeded:
		return condition(corev1.PodInitialized, true, "PodCompleted", "")
	case !pending || len(incomplete) == 0:
		return condition(corev1.PodInitialized, true, "", "")
	}
	return condition(corev1.PodInitialized, false, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %v", incomplete))
}

// containersReady looks at the regular containers and the sidecars.
func (r *reporter) containersReady(st *corev1.PodStatus) corev1.PodCondition {
	var unready []string
	for i := range r.pod.Spec.InitContainers {
		if Sidecar(&r.pod.Spec.InitContainers[i]) && !st.InitContainerStatuses[i].Ready {
			unready = append(unready, st.InitContainerStatuses[i].Name)
		}
	}
	for i := range r.pod.Spec.Containers {
		if s := find(st.ContainerStatuses, r.pod.Spec.Containers[i].Name); s == nil || !s.Ready {
			unready = append(unready, r.pod.Spec.Containers[i].Name)
		}
	}
	switch {
	case st.Phase == corev1.PodSucceeded:
		return condition(corev1.ContainersReady, false, "PodCompleted", "")
	case st.Phase == corev1.PodFailed:
		return condition(corev1.ContainersReady, false, "PodFailed", "")
	case len(unready) > 0:
		return condition(corev1.ContainersReady, false, "ContainersNotReady", fmt.Sprintf("containers with unready status: %v", unready))
	}
	return condition(corev1.ContainersReady, true, "", "")
}

// ready adds the readiness gates, which others answer by conditions.
func (r *reporter) ready(st *corev1.PodStatus, others []corev1.PodCondition, containers corev1.PodCondition) corev1.PodCondition {
	containers.Type = corev1.PodReady
	if containers.Status != corev1.ConditionTrue {
		return containers
	}
	var missing []string
	for _, gate := range r.pod.Spec.ReadinessGates {
		if c := have(others, gate.ConditionType); c == nil {
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		} else if c.Status != corev1.ConditionTrue {
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, c.Status))
		}
	}
	if len(missing) > 0 {
		return condition(corev1.PodReady, false, "ReadinessGatesNotReady", strings.Join(missing, ", "))
	}
	return containers
}
