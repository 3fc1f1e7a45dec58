package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
)

// Role is the row of roles.
func Role() *kinds.Kind {
	validate := func(r *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) }
	return &kinds.Kind{
		Group:               rbacv1.GroupName,
		Kind:                "Role",
		Resource:            "roles",
		Namespaced:          true,
		Versions:            []kinds.Version{kinds.V[rbacv1.Role, rbacv1.RoleList]("v1")},
		ValidateName:        path.ValidatePathSegmentName,
		Validate:            kinds.Check(validate),
		ValidateUpdate:      kinds.CheckUpdate(func(r, _ *rbacv1.Role) field.ErrorList { return validate(r) }),
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
	}
}
