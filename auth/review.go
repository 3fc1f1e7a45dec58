package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// Review says for a TokenReview whom a token stands for, and which of the audiences it is for (the API server's own when none are given).
// The text of an error is meant for the answer.
func (a *Authenticator) Review(_ context.Context, token string, audiences []string) (*User, []string, error) {
	user, matched, err := a.authenticateToken(token, audiences)
	if err != nil && !errors.Is(err, errInvalidBearer) {
		err = fmt.Errorf("[%w, %w]", errInvalidBearer, err)
	}
	return user, matched, err
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

// ReviewedUser is the user that a SubjectAccessReview or LocalSubjectAccessReview asks about.
func ReviewedUser(spec *authorizationv1.SubjectAccessReviewSpec) *User {
	u := &User{Name: spec.User, UID: spec.UID, Groups: spec.Groups, Extra: map[string][]string{}}
	for key, values := range spec.Extra {
		u.Extra[key] = values
	}
	return u
}

// ReviewedAttributes is the request that an access review asks about; exactly one of resource and other is not nil.
func ReviewedAttributes(u *User, resource *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes) *Attributes {
	if resource == nil {
		return &Attributes{User: u, Verb: other.Verb, Path: other.Path}
	}
	a := &Attributes{
		User: u, Verb: resource.Verb, IsResource: true, Group: resource.Group, Version: resource.Version,
		Resource: resource.Resource, Subresource: resource.Subresource, Namespace: resource.Namespace, Name: resource.Name,
	}
	if resource.FieldSelector != nil {
		a.FieldSelector = reviewedSelector(resource.FieldSelector)
	}
	return a
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
