package daemon

import (
	"errors"
	"net/http"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/join"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/tunnel"
	"github.com/kebernetes/kebernetes/withdraw"
)

// newJoining returns what lets machines in; it needs a client yet.
func (s *System) newJoining() *join.Server {
	return &join.Server{
		Authority: s.authority,
		Cluster:   join.Cluster{ClusterCIDR: s.config.ClusterCIDR, ServiceCIDR: s.config.ServiceCIDR, Domain: s.config.ClusterDomain},
		Connected: func(node string) bool { return s.nodes.own(node) != nil || s.tunnels.Connected(node) },
		Logger:    s.log,
	}
}

// nodeOf returns the node that an authenticated request comes from.
func nodeOf(r *http.Request) (string, error) {
	if user := auth.UserFrom(r.Context()); user != nil {
		if node, ok := auth.NodeOf(user); ok {
			return node, nil
		}
	}
	return "", apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "", errors.New("only agents connect here"))
}

// nodeRoles are what join tokens and nodes may do beyond upstream's rules: come in, and read what the service network, the names
// and the routes of every node are made of.
func nodeRoles() []kinds.Object {
	read := []string{"get", "list", "watch"}
	return append(
		groupRole("keb:node-joiner", auth.BootstrapGroup, rbacv1.PolicyRule{Verbs: []string{"post"}, NonResourceURLs: []string{join.Path}}),
		groupRole("keb:node", auth.GroupNodes,
			rbacv1.PolicyRule{Verbs: []string{"post"}, NonResourceURLs: []string{join.Path, withdraw.Path}},
			rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{tunnel.Path}},
			rbacv1.PolicyRule{Verbs: read, APIGroups: []string{""}, Resources: []string{"nodes", "services"}},
			// Network policies name pods of all nodes by their labels.
			rbacv1.PolicyRule{Verbs: []string{"list", "watch"}, APIGroups: []string{""}, Resources: []string{"namespaces", "pods"}},
			rbacv1.PolicyRule{Verbs: []string{"list", "watch"}, APIGroups: []string{"networking.k8s.io"}, Resources: []string{"ingresses", "ingressclasses", "networkpolicies"}},
			rbacv1.PolicyRule{Verbs: read, APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}},
		)...)
}

// groupRole is a role and its binding to a group.
func groupRole(name, group string, rules ...rbacv1.PolicyRule) []kinds.Object {
	meta := metav1.ObjectMeta{Name: name, Annotations: map[string]string{auth.AutoUpdate: "true"}}
	return []kinds.Object{
		&rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules},
		&rbacv1.ClusterRoleBinding{ObjectMeta: meta,
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group}}},
	}
}
