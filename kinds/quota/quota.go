// Package quota says what objects count for in a ResourceQuota, and which objects a quota is about: the admission step that
// charges a quota and the controller that counts it anew must agree. It is pure; admission and controller/cluster import it.
package quota

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	resources "k8s.io/component-helpers/resource"

	"github.com/kebernetes/kebernetes/kinds"
)

// Usage is what one object counts for (https://kubernetes.io/docs/concepts/policy/resource-quotas/).
func Usage(gr schema.GroupResource, obj kinds.Object) corev1.ResourceList {
	one := *resource.NewQuantity(1, resource.DecimalSI)
	out := corev1.ResourceList{corev1.ResourceName("count/" + gr.String()): one}
	if gr.Group == "" && legacyCounts.Has(gr.Resource) {
		out[corev1.ResourceName(gr.Resource)] = one
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		podUsage(out, o)
	case *corev1.Service:
		serviceUsage(out, o)
	case *corev1.PersistentVolumeClaim:
		claimUsage(out, o)
	}
	return out
}

// legacyCounts are the resources that may be counted without the prefix count/.
var legacyCounts = sets.New("configmaps", "persistentvolumeclaims", "pods", "replicationcontrollers", "resourcequotas", "secrets", "services")

func podUsage(out corev1.ResourceList, pod *corev1.Pod) {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		// What has run to its end uses nothing any more, but is still an object.
		delete(out, corev1.ResourcePods)
		return
	}
	options := resources.PodResourcesOptions{}
	for name, q := range resources.PodRequests(pod, options) {
		out["requests."+name] = q
		if name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage {
			out[name] = q
		}
		if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			out[name] = q
		}
	}
	for name, q := range resources.PodLimits(pod, options) {
		if name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage {
			out["limits."+name] = q
		}
	}
}

func serviceUsage(out corev1.ResourceList, service *corev1.Service) {
	count := func(n int) resource.Quantity { return *resource.NewQuantity(int64(n), resource.DecimalSI) }
	switch service.Spec.Type {
	case corev1.ServiceTypeNodePort:
		out[corev1.ResourceServicesNodePorts] = count(len(service.Spec.Ports))
	case corev1.ServiceTypeLoadBalancer:
		out[corev1.ResourceServicesLoadBalancers] = count(1)
		ports := len(service.Spec.Ports)
		if allocate := service.Spec.AllocateLoadBalancerNodePorts; allocate != nil && !*allocate {
			ports = 0
			for _, p := range service.Spec.Ports {
				if p.NodePort != 0 {
					ports++
				}
			}
		}
		out[corev1.ResourceServicesNodePorts] = count(ports)
	}
}

func claimUsage(out corev1.ResourceList, claim *corev1.PersistentVolumeClaim) {
	size, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if granted, has := claim.Status.AllocatedResources[corev1.ResourceStorage]; has && granted.Cmp(size) > 0 {
		size = granted
	}
	if ok {
		out[corev1.ResourceRequestsStorage] = size
	}
	class := claim.Annotations[corev1.BetaStorageClassAnnotation]
	if class == "" && claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	if class == "" {
		return
	}
	const suffix = ".storageclass.storage.k8s.io/"
	out[corev1.ResourceName(class+suffix+"persistentvolumeclaims")] = *resource.NewQuantity(1, resource.DecimalSI)
	if ok {
		out[corev1.ResourceName(class+suffix+"requests.storage")] = size
	}
}

// InScope says whether a quota is about an object at all.
func InScope(quota *corev1.ResourceQuota, obj kinds.Object) bool {
	selectors := make([]corev1.ScopedResourceSelectorRequirement, 0, len(quota.Spec.Scopes))
	for _, scope := range quota.Spec.Scopes {
		selectors = append(selectors, corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists})
	}
	if quota.Spec.ScopeSelector != nil {
		selectors = append(selectors, quota.Spec.ScopeSelector.MatchExpressions...)
	}
	for _, s := range selectors {
		if !matchesScope(s, obj) {
			return false
		}
	}
	return true
}

func matchesScope(s corev1.ScopedResourceSelectorRequirement, obj kinds.Object) bool {
	if claim, ok := obj.(*corev1.PersistentVolumeClaim); ok && s.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass {
		name := ""
		if claim.Spec.VolumeAttributesClassName != nil {
			name = *claim.Spec.VolumeAttributesClassName
		}
		return matchesName(s, name)
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return false
	}
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return pod.Spec.ActiveDeadlineSeconds != nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return pod.Spec.ActiveDeadlineSeconds == nil
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(pod)
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(pod)
	case corev1.ResourceQuotaScopePriorityClass:
		return matchesName(s, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(pod)
	}
	return false
}

func matchesName(s corev1.ScopedResourceSelectorRequirement, name string) bool {
	switch s.Operator {
	case corev1.ScopeSelectorOpIn:
		return slices.Contains(s.Values, name)
	case corev1.ScopeSelectorOpNotIn:
		return !slices.Contains(s.Values, name)
	case corev1.ScopeSelectorOpDoesNotExist:
		return name == ""
	}
	return name != ""
}

// bestEffort: no container says anything about CPU or memory.
func bestEffort(pod *corev1.Pod) bool {
	says := func(r *corev1.ResourceRequirements) bool {
		for _, list := range []corev1.ResourceList{r.Requests, r.Limits} {
			cpu, memory := list[corev1.ResourceCPU], list[corev1.ResourceMemory]
			if !cpu.IsZero() || !memory.IsZero() {
				return true
			}
		}
		return false
	}
	if pod.Spec.Resources != nil && says(pod.Spec.Resources) {
		return false
	}
	return !slices.ContainsFunc(slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers), func(c corev1.Container) bool { return says(&c.Resources) })
}

func crossesNamespaces(pod *corev1.Pod) bool {
	crosses := func(t *corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil }
	in := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) bool {
		return slices.ContainsFunc(required, func(t corev1.PodAffinityTerm) bool { return crosses(&t) }) ||
			slices.ContainsFunc(preferred, func(t corev1.WeightedPodAffinityTerm) bool { return crosses(&t.PodAffinityTerm) })
	}
	a := pod.Spec.Affinity
	if a == nil {
		return false
	}
	return (a.PodAffinity != nil && in(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)) ||
		(a.PodAntiAffinity != nil && in(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution))
}
