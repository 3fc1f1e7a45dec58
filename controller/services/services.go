// Package services holds the controllers behind Services: EndpointSlices and Endpoints, the mirror of hand-made Endpoints, load
// balancers, and the objects that show which addresses Services have; one file each. What is to be written is computed by pure functions of the service, its pods and what is there.
// Only daemon and testcluster import it.
package services

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// Controllers returns the components of this package. reserved are TCP ports of the nodes that no load balancer may take, with
// what they serve.
func Controllers(env controller.Env, reserved map[int32]string) []*controller.Loop {
	return []*controller.Loop{
		EndpointSlices(env),
		Endpoints(env),
		EndpointMirrors(env),
		Balancers(env, reserved),
		IPAddresses(env),
		ServiceCIDRs(env),
	}
}

// selection finds the pods of a service and the services of a pod without looking at all of a namespace. Both sides are
// indexed by label pairs: a pod by each of its own, a service by the first of its selector.
type selection struct {
	client   *client.Client
	services *controller.Index
	pods     *controller.Index
}

func newSelection(c *client.Client) *selection {
	return &selection{
		client: c,
		services: controller.NewIndex(func(obj client.Object, add func(controller.Group)) {
			if s := obj.(*corev1.Service); len(s.Spec.Selector) > 0 {
				key := firstKey(s.Spec.Selector)
				add(pair(s.Namespace, key, s.Spec.Selector[key]))
			}
		}),
		pods: controller.NewIndex(func(obj client.Object, add func(controller.Group)) {
			for k, v := range obj.GetLabels() {
				add(pair(obj.GetNamespace(), k, v))
			}
		}),
	}
}

func firstKey(m map[string]string) string {
	first, any := "", false
	for k := range m {
		if !any || k < first {
			first, any = k, true
		}
	}
	return first
}

func pair(namespace, key, value string) controller.Group {
	return controller.Group{namespace, key, value}
}

// watches are those of a controller that follows services and their pods.
func (s *selection) watches() []controller.Watch {
	return []controller.Watch{
		{Resource: client.ResourceOf[*corev1.Service](s.client), Index: s.services, Keys: controller.Itself},
		{Resource: client.ResourceOf[*corev1.Pod](s.client), Index: s.pods, Keys: s.podChanged},
	}
}

// podChanged adds the services whose endpoints may change with a pod.
func (s *selection) podChanged(ev client.Event, add func(controller.Key)) {
	pod := ev.Item.Object.(*corev1.Pod)
	if ev.Prev == nil {
		s.servicesOf(pod, add)
		return
	}
	before := ev.Prev.Object.(*corev1.Pod)
	if ev.Type == client.Put && sameEndpoint(pod, before) {
		return
	}
	s.servicesOf(pod, add)
	if !equalMaps(pod.Labels, before.Labels) {
		s.servicesOf(before, add)
	}
}

// servicesOf adds the services that select a pod.
func (s *selection) servicesOf(pod *corev1.Pod, add func(controller.Key)) {
	for k, v := range pod.Labels {
		for _, service := range controller.Indexed[*corev1.Service](s.services, pair(pod.Namespace, k, v)) {
			if selects(service.Spec.Selector, pod.Labels) {
				add(controller.KeyOf(service))
			}
		}
	}
}

// podsOf returns the pods that a service selects and that have an address, by name.
func (s *selection) podsOf(service *corev1.Service) []*corev1.Pod {
	smallest, size := controller.Group{}, -1
	for k, v := range service.Spec.Selector {
		group := pair(service.Namespace, k, v)
		if n := s.pods.Len(group); size < 0 || n < size {
			smallest, size = group, n
		}
	}
	pods := controller.Indexed[*corev1.Pod](s.pods, smallest)
	pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool {
		return controller.PodFinished(p) || len(addresses(p)) == 0 || !selects(service.Spec.Selector, p.Labels)
	})
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return pods
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func equalMaps(a, b map[string]string) bool { return len(a) == len(b) && selects(a, b) }

