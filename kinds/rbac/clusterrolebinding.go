package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	rbacv1beta1 "k8s.io/api/rbac/v1beta1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
)

// ClusterRoleBinding is the row of cluster role bindings, which grant a cluster role everywhere.
func ClusterRoleBinding() *kinds.Kind {
	validate := func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
		return validateBinding(b.RoleRef, b.Subjects, false, "ClusterRole")
	}
	return &kinds.Kind{
		Group:        rbacv1.GroupName,
		Kind:         "ClusterRoleBinding",
		Resource:     "clusterrolebindings",
		Versions:     []kinds.Version{kinds.V[rbacv1.ClusterRoleBinding, rbacv1.ClusterRoleBindingList]("v1")},
		ValidateName: path.ValidatePathSegmentName,
		Default:      kinds.On(func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) }),
		Validate:     kinds.Check(validate),
		ValidateUpdate: kinds.CheckUpdate(func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
			return append(validate(b), validateRoleRefUpdate(b.RoleRef, old.RoleRef)...)
		}),
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		Columns:             bindingColumns("clusterRoleBinding", rbacv1beta1.ClusterRoleBinding{}.SwaggerDoc()["roleRef"]),
		Cells: kinds.Print(func(b *rbacv1.ClusterRoleBinding, now metav1.Time) []any {
			return bindingCells(b.ObjectMeta, b.RoleRef, b.Subjects, now)
		}),
	}
}
