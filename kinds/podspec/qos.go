package podspec

import (
	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// QOSClass is the quality of service of a pod. Guaranteed: CPU and memory have limits, in every container or for the whole
// pod, and the requests equal them. BestEffort: nothing asks for either. Burstable: the rest.
func QOSClass(pod *corev1.Pod) corev1.PodQOSClass {
	demands := []*corev1.ResourceRequirements{}
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		demands = append(demands, pod.Spec.Resources)
	} else {
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				demands = append(demands, &list[i].Resources)
			}
		}
	}
	guaranteed, bestEffort := true, true
	for _, d := range demands {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := d.Requests[name], d.Limits[name]
			guaranteed = guaranteed && limit.Sign() > 0 && request.Cmp(limit) == 0
			bestEffort = bestEffort && request.Sign() <= 0 && limit.Sign() <= 0
		}
	}
	switch {
	case bestEffort:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
