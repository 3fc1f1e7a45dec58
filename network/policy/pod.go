package policy

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
)

// pod is what policies depend on of a pod.
type pod struct {
	key    types.NamespacedName
	uid    types.UID
	labels labels.Set
	addrs  []netip.Addr
	ports  []podPort
	local  bool // on this node
}

type podPort struct {
	name     string
	protocol corev1.Protocol
	number   int32
}

// newPod reads a pod; nil when policies do not concern it: it uses the host's network, or has ended and may have lost its addresses.
func newPod(p *corev1.Pod, node string) *pod {
	if p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.Spec.NodeName == "" {
		return nil
	}
	out := &pod{key: types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, uid: p.UID, labels: p.Labels, local: p.Spec.NodeName == node}
	for _, ip := range p.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			out.addrs = append(out.addrs, addr.Unmap())
		}
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range list {
			for _, port := range c.Ports {
				if port.Name == "" {
					continue
				}
				protocol := port.Protocol
				if protocol == "" {
					protocol = corev1.ProtocolTCP
				}
				out.ports = append(out.ports, podPort{port.Name, protocol, port.ContainerPort})
			}
		}
	}
	return out
}

// Strip takes from a pod, for a copy that only policies read, all that they do not depend on. Other objects stay as they are.
func Strip(obj client.Object) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	p.ManagedFields, p.Annotations, p.OwnerReferences = nil, nil, nil
	p.Spec = corev1.PodSpec{NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork,
		InitContainers: stripContainers(p.Spec.InitContainers), Containers: stripContainers(p.Spec.Containers)}
	p.Status = corev1.PodStatus{Phase: p.Status.Phase, PodIPs: p.Status.PodIPs}
}

// stripContainers keeps the ports that have names.
func stripContainers(list []corev1.Container) []corev1.Container {
	var out []corev1.Container
	for _, c := range list {
		if slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name != "" }) {
			out = append(out, corev1.Container{Name: c.Name, Ports: c.Ports})
		}
	}
	return out
}

// with returns the pod with further addresses.
func (p *pod) with(addrs []netip.Addr) *pod {
	if p == nil || len(addrs) == 0 {
		return p
	}
	out := *p
	out.addrs = slices.Clone(p.addrs)
	for _, a := range addrs {
		if !slices.Contains(out.addrs, a) {
			out.addrs = append(out.addrs, a)
		}
	}
	return &out
}

func (p *pod) equal(o *pod) bool {
	if p == nil || o == nil {
		return p == o
	}
	return p.uid == o.uid && p.local == o.local && slices.Equal(p.addrs, o.addrs) && slices.Equal(p.ports, o.ports) &&
		maps.Equal(p.labels, o.labels)
}
