package kinds

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// IngressAddresses lists the addresses or names that a load balancer is reached at.
func IngressAddresses(status corev1.LoadBalancerStatus) []string {
	var out []string
	for _, in := range status.Ingress {
		if in.IP != "" {
			out = append(out, in.IP)
		} else if in.Hostname != "" {
			out = append(out, in.Hostname)
		}
	}
	return out
}

// BalancerAddresses are the addresses at which clients from outside reach a node that balances load: its external ones if it has
// any, its internal ones otherwise; none of a node that is not ready or that is labelled to be left out.
func BalancerAddresses(node *corev1.Node) []netip.Addr {
	ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	if _, excluded := node.Labels[corev1.LabelNodeExcludeBalancers]; excluded || !ready {
		return nil
	}
	for _, typ := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		var addrs []netip.Addr
		for _, a := range node.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == typ {
				addrs = append(addrs, addr)
			}
		}
		if len(addrs) > 0 {
			return addrs
		}
	}
	return nil
}
