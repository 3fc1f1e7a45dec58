package auth

import (
	"context"
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

const (
	// ProjectedTokenSeconds is the lifetime that the token volume of every pod asks for. Such tokens are signed for a year, so that old clients which
	// never read the file again go on working, and carry the time after which upstream warns (kube-apiserver
	// --service-account-extend-token-expiration, on by default).
	ProjectedTokenSeconds = 60*60 + 7
	extendedTokenSeconds  = 365 * 24 * 60 * 60

	defaultTokenSeconds = 60 * 60
	minTokenSeconds     = 10 * 60
	maxTokenSeconds     = 1 << 32
)

// Issue grants a TokenRequest for an account: it fills in the defaults, checks the lifetime and what the token is to be bound to, signs
// it and sets the status. bound is the object that req names, nil when it names none or when there is no such object.
// Errors are API Status errors with upstream's texts.
func (t *Tokens) Issue(_ context.Context, account, bound kinds.Object, req *authenticationv1.TokenRequest) error {
	return t.issue(account.(*corev1.ServiceAccount), bound, req, time.Now())
}

func (t *Tokens) issue(sa *corev1.ServiceAccount, object kinds.Object, req *authenticationv1.TokenRequest, now time.Time) error {
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = slices.Clone(t.audiences)
	}
	if req.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultTokenSeconds)
		req.Spec.ExpirationSeconds = &seconds
	}
	if err := validateTokenRequest(req); err != nil {
		return err
	}
	bound, err := t.bind(sa, object, req.Spec.BoundObjectRef)
	if err != nil {
		return err
	}
	expires := now.Add(time.Duration(*req.Spec.ExpirationSeconds) * time.Second)
	signed := expires
	if bound.Pod != nil && *req.Spec.ExpirationSeconds == ProjectedTokenSeconds && slices.Equal(req.Spec.Audiences, t.audiences) {
		bound.WarnAfter = jwt.NewNumericDate(expires)
		signed = now.Add(extendedTokenSeconds * time.Second)
	}
	token, err := t.sign(sa, bound, req.Spec.Audiences, string(uuid.NewUUID()), now, signed)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("sign token: %w", err))
	}
	req.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(expires.Truncate(time.Second))}
	return nil
}

func validateTokenRequest(req *authenticationv1.TokenRequest) error {
	var errs field.ErrorList
	path, seconds := field.NewPath("spec", "expirationSeconds"), *req.Spec.ExpirationSeconds
	if seconds < minTokenSeconds {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration less than 10 minutes"))
	}
	if seconds > maxTokenSeconds {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: authenticationv1.GroupName, Kind: "TokenRequest"}, "", errs)
}

// boundResources, read only, are the kinds of core/v1 that a token can be bound to.
var boundResources = map[string]string{"Pod": "pods", "Node": "nodes", "Secret": "secrets"}

// bind checks the object that a token shall end with.
func (t *Tokens) bind(sa *corev1.ServiceAccount, object kinds.Object, ref *authenticationv1.BoundObjectReference) (*boundClaims, error) {
	bound := &boundClaims{}
	if ref == nil {
		return bound, nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	resource, ok := boundResources[gvk.Kind]
	if !ok || gvk.Group != "" || gvk.Version != "v1" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk.String()))
	}
	if object == nil {
		return nil, apierrors.NewNotFound(corev1.Resource(resource), ref.Name)
	}
	if err := sameUID(gvk.Kind, ref, object.GetUID()); err != nil {
		return nil, err
	}
	switch o := object.(type) {
	case *corev1.Pod:
		if o.Spec.ServiceAccountName != sa.Name {
			return nil, apierrors.NewBadRequest(fmt.Sprintf(
				"cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", sa.Name))
		}
		bound.Pod = refOf(o)
		if o.Spec.NodeName != "" {
			bound.Node = &boundRef{Name: o.Spec.NodeName}
			if node := t.reader.Snapshot().Get(store.Key{Resource: "nodes", Name: o.Spec.NodeName}); node != nil {
				bound.Node.UID = string(node.Object.GetUID())
			}
		}
	case *corev1.Node:
		bound.Node = refOf(o)
	case *corev1.Secret:
		bound.Secret = refOf(o)
	}
	return bound, nil
}

func sameUID(kind string, ref *authenticationv1.BoundObjectReference, uid types.UID) error {
	if ref.UID == "" || ref.UID == uid {
		return nil
	}
	return apierrors.NewConflict(schema.GroupResource{Resource: kind}, ref.Name, fmt.Errorf(
		"the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
}
