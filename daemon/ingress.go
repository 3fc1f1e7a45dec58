package daemon

import (
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

// ingressSetting is what the node says of itself.
func ingressSetting(c config.Config) string {
	if ingressOn(c) {
		return kinds.IngressOn
	}
	return kinds.IngressOff
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
		Client: m.ingress, Follower: m.follower, Registerer: m.registry, Logger: m.log,
		HTTP: address(m.config.IngressHTTP), HTTPS: address(m.config.IngressHTTPS),
	})
}
