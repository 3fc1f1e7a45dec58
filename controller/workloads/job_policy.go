package workloads

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// judgePod returns what the job's failure policy says of a failed pod, and, for FailJob, the message of the job's condition.
func judgePod(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) (batchv1.PodFailurePolicyAction, string) {
	if policy == nil {
		return batchv1.PodFailurePolicyActionCount, ""
	}
	for i := range policy.Rules {
		rule := &policy.Rules[i]
		if rule.OnExitCodes != nil {
			if c := matchExitCodes(rule.OnExitCodes, pod); c != nil {
				return rule.Action, fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
					c.Name, pod.Namespace, pod.Name, c.State.Terminated.ExitCode, rule.Action, i)
			}
			continue
		}
		for _, want := range rule.OnPodConditions {
			for _, c := range pod.Status.Conditions {
				if c.Type == want.Type && c.Status == want.Status {
					return rule.Action, fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", pod.Namespace, pod.Name, c.Type, rule.Action, i)
				}
			}
		}
	}
	return batchv1.PodFailurePolicyActionCount, ""
}

// matchExitCodes returns the container of a pod that failed with a code that the requirement names, or nil.
func matchExitCodes(want *batchv1.PodFailurePolicyOnExitCodesRequirement, pod *corev1.Pod) *corev1.ContainerStatus {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range statuses {
			c := &statuses[i]
			if c.State.Terminated == nil || c.State.Terminated.ExitCode == 0 || want.ContainerName != nil && *want.ContainerName != c.Name {
				continue
			}
			if slices.Contains(want.Values, c.State.Terminated.ExitCode) == (want.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
				return c
			}
		}
	}
	return nil
}

// successRule returns the first rule of a success policy that the succeeded indexes fulfil, and whether there is one.
func successRule(policy *batchv1.SuccessPolicy, completions int, succeeded indexSet) (int, bool) {
	if policy == nil || len(succeeded) == 0 {
		return 0, false
	}
	for i := range policy.Rules {
		rule := &policy.Rules[i]
		if rule.SucceededIndexes == nil {
			if rule.SucceededCount != nil && succeeded.total() >= int(*rule.SucceededCount) {
				return i, true
			}
			continue
		}
		wanted := parseIndexes(*rule.SucceededIndexes, completions)
		met := 0
		for _, r := range wanted {
			for n := r.first; n <= r.last; n++ {
				if succeeded.has(n) {
					met++
				}
			}
		}
		if rule.SucceededCount != nil && met >= int(*rule.SucceededCount) || rule.SucceededCount == nil && met == wanted.total() {
			return i, true
		}
	}
	return 0, false
}
