package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/kebernetes/kebernetes/auth"
)

// grants lets nobody write a role with more rights than they hold, nor bind one, unless they may "escalate" the role or "bind" it
// (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping).
func grants(policy *auth.Policy) Step {
	return Step{Name: "RBACEscalation", Validate: func(_ context.Context, r *Request) error {
		if r.Kind.Group != rbacv1.GroupName || r.Subresource != "" || (r.Operation != Create && r.Operation != Update) ||
			slices.Contains(r.User.Groups, auth.GroupMasters) {
			return nil
		}
		switch o := r.Object.(type) {
		case *rbacv1.Role:
			if old, ok := r.Old.(*rbacv1.Role); ok && equality.Semantic.DeepEqual(old.Rules, o.Rules) {
				return nil
			}
			return checkRole(policy, r, o.Rules, false)
		case *rbacv1.ClusterRole:
			if old, ok := r.Old.(*rbacv1.ClusterRole); ok && equality.Semantic.DeepEqual(old.Rules, o.Rules) &&
				equality.Semantic.DeepEqual(old.AggregationRule, o.AggregationRule) {
				return nil
			}
			return checkRole(policy, r, o.Rules, o.AggregationRule != nil)
		case *rbacv1.RoleBinding:
			if old, ok := r.Old.(*rbacv1.RoleBinding); ok && old.RoleRef == o.RoleRef && equality.Semantic.DeepEqual(old.Subjects, o.Subjects) {
				return nil
			}
			return checkBinding(policy, r, o.RoleRef)
		case *rbacv1.ClusterRoleBinding:
			if old, ok := r.Old.(*rbacv1.ClusterRoleBinding); ok && old.RoleRef == o.RoleRef && equality.Semantic.DeepEqual(old.Subjects, o.Subjects) {
				return nil
			}
			return checkBinding(policy, r, o.RoleRef)
		}
		return nil
	}}
}

// everything is what the writer of an aggregated role must hold, as its rules will come from roles of others.
var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

func checkRole(policy *auth.Policy, r *Request, rules []rbacv1.PolicyRule, aggregated bool) error {
	if may(policy, r, "escalate", r.Kind.Resource, r.name()) {
		return nil
	}
	if aggregated {
		if err := covered(policy, r, everything); err != nil {
			return apierrors.NewForbidden(r.resource(), r.name(), errors.New("must have cluster-admin privileges to use the aggregationRule"))
		}
	}
	return refuse(r, covered(policy, r, rules))
}

func checkBinding(policy *auth.Policy, r *Request, ref rbacv1.RoleRef) error {
	resource := "roles"
	if ref.Kind == "ClusterRole" {
		resource = "clusterroles"
	}
	if may(policy, r, "bind", resource, ref.Name) {
		return nil
	}
	rules, err := policy.RoleRules(ref, r.Namespace)
	if err != nil {
		return err
	}
	return refuse(r, covered(policy, r, rules))
}

func refuse(r *Request, err error) error {
	if err == nil {
		return nil
	}
	return apierrors.NewForbidden(r.resource(), r.name(), err)
}

func (r *Request) name() string {
	if r.Name == "" && r.Object != nil {
		return r.Object.GetName()
	}
	return r.Name
}

func may(policy *auth.Policy, r *Request, verb, resource, name string) bool {
	allowed, _ := policy.Authorize(&auth.Attributes{
		User: r.User, Verb: verb, IsResource: true, Group: rbacv1.GroupName, Version: "v1",
		Resource: resource, Namespace: r.Namespace, Name: name,
	})
	return allowed
}

// covered says whether the user of a request holds all of the rules, and which are missing.
func covered(policy *auth.Policy, r *Request, rules []rbacv1.PolicyRule) error {
	held, unresolved := policy.PolicyRules(r.User, r.Namespace)
	ok, missing := validation.Covers(held, rules)
	if ok {
		return nil
	}
	var lines []string
	for _, rule := range compact(missing) {
		lines = append(lines, ruleText(rule))
	}
	slices.Sort(lines)
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		r.User.Name, r.User.Groups, strings.Join(lines, "\n"))
	if unresolved != nil {
		text += fmt.Sprintf("; resolution errors: %v", unresolved)
	}
	return errors.New(text)
}

// compact joins rules on single resources that differ only in their verbs.
func compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	type simple struct{ group, resource, name string }
	at := map[simple]int{}
	var out []rbacv1.PolicyRule
	for _, rule := range rules {
		if len(rule.APIGroups) != 1 || len(rule.Resources) != 1 || len(rule.ResourceNames) > 1 || len(rule.NonResourceURLs) > 0 {
			out = append(out, rule)
			continue
		}
		key := simple{group: rule.APIGroups[0], resource: rule.Resources[0], name: strings.Join(rule.ResourceNames, "")}
		if i, ok := at[key]; ok {
			out[i].Verbs = append(slices.Clip(out[i].Verbs), rule.Verbs...)
			continue
		}
		at[key] = len(out)
		out = append(out, rule)
	}
	return out
}

// ruleText is upstream's short form: only the fields that are set.
func ruleText(rule rbacv1.PolicyRule) string {
	var parts []string
	for _, f := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", rule.APIGroups}, {"Resources", rule.Resources}, {"ResourceNames", rule.ResourceNames},
		{"NonResourceURLs", rule.NonResourceURLs}, {"Verbs", rule.Verbs},
	} {
		if len(f.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", f.name, f.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
