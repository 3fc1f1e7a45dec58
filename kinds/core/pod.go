package core

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// Pod returns the row of pods.
func Pod() *kinds.Kind {
	v1 := corev1.SchemeGroupVersion
	connect := []string{"create", "get"}
	write := []string{"get", "patch", "update"}
	return &kinds.Kind{
		Kind:           "Pod",
		Resource:       "pods",
		ShortNames:     []string{"po"},
		Categories:     []string{"all"},
		Namespaced:     true,
		Versions:       []kinds.Version{kinds.V[corev1.Pod, corev1.PodList]("v1")},
		Default:        kinds.On(defaultPod),
		PrepareCreate:  kinds.On(preparePod),
		PrepareUpdate:  kinds.OnUpdate(func(pod, old *corev1.Pod) { pod.Status = old.Status }),
		Validate:       kinds.Check(podspec.ValidatePod),
		ValidateUpdate: kinds.CheckUpdate(podspec.ValidatePodUpdate),
		Warnings:       kinds.Warn(podspec.PodWarnings),
		HasGeneration:  true,

		UnconditionalUpdate: true,
		ReturnsDeleted:      true,
		GraceOnDelete:       podGrace,
		FieldLabels: []string{"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
			"spec.hostNetwork", "status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName"},
		Fields:      kinds.Select(podFields),
		Columns:     podColumns(),
		Cells:       kinds.Print(podCells),
		ResetFields: map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{
			{Name: "attach", Body: v1.WithKind("PodAttachOptions"), Verbs: connect},
			{Name: "binding", Body: v1.WithKind("Binding"), Verbs: []string{"create"}, NewBody: func() kinds.Object { return &corev1.Binding{} }},
			{
				Name: "ephemeralcontainers", Verbs: write,
				PrepareUpdate:  kinds.OnUpdate(keepEphemeral),
				ValidateUpdate: kinds.CheckUpdate(podspec.ValidateEphemeralUpdate),
				ResetFields:    map[string][]string{"v1": {"status"}},
			},
			{
				Name: "eviction", Body: policyv1.SchemeGroupVersion.WithKind("Eviction"), Verbs: []string{"create"},
				NewBody: func() kinds.Object { return &policyv1.Eviction{} },
			},
			{Name: "exec", Body: v1.WithKind("PodExecOptions"), Verbs: connect},
			{Name: "log", Verbs: []string{"get"}},
			{Name: "portforward", Body: v1.WithKind("PodPortForwardOptions"), Verbs: connect},
			{Name: "proxy", Body: v1.WithKind("PodProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"}},
			{
				Name: "resize", Verbs: write,
				PrepareUpdate:  kinds.OnUpdate(keepResources),
				ValidateUpdate: kinds.CheckUpdate(podspec.ValidateResize),
				ResetFields:    map[string][]string{"v1": {"status"}},
			},
			{
				Name: "status", Verbs: write,
				PrepareUpdate:  kinds.OnUpdate(keepPodStatus),
				ValidateUpdate: kinds.CheckUpdate(podspec.ValidateStatusUpdate),
				ResetFields:    map[string][]string{"v1": {"metadata.deletionTimestamp", "metadata.ownerReferences", "spec"}},
			},
		},
	}
}

// defaultPod fills in what a pod lacks. podIP and podIPs are two views of one list, in which the old field wins.
func defaultPod(pod *corev1.Pod) {
	podspec.DefaultPod(pod)
	s := &pod.Status
	switch {
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	case s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP):
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	}
}

// preparePod gives a new pod its first status. The server has stamped creationTimestamp already.
func preparePod(pod *corev1.Pod) {
	podspec.MergeLabelKeys(&pod.Spec, pod.Labels)
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: podspec.QOSClass(pod)}
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type:               corev1.PodScheduled,
			Status:             corev1.ConditionFalse,
			Reason:             corev1.PodReasonSchedulingGated,
			Message:            "Scheduling is blocked due to non-empty scheduling gates",
			LastTransitionTime: pod.CreationTimestamp,
		}}
	}
}

// keepOld replaces pod by old, but for what identifies the write.
func keepOld(pod, old *corev1.Pod) {
	version, fields := pod.ResourceVersion, pod.ManagedFields
	*pod = *old.DeepCopy()
	pod.ResourceVersion, pod.ManagedFields = version, fields
}

// keepEphemeral lets the ephemeralcontainers subresource change nothing else.
func keepEphemeral(pod, old *corev1.Pod) {
	wanted := pod.Spec.EphemeralContainers
	keepOld(pod, old)
	pod.Spec.EphemeralContainers = wanted
}

// keepResources lets the resize subresource change the resources of containers and of the pod, and nothing else. Containers
// that were added, removed or moved are kept as sent: validation refuses them.
func keepResources(pod, old *corev1.Pod) {
	wanted := pod.Spec
	keepOld(pod, old)
	pod.Spec.Containers = mergeResources(wanted.Containers, pod.Spec.Containers)
	pod.Spec.InitContainers = mergeResources(wanted.InitContainers, pod.Spec.InitContainers)
	pod.Spec.Resources = wanted.Resources
}

func mergeResources(wanted, kept []corev1.Container) []corev1.Container {
	sameName := func(a, b corev1.Container) bool { return a.Name == b.Name }
	if !slices.EqualFunc(wanted, kept, sameName) {
		return wanted
	}
	for i := range kept {
		kept[i].Resources, kept[i].ResizePolicy = wanted[i].Resources, wanted[i].ResizePolicy
	}
	return kept
}

// keepPodStatus lets the status subresource change labels, annotations and the status. What a client does not know of stays:
// the quality of service and the generations observed.
func keepPodStatus(pod, old *corev1.Pod) {
	pod.Spec = old.Spec
	pod.DeletionTimestamp = old.DeletionTimestamp
	pod.OwnerReferences = old.OwnerReferences
	if pod.Status.QOSClass == "" {
		pod.Status.QOSClass = old.Status.QOSClass
	}
	if pod.Status.ObservedGeneration == 0 {
		pod.Status.ObservedGeneration = old.Status.ObservedGeneration
	}
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		for _, before := range old.Status.Conditions {
			if c.ObservedGeneration == 0 && before.Type == c.Type {
				c.ObservedGeneration = before.ObservedGeneration
			}
		}
	}
}

// podGrace is how long a pod may take to end: what the client or the pod says; no time at all for one that no node runs.
func podGrace(obj kinds.Object, opts *metav1.DeleteOptions) int64 {
	pod := obj.(*corev1.Pod)
	var seconds int64
	switch {
	case pod.Spec.NodeName == "", pod.Status.Phase == corev1.PodFailed, pod.Status.Phase == corev1.PodSucceeded:
	case opts.GracePeriodSeconds != nil:
		seconds = *opts.GracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	}
	if seconds < 0 {
		seconds = 1
	}
	opts.GracePeriodSeconds = &seconds
	return seconds
}

func podFields(pod *corev1.Pod) fields.Set {
	return fields.Set{
		"metadata.name":            pod.Name,
		"metadata.namespace":       pod.Namespace,
		"spec.nodeName":            pod.Spec.NodeName,
		"spec.restartPolicy":       string(pod.Spec.RestartPolicy),
		"spec.schedulerName":       pod.Spec.SchedulerName,
		"spec.serviceAccountName":  pod.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(pod.Spec.HostNetwork),
		"status.phase":             string(pod.Status.Phase),
		"status.podIP":             pod.Status.PodIP,
		"status.nominatedNodeName": pod.Status.NominatedNodeName,
	}
}
