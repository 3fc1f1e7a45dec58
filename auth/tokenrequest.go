package auth

import (
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

// Request answers a TokenRequest for a service account: it fills in the defaults, checks the request and what it is bound to, and signs
// the token. Errors are API Status errors with upstream's texts. req is not changed.
func (t *Tokens) Request(namespace, name string, req *authenticationv1.TokenRequest, now time.Time) (*authenticationv1.TokenRequest, error) {
	snapshot := t.reader.Snapshot()
	item := snapshot.Get(store.Key{Resource: "serviceaccounts", Namespace: namespace, Name: name})
	if item == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("serviceaccounts"), name)
	}
	sa := item.Object.(*corev1.ServiceAccount)
	out := req.DeepCopy()
	if err := t.defaultRequest(out, sa, now); err != nil {
		return nil, err
	}
	if err := validateTokenRequest(out); err != nil {
		return nil, err
	}
	bound, err := bind(snapshot, sa, out.Spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}
	expires := now.Add(time.Duration(*out.Spec.ExpirationSeconds) * time.Second)
	signed := expires
	if bound.Pod != nil && *out.Spec.ExpirationSeconds == ProjectedTokenSeconds && slices.Equal(out.Spec.Audiences, t.audiences) {
		bound.WarnAfter = jwt.NewNumericDate(expires)
		signed = now.Add(extendedTokenSeconds * time.Second)
	}
	token, err := t.sign(sa, bound, out.Spec.Audiences, string(uuid.NewUUID()), now, signed)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("sign token: %w", err))
	}
	out.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(expires.Truncate(time.Second))}
	return out, nil
}

func (t *Tokens) defaultRequest(req *authenticationv1.TokenRequest, sa *corev1.ServiceAccount, now time.Time) error {
	if (req.Name != "" && req.Name != sa.Name) || (req.Namespace != "" && req.Namespace != sa.Namespace) {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s/%s) does not match the name on the URL (%s/%s)",
			req.Namespace, req.Name, sa.Namespace, sa.Name))
	}
	req.Name, req.Namespace = sa.Name, sa.Namespace
	req.UID, req.CreationTimestamp = uuid.NewUUID(), metav1.NewTime(now.Truncate(time.Second))
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = slices.Clone(t.audiences)
	}
	if req.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultTokenSeconds)
		req.Spec.ExpirationSeconds = &seconds
	}
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

// bind checks the object that a token shall end with.
func bind(s store.Snapshot, sa *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) (*boundClaims, error) {
	bound := &boundClaims{}
	if ref == nil {
		return bound, nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	if gvk.Group != "" || gvk.Version != "v1" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk.String()))
	}
	get := func(resource, namespace string) (store.Object, error) {
		item := s.Get(store.Key{Resource: resource, Namespace: namespace, Name: ref.Name})
		if item == nil {
			return nil, apierrors.NewNotFound(corev1.Resource(resource), ref.Name)
		}
		return item.Object, sameUID(gvk.Kind, ref, item.Object.GetUID())
	}
	switch gvk.Kind {
	case "Pod":
		obj, err := get("pods", sa.Namespace)
		if err != nil {
			return nil, err
		}
		pod := obj.(*corev1.Pod)
		if pod.Spec.ServiceAccountName != sa.Name {
			return nil, apierrors.NewBadRequest(fmt.Sprintf(
				"cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", sa.Name))
		}
		bound.Pod = refOf(pod)
		if pod.Spec.NodeName != "" {
			bound.Node = &boundRef{Name: pod.Spec.NodeName}
			if node := s.Get(store.Key{Resource: "nodes", Name: pod.Spec.NodeName}); node != nil {
				bound.Node.UID = string(node.Object.GetUID())
			}
		}
	case "Node":
		obj, err := get("nodes", "")
		if err != nil {
			return nil, err
		}
		bound.Node = refOf(obj)
	case "Secret":
		obj, err := get("secrets", sa.Namespace)
		if err != nil {
			return nil, err
		}
		bound.Secret = refOf(obj)
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk.String()))
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
