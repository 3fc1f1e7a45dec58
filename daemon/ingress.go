package daemon

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/kebernetes/kebernetes/config"
	"github.com/kebernetes/kebernetes/ingress"
	"github.com/kebernetes/kebernetes/kinds"
)

// ingressIdentity is what the parts of the ingress act as. Upstream has no ingress, and so no role for it.
const ingressIdentity = "ingress-controller"

func ingressOn(c config.Config) bool {
	return c.IngressHTTP != config.Off || c.IngressHTTPS != config.Off
}

// ingressRole is what the ingress may do.
func ingressRole() []kinds.Object {
	read := []string{"get", "list", "watch"}
	return controllerRole(ingressIdentity,
		rbacv1.PolicyRule{Verbs: read, APIGroups: []string{""}, Resources: []string{"nodes", "secrets", "services"}},
		rbacv1.PolicyRule{Verbs: read, APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}},
		rbacv1.PolicyRule{Verbs: append(read, "create"), APIGroups: []string{"networking.k8s.io"}, Resources: []string{"ingressclasses"}},
		rbacv1.PolicyRule{Verbs: read, APIGroups: []string{"networking.k8s.io"}, Resources: []string{"ingresses"}},
		rbacv1.PolicyRule{Verbs: []string{"patch", "update"}, APIGroups: []string{"networking.k8s.io"}, Resources: []string{"ingresses/status"}},
	)
}

// newIngress returns this node's entry for HTTP and HTTPS.
func (m machine) newIngress() (*ingress.Server, error) {
	address := func(configured string) string {
		if configured == config.Off {
			return ""
		}
		return configured
	}
	return ingress.New(ingress.Options{
		Client: m.ingress, Registerer: m.registry, Logger: m.log,
		HTTP: address(m.config.IngressHTTP), HTTPS: address(m.config.IngressHTTPS),
	})
}

// withdrawer is a part that sends requests to pods.
type withdrawer interface {
	WaitWithdrawn(ctx context.Context, addrs ...netip.Addr) error
}

// withdraw makes a pod's end wait until this node's parts send it nothing new.
func withdraw(parts ...withdrawer) func(context.Context, *corev1.Pod) {
	return func(ctx context.Context, pod *corev1.Pod) {
		if pod.Spec.HostNetwork {
			return // its address is the node's, which others serve at: it would wait for them until its grace is over
		}
		var addrs []netip.Addr
		for _, ip := range pod.Status.PodIPs {
			if addr, err := netip.ParseAddr(ip.IP); err == nil {
				addrs = append(addrs, addr)
			}
		}
		for _, part := range parts {
			// When the wait ends early the pod's grace is over: it must end whatever the others do.
			_ = part.WaitWithdrawn(ctx, addrs...)
		}
	}
}
