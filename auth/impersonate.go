package auth

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Headers of impersonation (https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/).
const (
	impersonateUser        = authenticationv1.ImpersonateUserHeader
	impersonateGroup       = authenticationv1.ImpersonateGroupHeader
	impersonateUID         = authenticationv1.ImpersonateUIDHeader
	impersonateExtraPrefix = authenticationv1.ImpersonateUserExtraHeaderPrefix
)

// impersonate returns the user that u asks to act as by the headers of a request, and u itself when it asks for nothing.
// Errors are API Status errors: 400 for headers that make no sense, 403 when u may not do this.
func (a *Authenticator) impersonate(u *User, r *http.Request) (*User, error) {
	wanted, err := takeImpersonation(r.Header)
	if err != nil {
		return nil, err
	}
	if wanted == nil {
		return u, nil
	}
	refused := impersonation(u, wanted, "impersonate", "").check(a.Authorizer)
	if refused != nil {
		if target := a.Target(r); !constrained(a.Authorizer, u, wanted, &target) {
			return nil, refused
		}
	}
	return completeImpersonated(wanted), nil
}

// takeImpersonation reads and removes the headers; nil when there are none.
func takeImpersonation(h http.Header) (*User, error) {
	var wanted *User
	for name, values := range h {
		if !strings.HasPrefix(name, "Impersonate-") {
			continue
		}
		if wanted == nil {
			wanted = &User{}
		}
		switch key, isExtra := strings.CutPrefix(name, impersonateExtraPrefix); {
		case name == impersonateUser:
			wanted.Name = values[0]
		case name == impersonateGroup:
			wanted.Groups = values
		case name == impersonateUID:
			wanted.UID = values[0]
		case isExtra:
			if wanted.Extra == nil {
				wanted.Extra = map[string][]string{}
			}
			key = extraKey(key)
			wanted.Extra[key] = append(wanted.Extra[key], values...)
		}
		delete(h, name)
	}
	if wanted == nil || (wanted.Name == "" && wanted.UID == "" && len(wanted.Groups)+len(wanted.Extra) == 0) {
		return nil, nil
	}
	if wanted.Name == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf(
			"requested &user.DefaultInfo{Name:%q, UID:%q, Groups:%#v, Extra:%#v} without impersonating a user name",
			wanted.Name, wanted.UID, wanted.Groups, wanted.Extra))
	}
	return wanted, nil
}

// extraKey is in lower case, as header names have no case, and may be escaped as in URLs.
func extraKey(header string) string {
	key := strings.ToLower(header)
	if unescaped, err := url.PathUnescape(key); err == nil {
		return strings.ToLower(unescaped)
	}
	return key
}

// completeImpersonated adds the groups that the user would have had after logging in.
func completeImpersonated(wanted *User) *User {
	namespace, _, isServiceAccount := SplitServiceAccount(wanted.Name)
	if isServiceAccount && len(wanted.Groups) == 0 {
		wanted.Groups = ServiceAccountGroups(namespace)
	}
	switch {
	case slices.Contains(wanted.Groups, GroupAuthenticated) || slices.Contains(wanted.Groups, GroupUnauthenticated):
	case wanted.Name == Anonymous:
		wanted.Groups = append(wanted.Groups, GroupUnauthenticated)
	default:
		wanted.Groups = append(wanted.Groups, GroupAuthenticated)
	}
	return wanted
}

// questions are what must be allowed for an impersonation, in order.
type questions []*Attributes

// impersonation lists what u must be allowed to impersonate. accountGroup is the API group in which users and service accounts are asked for: "" for
// the classic verb.
func impersonation(u, wanted *User, verb, group string) questions {
	ask := func(group, resource, subresource, namespace, name string) *Attributes {
		return &Attributes{User: u, Verb: verb, IsResource: true, Group: group, Version: "v1",
			Resource: resource, Subresource: subresource, Namespace: namespace, Name: name}
	}
	var out questions
	if namespace, name, ok := SplitServiceAccount(wanted.Name); ok {
		out = append(out, ask(group, "serviceaccounts", "", namespace, name))
	} else {
		out = append(out, ask(group, "users", "", "", wanted.Name))
	}
	for _, g := range wanted.Groups {
		out = append(out, ask(group, "groups", "", "", g))
	}
	keys := make([]string, 0, len(wanted.Extra))
	for key := range wanted.Extra {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		for _, value := range wanted.Extra[key] {
			out = append(out, ask(authenticationv1.GroupName, "userextras", key, "", value))
		}
	}
	if wanted.UID != "" {
		out = append(out, ask(authenticationv1.GroupName, "uids", "", "", wanted.UID))
	}
	return out
}

// check returns the 403 of the first question that is answered with no.
func (q questions) check(authorizer Authorizer) error {
	for _, a := range q {
		if allowed, reason := authorizer.Authorize(a); !allowed {
			return Forbidden(a, reason)
		}
	}
	return nil
}

// constrained is impersonation for some requests only (KEP-5284): u needs the right to be that user, by a verb that depends on what kind
// of user it is, and the right to do what the request wants on behalf of such users.
func constrained(authorizer Authorizer, u, wanted *User, target *Attributes) bool {
	mode, who := "user-info", questions(nil)
	_, _, isServiceAccount := SplitServiceAccount(wanted.Name)
	node, isNode := strings.CutPrefix(wanted.Name, NodeUserPrefix)
	bare := len(wanted.Groups)+len(wanted.Extra) == 0 && wanted.UID == ""
	switch {
	case isServiceAccount && bare:
		mode = "serviceaccount"
	case isServiceAccount:
		return false
	case isNode && bare:
		mode = "arbitrary-node"
		if slices.Equal(u.Extra[ExtraNodeName], []string{node}) {
			associated := &Attributes{User: u, Verb: "impersonate:associated-node", IsResource: true,
				Group: authenticationv1.GroupName, Version: "v1", Resource: "nodes", Name: "*"}
			if (questions{associated}).check(authorizer) == nil && onBehalf(authorizer, u, "associated-node", target) {
				wanted.Groups = []string{GroupNodes}
				return true
			}
		}
		who = questions{{User: u, Verb: "impersonate:arbitrary-node", IsResource: true,
			Group: authenticationv1.GroupName, Version: "v1", Resource: "nodes", Name: node}}
	case isNode || slices.Contains(wanted.Groups, GroupMasters):
		return false
	}
	if who == nil {
		who = impersonation(u, wanted, "impersonate:"+mode, authenticationv1.GroupName)
	}
	if who.check(authorizer) != nil || !onBehalf(authorizer, u, mode, target) {
		return false
	}
	if isNode {
		wanted.Groups = []string{GroupNodes}
	}
	return true
}

func onBehalf(authorizer Authorizer, u *User, mode string, target *Attributes) bool {
	a := *target
	a.User, a.Verb = u, "impersonate-on:"+mode+":"+target.Verb
	allowed, _ := authorizer.Authorize(&a)
	return allowed
}
