package auth

import (
	"errors"
	"maps"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ReviewToken fills in the status of a TokenReview: whom a token stands for.
func (a *Authenticator) ReviewToken(review *authenticationv1.TokenReview) error {
	if review.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	var audiences []string
	if len(review.Spec.Audiences) > 0 {
		audiences = review.Spec.Audiences
	}
	user, matched, err := a.authenticateToken(review.Spec.Token, audiences)
	if err != nil {
		text := err.Error()
		if !errors.Is(err, errInvalidBearer) {
			text = "[" + errInvalidBearer.Error() + ", " + text + "]"
		}
		review.Status = authenticationv1.TokenReviewStatus{Error: text}
		return nil
	}
	review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: UserInfo(user), Audiences: matched}
	return nil
}

// UserInfo is a user as the API shows it: in TokenReview, SelfSubjectReview and admission reviews.
func UserInfo(u *User) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: slices.Clone(u.Groups)}
	if len(u.Extra) > 0 {
		info.Extra = make(map[string]authenticationv1.ExtraValue, len(u.Extra))
		for key, values := range u.Extra {
			info.Extra[key] = slices.Clone(values)
		}
	}
	return info
}

// ReviewAccess fills in the status of a SubjectAccessReview.
func ReviewAccess(authorizer Authorizer, review *authorizationv1.SubjectAccessReview) error {
	errs := validateAccess(field.NewPath("spec"), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	errs = append(errs, validateSubject(&review.Spec)...)
	if len(errs) > 0 {
		return invalidReview(errs)
	}
	review.Status = decide(authorizer, subject(&review.Spec), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	return nil
}

// ReviewLocalAccess fills in the status of a LocalSubjectAccessReview in a namespace.
func ReviewLocalAccess(authorizer Authorizer, namespace string, review *authorizationv1.LocalSubjectAccessReview) error {
	spec, path := &review.Spec, field.NewPath("spec")
	errs := validateAccess(path, spec.ResourceAttributes, spec.NonResourceAttributes)
	errs = append(errs, validateSubject(spec)...)
	if spec.ResourceAttributes != nil && spec.ResourceAttributes.Namespace != namespace {
		errs = append(errs, field.Invalid(path.Child("resourceAttributes", "namespace"), spec.ResourceAttributes.Namespace, "must match metadata.namespace"))
	}
	if spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(path.Child("nonResourceAttributes"), internalNonResource(spec.NonResourceAttributes), "disallowed on this kind of request"))
	}
	if len(errs) > 0 {
		return invalidReview(errs)
	}
	review.Status = decide(authorizer, subject(spec), spec.ResourceAttributes, nil)
	return nil
}

// ReviewSelfAccess fills in the status of a SelfSubjectAccessReview.
func ReviewSelfAccess(authorizer Authorizer, u *User, review *authorizationv1.SelfSubjectAccessReview) error {
	if errs := validateAccess(field.NewPath("spec"), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes); len(errs) > 0 {
		return invalidReview(errs)
	}
	review.Status = decide(authorizer, u, review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	return nil
}

// ReviewRules fills in the status of a SelfSubjectRulesReview; the answer does not repeat the spec.
func ReviewRules(authorizer Authorizer, u *User, review *authorizationv1.SelfSubjectRulesReview) error {
	if review.Spec.Namespace == "" {
		return apierrors.NewBadRequest("no namespace on request")
	}
	resource, nonResource, incomplete := authorizer.Rules(u, review.Spec.Namespace)
	review.Spec = authorizationv1.SelfSubjectRulesReviewSpec{}
	status := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    []authorizationv1.ResourceRule{},
		NonResourceRules: []authorizationv1.NonResourceRule{},
	}
	for _, r := range resource {
		status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule(r))
	}
	for _, r := range nonResource {
		status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule(r))
	}
	if incomplete != nil {
		status.Incomplete, status.EvaluationError = true, incomplete.Error()
	}
	review.Status = status
	return nil
}

func invalidReview(errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: authorizationv1.GroupName}, "", errs)
}

// nonResource is how upstream prints the attributes in errors.
type nonResource struct{ Path, Verb string }

func internalNonResource(a *authorizationv1.NonResourceAttributes) *nonResource {
	return &nonResource{a.Path, a.Verb}
}

func validateAccess(path *field.Path, resource *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes) field.ErrorList {
	const text = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
	switch {
	case resource != nil && other != nil:
		return field.ErrorList{field.Invalid(path, internalNonResource(other), text)}
	case resource == nil && other == nil:
		return field.ErrorList{field.Invalid(path, (*nonResource)(nil), text)}
	}
	return nil
}

func validateSubject(spec *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	if spec.User == "" && len(spec.Groups) == 0 {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "user"), spec.User, "at least one of user or group must be specified")}
	}
	return nil
}

func subject(spec *authorizationv1.SubjectAccessReviewSpec) *User {
	u := &User{Name: spec.User, UID: spec.UID, Groups: spec.Groups, Extra: map[string][]string{}}
	for _, key := range slices.Collect(maps.Keys(spec.Extra)) {
		u.Extra[key] = spec.Extra[key]
	}
	return u
}

func decide(authorizer Authorizer, u *User, resource *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	a := &Attributes{User: u}
	if resource != nil {
		a.IsResource, a.Verb = true, resource.Verb
		a.Group, a.Version = resource.Group, resource.Version
		a.Resource, a.Subresource = resource.Resource, resource.Subresource
		a.Namespace, a.Name = resource.Namespace, resource.Name
		if resource.FieldSelector != nil {
			a.FieldSelector = reviewedSelector(resource.FieldSelector)
		}
	} else {
		a.Verb, a.Path = other.Verb, other.Path
	}
	allowed, reason := authorizer.Authorize(a)
	return authorizationv1.SubjectAccessReviewStatus{Allowed: allowed, Reason: reason}
}

// reviewedSelector keeps what an authorizer can use: exact matches. Leaving others out only makes a request look wider than it is.
func reviewedSelector(s *authorizationv1.FieldSelectorAttributes) fields.Selector {
	if s.RawSelector != "" {
		parsed, err := fields.ParseSelector(s.RawSelector)
		if err != nil {
			return nil
		}
		return parsed
	}
	var terms []fields.Selector
	for _, r := range s.Requirements {
		if r.Operator == "In" && len(r.Values) == 1 {
			terms = append(terms, fields.OneTermEqualSelector(r.Key, r.Values[0]))
		}
	}
	return fields.AndSelectors(terms...)
}
