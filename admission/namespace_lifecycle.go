package admission

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/store"
)

// immortal are the namespaces that cannot be deleted.
var immortal = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic}

// namespaceLifecycle refuses objects in namespaces that are not there, new objects in those that are going, and the deletion of those
// that must stay.
func namespaceLifecycle(reader store.Reader) Step {
	return Step{Name: "NamespaceLifecycle", Mutate: func(_ context.Context, r *Request) error {
		if r.is("namespaces", "") {
			if r.Operation == Delete && slices.Contains(immortal, r.Name) {
				return r.forbid("this namespace may not be deleted")
			}
			return nil
		}
		if r.Namespace == "" || r.Operation == Delete || r.is("localsubjectaccessreviews.authorization.k8s.io", "") || r.Kind.Resource == "namespaces" {
			return nil
		}
		namespace, found := named[*corev1.Namespace](reader, "namespaces", "", r.Namespace)
		if !found {
			return apierrors.NewNotFound(corev1.Resource("namespaces"), r.Namespace)
		}
		if r.Operation != Create || namespace.Status.Phase != corev1.NamespaceTerminating {
			return nil
		}
		err := r.forbid("unable to create new content in namespace %s because it is being terminated", r.Namespace)
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
			Type:    corev1.NamespaceTerminatingCause,
			Message: fmt.Sprintf("namespace %s is being terminated", r.Namespace),
			Field:   "metadata.namespace",
		})
		return err
	}}
}
