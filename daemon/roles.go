package daemon

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/controller/services"
	"github.com/kebernetes/kebernetes/controller/workloads"
	"github.com/kebernetes/kebernetes/kinds"
)

// controllerRole lets one of our own controllers, which upstream has no role for, do what rules say and write events.
func controllerRole(identity string, rules ...rbacv1.PolicyRule) []kinds.Object {
	name := "system:controller:" + identity
	meta := metav1.ObjectMeta{Name: name, Annotations: map[string]string{auth.AutoUpdate: "true"}}
	rules = append(rules, rbacv1.PolicyRule{
		Verbs: []string{"create", "patch", "update"}, APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"},
	})
	return []kinds.Object{
		&rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules},
		&rbacv1.ClusterRoleBinding{ObjectMeta: meta,
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: auth.ControllerNamespace, Name: identity}}},
	}
}

// restartRole is what the restarts of workloads may do.
func restartRole() []kinds.Object {
	read := []string{"get", "list", "watch"}
	return controllerRole(workloads.RestartIdentity,
		rbacv1.PolicyRule{Verbs: read, APIGroups: []string{""}, Resources: []string{"configmaps", "secrets"}},
		rbacv1.PolicyRule{Verbs: append(read, "patch"), APIGroups: []string{"apps"}, Resources: []string{"daemonsets", "deployments", "statefulsets"}},
	)
}

// addressRole is what the keeper of IPAddresses may do.
func addressRole() []kinds.Object {
	read := []string{"get", "list", "watch"}
	return controllerRole(services.AddressIdentity,
		rbacv1.PolicyRule{Verbs: read, APIGroups: []string{""}, Resources: []string{"services"}},
		rbacv1.PolicyRule{Verbs: append(read, "create", "delete"), APIGroups: []string{"networking.k8s.io"}, Resources: []string{"ipaddresses"}},
	)
}
