// Package rbac holds the kinds of rbac.authorization.k8s.io: their shape only. Who may grant what is admission's question.
// Only kinds/builtin imports it.
package rbac

import (
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// defaultBinding names RBAC's own group where the user left it out.
func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	check.Default(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if s := &subjects[i]; s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind {
			check.Default(&s.APIGroup, rbacv1.GroupName)
		}
	}
}

// validateRules checks rules. Here as in bindings, what upstream's generated checks find missing is reported last.
func validateRules(rules []rbacv1.PolicyRule, namespaced bool) field.ErrorList {
	var r, missing check.Report
	for i, rule := range rules {
		at := field.NewPath("rules").Index(i)
		if len(rule.Verbs) == 0 {
			missing.Required(at.Child("verbs"), "")
		}
		if len(rule.NonResourceURLs) > 0 {
			if namespaced {
				r.Invalid(at.Child("nonResourceURLs"), rule.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs")
			}
			if len(rule.APIGroups)+len(rule.Resources)+len(rule.ResourceNames) > 0 {
				r.Invalid(at.Child("nonResourceURLs"), rule.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs")
			}
			continue
		}
		if len(rule.APIGroups) == 0 {
			r.Required(at.Child("apiGroups"), "resource rules must supply at least one api group")
		}
		if len(rule.Resources) == 0 {
			r.Required(at.Child("resources"), "resource rules must supply at least one resource")
		}
	}
	return append(r.Errs, missing.Errs...)
}

// validateBinding checks a binding to one of the role kinds given.
func validateBinding(ref rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool, roles ...string) field.ErrorList {
	var r, missing check.Report
	at := field.NewPath("roleRef")
	check.OneOf(&r, at.Child("apiGroup"), ref.APIGroup, rbacv1.GroupName)
	check.OneOf(&r, at.Child("kind"), ref.Kind, roles...)
	if ref.Name != "" {
		r.Invalid(at.Child("name"), ref.Name, path.IsValidPathSegmentName(ref.Name)...)
	}
	for i, s := range subjects {
		at := field.NewPath("subjects").Index(i)
		missing.Present(at.Child("name"), s.Name)
		validateSubject(&r, at, s, namespaced)
	}
	missing.Present(at.Child("name"), ref.Name)
	return append(r.Errs, missing.Errs...)
}

func validateSubject(r *check.Report, at *field.Path, s rbacv1.Subject, namespaced bool) {
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			r.Invalid(at.Child("name"), s.Name, apivalidation.ValidateServiceAccountName(s.Name, false)...)
		}
		check.OneOf(r, at.Child("apiGroup"), s.APIGroup, "")
		if !namespaced {
			r.Present(at.Child("namespace"), s.Namespace)
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
		check.OneOf(r, at.Child("apiGroup"), s.APIGroup, rbacv1.GroupName)
	default:
		check.OneOf(r, at.Child("kind"), s.Kind, rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind)
	}
}

// validateRoleRefUpdate keeps the role of a binding: changing it would hide who got which rights.
func validateRoleRefUpdate(ref, old rbacv1.RoleRef) field.ErrorList {
	if ref == old {
		return nil
	}
	// The value has always been printed under its Go names.
	value := struct{ APIGroup, Kind, Name string }{ref.APIGroup, ref.Kind, ref.Name}
	return field.ErrorList{field.Invalid(field.NewPath("roleRef"), value, apivalidation.FieldImmutableErrorMsg)}
}

// bindingColumns is the table of both bindings; noun is "roleBinding" or "clusterRoleBinding".
func bindingColumns(noun, roleDoc string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Role", "string", roleDoc),
		kinds.AgeColumn(),
		kinds.WideColumn("Users", "string", "Users in the "+noun),
		kinds.WideColumn("Groups", "string", "Groups in the "+noun),
		kinds.WideColumn("ServiceAccounts", "string", "ServiceAccounts in the "+noun),
	}
}

func bindingCells(meta metav1.ObjectMeta, ref rbacv1.RoleRef, subjects []rbacv1.Subject, now metav1.Time) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		}
	}
	return []any{
		meta.Name, fmt.Sprintf("%s/%s", ref.Kind, ref.Name), kinds.Age(meta.CreationTimestamp, now),
		strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", "),
	}
}
