package view

import (
	"errors"
	"fmt"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/store"
)

// Open is the state of a resource that a list shows, and the key that it starts behind, by the rules of
// https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list. Errors are Status errors.
func Open(r store.Reader, resource string, o *metav1.ListOptions) (*View, store.Key, error) {
	if o.Continue != "" {
		return continued(r, resource, o)
	}
	rv, err := ParseVersion(o.ResourceVersion)
	if err != nil {
		return nil, store.Key{}, apierrors.NewBadRequest("invalid resource version: " + err.Error())
	}
	exact := o.ResourceVersionMatch == metav1.ResourceVersionMatchExact || (o.ResourceVersionMatch == "" && o.Limit > 0 && rv > 0)
	if exact {
		v, err := At(r, resource, rv)
		if errors.Is(err, store.ErrCompacted) {
			err = apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
		}
		return v, store.Key{}, err
	}
	v := Now(r, resource)
	if rv > v.Revision() {
		return nil, store.Key{}, TooLarge(rv, v.Revision())
	}
	return v, store.Key{}, nil
}

func continued(r store.Reader, resource string, o *metav1.ListOptions) (*View, store.Key, error) {
	if o.ResourceVersion != "" && o.ResourceVersion != "0" {
		return nil, store.Key{}, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	token, after, err := Parse(o.Continue)
	if err != nil {
		return nil, store.Key{}, err
	}
	if token.Revision < 0 {
		return Now(r, resource), after, nil
	}
	v, err := At(r, resource, token.Revision)
	if errors.Is(err, store.ErrCompacted) {
		err = token.Expired()
	}
	if err != nil {
		return nil, after, err
	}
	v.left = max(token.Left, 0)
	return v, after, nil
}

// ParseVersion reads a resourceVersion; the empty one is 0. The error is a *field.Error.
func ParseVersion(rv string) (int64, error) {
	if rv == "" || rv == "0" {
		return 0, nil
	}
	n, err := strconv.ParseUint(rv, 10, 64)
	if err != nil {
		return 0, field.Invalid(field.NewPath("resourceVersion"), rv, err.Error())
	}
	return int64(min(n, 1<<62)), nil
}

// TooLarge is the answer to a version that has not been reached.
func TooLarge(wanted, now int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", wanted, now), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return err
}
