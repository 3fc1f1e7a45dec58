package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	rbacv1beta1 "k8s.io/api/rbac/v1beta1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
)

// RoleBinding is the row of role bindings, which grant a role within their namespace.
func RoleBinding() *kinds.Kind {
	validate := func(b *rbacv1.RoleBinding) field.ErrorList {
		return validateBinding(b.RoleRef, b.Subjects, true, "Role", "ClusterRole")
	}
	return &kinds.Kind{
		Group:        rbacv1.GroupName,
		Kind:         "RoleBinding",
		Resource:     "rolebindings",
		Namespaced:   true,
		Versions:     []kinds.Version{kinds.V[rbacv1.RoleBinding, rbacv1.RoleBindingList]("v1")},
		ValidateName: path.ValidatePathSegmentName,
		Default:      kinds.On(func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) }),
		Validate:     kinds.Check(validate),
		ValidateUpdate: kinds.CheckUpdate(func(b, old *rbacv1.RoleBinding) field.ErrorList {
			return append(validate(b), validateRoleRefUpdate(b.RoleRef, old.RoleRef)...)
		}),
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		Columns:             bindingColumns("roleBinding", rbacv1beta1.RoleBinding{}.SwaggerDoc()["roleRef"]),
		Cells: kinds.Print(func(b *rbacv1.RoleBinding, now metav1.Time) []any {
			return bindingCells(b.ObjectMeta, b.RoleRef, b.Subjects, now)
		}),
	}
}
