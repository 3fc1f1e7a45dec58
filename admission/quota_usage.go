package admission

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/quota"
)

// usage is how much of each quota resource an object uses.
type usage = corev1.ResourceList

// growth is what a request adds; empty when it adds nothing.
func growth(r *Request) usage {
	delta := quota.Usage(r.resource(), r.Object)
	if r.Operation == Update {
		grows := false
		for name, before := range quota.Usage(r.resource(), r.Old) {
			q := delta[name]
			q.Sub(before)
			delta[name] = q
		}
		for name, q := range delta {
			grows = grows || q.Sign() > 0
			if q.IsZero() {
				delete(delta, name)
			}
		}
		if !grows {
			return nil
		}
	}
	return delta
}

// unspecified says which containers leave out what a quota on compute resources counts: such a quota wants to know.
func unspecified(quota *corev1.ResourceQuota, obj kinds.Object) string {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return ""
	}
	missing := map[string][]string{}
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		for name := range quota.Spec.Hard {
			if !specifies(&c.Resources, pod.Spec.Resources, name) {
				missing[string(name)] = append(missing[string(name)], c.Name)
			}
		}
	}
	var parts []string
	for name, containers := range missing {
		slices.Sort(containers)
		parts = append(parts, fmt.Sprintf("%s for: %s", name, strings.Join(slices.Compact(containers), ",")))
	}
	slices.Sort(parts)
	return strings.Join(parts, "; ")
}

// specifies says whether a container, or its whole pod, states the amount that a compute quota counts. Other names need no statement.
func specifies(c, pod *corev1.ResourceRequirements, name corev1.ResourceName) bool {
	list, podList, plain := c.Requests, corev1.ResourceList(nil), name
	if pod != nil {
		podList = pod.Requests
	}
	if rest, ok := strings.CutPrefix(string(name), "requests."); ok {
		plain = corev1.ResourceName(rest)
	} else if rest, ok := strings.CutPrefix(string(name), "limits."); ok {
		list, plain = c.Limits, corev1.ResourceName(rest)
		if pod != nil {
			podList = pod.Limits
		}
	}
	if plain != corev1.ResourceCPU && plain != corev1.ResourceMemory {
		return true
	}
	_, here := list[plain]
	_, above := podList[plain]
	return here || above
}
