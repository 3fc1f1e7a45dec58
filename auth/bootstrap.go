package auth

import (
	_ "embed"
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/kinds"
)

// bootstrapText lists the default roles and bindings of Kubernetes v1.37
// (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings), one object a line:
//
//	ClusterRole name [label …] [<label that is aggregated …]
//	Role namespace/name
//	ClusterRoleBinding name clusterrole [user:name | group:name | sa:namespace/name …]
//	RoleBinding namespace/name role [subject …]
//
// and below a role its rules, indented by two spaces, lists with commas, "" for the core group:
//
//	verbs groups resources [names]
//	verbs paths
//
//go:embed bootstrap.txt
var bootstrapText string

const (
	bootstrapLabel      = "kubernetes.io/bootstrapping"
	bootstrapLabelValue = "rbac-defaults"
	// AutoUpdate is the annotation of roles and bindings whose missing parts a server puts back when it starts, unless it is "false".
	AutoUpdate = rbacv1.AutoUpdateAnnotationKey
)

// BootstrapObjects returns the roles and bindings that every cluster starts with, as upstream has them: those of the cluster and those
// in kube-system and kube-public. They are made anew on each call.
func BootstrapObjects() []kinds.Object {
	var out []kinds.Object
	for block := range bootstrapBlocks() {
		out = append(out, parseBootstrap(block))
	}
	return out
}

// bootstrapClusterRole returns the rules of one bootstrap role, without making the others.
func bootstrapClusterRole(name string) []rbacv1.PolicyRule {
	for block := range bootstrapBlocks() {
		if f := strings.Fields(block[0]); f[0] == "ClusterRole" && f[1] == name {
			return parseRules(block[1:])
		}
	}
	return nil
}

// bootstrapBlocks yields the lines of each object.
func bootstrapBlocks() func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		var block []string
		for line := range strings.Lines(bootstrapText) {
			if !strings.HasPrefix(line, " ") && block != nil {
				if !yield(block) {
					return
				}
				block = nil
			}
			block = append(block, strings.TrimSpace(line))
		}
		yield(block)
	}
}

func parseBootstrap(block []string) kinds.Object {
	f := strings.Fields(block[0])
	meta := metav1.ObjectMeta{
		Name:        f[1],
		Labels:      map[string]string{bootstrapLabel: bootstrapLabelValue},
		Annotations: map[string]string{AutoUpdate: "true"},
	}
	if namespace, name, ok := strings.Cut(f[1], "/"); ok {
		meta.Namespace, meta.Name = namespace, name
	}
	switch f[0] {
	case "ClusterRole":
		role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: parseRules(block[1:])}
		for _, label := range f[2:] {
			if aggregated, ok := strings.CutPrefix(label, "<"); ok {
				role.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
					{MatchLabels: map[string]string{aggregated: "true"}},
				}}
			} else {
				role.Labels[label] = "true"
			}
		}
		return role
	case "Role":
		return &rbacv1.Role{ObjectMeta: meta, Rules: parseRules(block[1:])}
	case "ClusterRoleBinding":
		return &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: roleRef("ClusterRole", f[2]), Subjects: parseSubjects(f[3:])}
	case "RoleBinding":
		return &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: roleRef("Role", f[2]), Subjects: parseSubjects(f[3:])}
	}
	panic(fmt.Sprintf("bootstrap objects: unknown kind in %q", block[0]))
}

func roleRef(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

func parseRules(lines []string) []rbacv1.PolicyRule {
	var rules []rbacv1.PolicyRule
	for _, line := range lines {
		f := strings.Fields(line)
		rule := rbacv1.PolicyRule{Verbs: strings.Split(f[0], ",")}
		if len(f) == 2 {
			rule.NonResourceURLs = strings.Split(f[1], ",")
		} else {
			rule.APIGroups = strings.Split(strings.ReplaceAll(f[1], `""`, ""), ",")
			rule.Resources = strings.Split(f[2], ",")
		}
		if len(f) == 4 {
			rule.ResourceNames = strings.Split(f[3], ",")
		}
		rules = append(rules, rule)
	}
	return rules
}

func parseSubjects(words []string) []rbacv1.Subject {
	var subjects []rbacv1.Subject
	for _, word := range words {
		kind, name, _ := strings.Cut(word, ":")
		switch kind {
		case "user":
			subjects = append(subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name})
		case "group":
			subjects = append(subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name})
		case "sa":
			namespace, account, _ := strings.Cut(name, "/")
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account})
		}
	}
	return subjects
}