// sameEndpoint says that nothing differs between two states of a pod that shows in an endpoint.
func sameEndpoint(a, b *corev1.Pod) bool {
	return (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		controller.PodReady(a) == controller.PodReady(b) &&
		controller.PodFinished(a) == controller.PodFinished(b) &&
		a.Spec.NodeName == b.Spec.NodeName && a.Spec.Hostname == b.Spec.Hostname && a.Spec.Subdomain == b.Spec.Subdomain &&
		a.UID == b.UID && slices.Equal(addresses(a), addresses(b)) && equalMaps(a.Labels, b.Labels)
}

// addresses lists a pod's addresses.
func addresses(pod *corev1.Pod) []corev1.PodIP {
	if len(pod.Status.PodIPs) == 0 && pod.Status.PodIP != "" {
		return []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	return pod.Status.PodIPs
}

// address returns the pod's address of a family.
func address(pod *corev1.Pod, family corev1.IPFamily) (string, bool) {
	for _, ip := range addresses(pod) {
		if familyOf(ip.IP) == family {
			return ip.IP, true
		}
	}
	return "", false
}

func familyOf(ip string) corev1.IPFamily {
	addr, err := netip.ParseAddr(ip)
	if err == nil && addr.Is6() && !addr.Is4In6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// families lists the address families of a service; one without (made before they were allocated) has that of its cluster IP.
func families(s *corev1.Service) []corev1.IPFamily {
	switch {
	case len(s.Spec.IPFamilies) > 0:
		return s.Spec.IPFamilies
	case headless(s) || s.Spec.ClusterIP == "":
		return []corev1.IPFamily{corev1.IPv4Protocol}
	}
	return []corev1.IPFamily{familyOf(s.Spec.ClusterIP)}
}

// gone says that an object was deleted or changed under a write: its event brings the next reconcile.
func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

func headless(s *corev1.Service) bool { return s.Spec.ClusterIP == corev1.ClusterIPNone }

// servable says whether the controllers make endpoints for a service at all.
func servable(s *corev1.Service) bool {
	return s.Spec.Type != corev1.ServiceTypeExternalName && len(s.Spec.Selector) > 0
}

// targetPort resolves a service port on a pod; a named port may be missing there.
func targetPort(pod *corev1.Pod, port *corev1.ServicePort) (int32, bool) {
	if port.TargetPort.Type == intstr.Int {
		return port.TargetPort.IntVal, true
	}
	find := func(containers []corev1.Container) (int32, bool) {
		for i := range containers {
			for _, p := range containers[i].Ports {
				if p.Name == port.TargetPort.StrVal && (p.Protocol == port.Protocol || p.Protocol == "") {
					return p.ContainerPort, true
				}
			}
		}
		return 0, false
	}
	if n, ok := find(pod.Spec.Containers); ok {
		return n, true
	}
	// Init containers that keep running beside the others serve ports as well.
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			if n, ok := find(pod.Spec.InitContainers[i : i+1]); ok {
				return n, true
			}
		}
	}
	return 0, false
}

// hostname is the name under which DNS serves the pod in this service, or "".
func hostname(pod *corev1.Pod, s *corev1.Service) string {
	if pod.Spec.Hostname != "" && pod.Spec.Subdomain == s.Name && pod.Namespace == s.Namespace {
		return pod.Spec.Hostname
	}
	return ""
}

// serviceLabels are the labels that a service hands on: its own, but for reserved ones, and the mark of a headless service.
func serviceLabels(s *corev1.Service, reserved ...string) map[string]string {
	out := make(map[string]string, len(s.Labels)+3)
	for k, v := range s.Labels {
		if k != corev1.IsHeadlessService && !slices.Contains(reserved, k) {
			out[k] = v
		}
	}
	if headless(s) || s.Spec.ClusterIP == "" {
		out[corev1.IsHeadlessService] = ""
	}
	return out
}

// trigger is the time at which the change happened that a write brings: the earliest of the times given, in the form of
// the annotation, or "" when none is known.
func trigger(times []time.Time) string {
	var first time.Time
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	if first.IsZero() {
		return ""
	}
	return first.UTC().Format(time.RFC3339Nano)
}

// readySince is when the pod's readiness last changed.
func readySince(pod *corev1.Pod) time.Time {
	if c := controller.PodCondition(pod, corev1.PodReady); c != nil {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}
