package kinds

import corev1 "k8s.io/api/core/v1"

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
