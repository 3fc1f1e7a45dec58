// Package auth answers two questions: who are you (certificates, tokens, impersonation) and may you (RBAC, the node rule).
// auth/pki holds the certificate authority. apiserver asks the questions; admission, apiserver and daemon may import it.
package auth

import (
	"context"

	"k8s.io/apimachinery/pkg/fields"
)

// User is an authenticated identity. Immutable once made.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}

// Names and groups that upstream gives a meaning (https://kubernetes.io/docs/reference/access-authn-authz/authentication/).
const (
	Anonymous            = "system:anonymous"
	GroupMasters         = "system:masters"
	GroupAuthenticated   = "system:authenticated"
	GroupUnauthenticated = "system:unauthenticated"
	GroupNodes           = "system:nodes"
	GroupServiceAccounts = "system:serviceaccounts"
	NodeUserPrefix       = "system:node:"
	ServiceAccountPrefix = "system:serviceaccount:"
	ControllerNamespace  = "kube-system"
	ExtraPodName         = "authentication.kubernetes.io/pod-name"
	ExtraPodUID          = "authentication.kubernetes.io/pod-uid"
	ExtraNodeName        = "authentication.kubernetes.io/node-name"
	ExtraNodeUID         = "authentication.kubernetes.io/node-uid"
	ExtraCredentialID    = "authentication.kubernetes.io/credential-id"
)

// Controller returns the identity that a built-in controller acts as; the bootstrap roles bind it.
func Controller(name string) *User {
	return &User{
		Name:   ServiceAccountPrefix + ControllerNamespace + ":" + name,
		Groups: []string{GroupServiceAccounts, GroupServiceAccounts + ":" + ControllerNamespace, GroupAuthenticated},
	}
}

// Attributes describe what a request wants to do.
type Attributes struct {
	User *User
	Verb string // "get", "list", …; for other paths the lower-case HTTP method
	// Resource requests fill these; Path stays as it came.
	IsResource  bool
	Group       string
	Version     string
	Resource    string
	Subresource string
	Namespace   string
	Name        string
	// FieldSelector is what a list, watch or deletecollection asks for; nil for none.
	FieldSelector fields.Selector
	// Path is the URL's path, what non-resource rules match.
	Path string
}

// Authorizer says whether a request may go on.
type Authorizer interface {
	// Authorize returns whether it is allowed and why: reason is for the user's eyes and names the rule that allowed it,
	// or what could not be resolved. It reads the shared snapshot only, so it never blocks.
	Authorize(a *Attributes) (allowed bool, reason string)
	// Rules returns all that a user may do in a namespace, for SelfSubjectRulesReview. incomplete says what is missing.
	Rules(u *User, namespace string) (resource []ResourceRule, nonResource []NonResourceRule, incomplete error)
}

// ResourceRule is one allowance on resources, as SelfSubjectRulesReview lists it.
type ResourceRule struct{ Verbs, APIGroups, Resources, ResourceNames []string }

// NonResourceRule is one allowance on URL paths.
type NonResourceRule struct{ Verbs, NonResourceURLs []string }

type userKey struct{}

// WithUser returns a context that carries the user of a request.
func WithUser(ctx context.Context, u *User) context.Context {
	return context.WithValue(ctx, userKey{}, u)
}

// UserFrom returns the user of a request, or nil.
func UserFrom(ctx context.Context) *User {
	u, _ := ctx.Value(userKey{}).(*User)
	return u
}
