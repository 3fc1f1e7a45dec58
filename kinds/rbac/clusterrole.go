package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// ClusterRole is the row of cluster roles. Those with an aggregation rule get their rules from a controller.
func ClusterRole() *kinds.Kind {
	return &kinds.Kind{
		Group:          rbacv1.GroupName,
		Kind:           "ClusterRole",
		Resource:       "clusterroles",
		Versions:       []kinds.Version{kinds.V[rbacv1.ClusterRole, rbacv1.ClusterRoleList]("v1")},
		ValidateName:   path.ValidatePathSegmentName,
		Validate:       kinds.Check(validateClusterRole),
		ValidateUpdate: kinds.CheckUpdate(func(r, _ *rbacv1.ClusterRole) field.ErrorList { return validateClusterRole(r) }),

		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
	}
}

func validateClusterRole(role *rbacv1.ClusterRole) field.ErrorList {
	r := check.Report{Errs: validateRules(role.Rules, false)}
	if role.AggregationRule == nil {
		return r.Errs
	}
	at := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(role.AggregationRule.ClusterRoleSelectors) == 0 {
		r.Required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil")
	}
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector := &role.AggregationRule.ClusterRoleSelectors[i]
		r.Selector(at.Index(i), selector)
		if _, err := metav1.LabelSelectorAsSelector(selector); err != nil {
			r.Invalid(at.Index(i), *selector, "invalid label selector.")
		}
	}
	return r.Errs
}
