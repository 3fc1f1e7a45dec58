package auth

import (
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Forbidden is the 403 of a request that was not authorised, with upstream's text. reason is what Authorize returned.
func Forbidden(a *Attributes, reason string) *apierrors.StatusError {
	if reason != "" {
		reason = ": " + reason
	}
	if !a.IsResource {
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status:  metav1.StatusFailure,
			Code:    http.StatusForbidden,
			Reason:  metav1.StatusReasonForbidden,
			Details: &metav1.StatusDetails{},
			Message: fmt.Sprintf("forbidden: User %q cannot %s path %q%s", a.User.Name, a.Verb, a.Path, reason),
		}}
	}
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	where := "at the cluster scope"
	if a.Namespace != "" {
		where = fmt.Sprintf("in the namespace %q", a.Namespace)
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.Group, Resource: a.Resource}, a.Name,
		fmt.Errorf("User %q cannot %s resource %q in API group %q %s%s", a.User.Name, a.Verb, resource, a.Group, where, reason))
}
