// Package authentication holds the kinds of authentication.k8s.io, which the API server answers and never stores. Only
// kinds/builtin imports it.
package authentication

import (
	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/kebernetes/kebernetes/kinds"
)

// TokenReview is the row of token reviews: whose token is this?
func TokenReview() *kinds.Kind {
	return &kinds.Kind{
		Group:    authenticationv1.GroupName,
		Kind:     "TokenReview",
		Resource: "tokenreviews",
		Virtual:  true,
		Verbs:    []string{"create"},
		Versions: []kinds.Version{{Name: "v1", New: func() kinds.Object { return new(authenticationv1.TokenReview) }, Storage: true}},
	}
}

// SelfSubjectReview is the row of self subject reviews: who am I?
func SelfSubjectReview() *kinds.Kind {
	return &kinds.Kind{
		Group:    authenticationv1.GroupName,
		Kind:     "SelfSubjectReview",
		Resource: "selfsubjectreviews",
		Virtual:  true,
		Verbs:    []string{"create"},
		Versions: []kinds.Version{{Name: "v1", New: func() kinds.Object { return new(authenticationv1.SelfSubjectReview) }, Storage: true}},
	}
}
