package auth

import (
	"errors"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/store"
)

// Policy is the Authorizer of a cluster: system:masters may do everything, then the node rule, then RBAC. Safe for
// concurrent use.
type Policy struct {
	reader store.Reader

	mu       sync.RWMutex
	bindings bindings
	pods     podsByNode
	named    namedCertificates
	follow   [4]*follower

	nodeRules []rbacv1.PolicyRule
}

var _ Authorizer = (*Policy)(nil)

// The places of Policy.follow.
const (
	followClusterBindings = iota
	followBindings
	followPods
	followIngresses
)

// NewPolicy returns the authorizer over what the store holds.
func NewPolicy(reader store.Reader) *Policy {
	p := &Policy{reader: reader, nodeRules: bootstrapClusterRole("system:node")}
	p.bindings.reset(true)
	p.bindings.reset(false)
	p.follow = [4]*follower{
		{reader: reader, resource: resourceClusterRoleBindings, reset: func() { p.bindings.reset(true) }, apply: p.bindings.apply},
		{reader: reader, resource: resourceRoleBindings, reset: func() { p.bindings.reset(false) }, apply: p.bindings.apply},
		{reader: reader, resource: "pods", reset: p.pods.reset, apply: p.pods.apply},
		{reader: reader, resource: resourceIngresses, reset: p.named.reset, apply: p.named.apply},
	}
	return p
}

// Authorize implements Authorizer.
func (p *Policy) Authorize(a *Attributes) (bool, string) {
	if slices.Contains(a.User.Groups, GroupMasters) {
		return true, ""
	}
	nodeReason := ""
	if node, isNode := nodeOf(a.User); isNode {
		allowed, reason := p.authorizeNode(node, a)
		if allowed {
			return true, ""
		}
		if reason != "" {
			nodeReason = "node: " + reason
		}
	}
	allowed, reason := p.authorizeRBAC(a)
	if allowed {
		return true, reason
	}
	return false, joinReasons(nodeReason, reason)
}

func joinReasons(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "\n" + b
}

// Rules implements Authorizer.
func (p *Policy) Rules(u *User, namespace string) ([]ResourceRule, []NonResourceRule, error) {
	rules, err := p.PolicyRules(u, namespace)
	var resource []ResourceRule
	var nonResource []NonResourceRule
	for _, r := range rules {
		if len(r.Resources) > 0 {
			resource = append(resource, ResourceRule{r.Verbs, r.APIGroups, r.Resources, r.ResourceNames})
		}
		if len(r.NonResourceURLs) > 0 {
			nonResource = append(nonResource, NonResourceRule{r.Verbs, r.NonResourceURLs})
		}
	}
	if _, isNode := nodeOf(u); isNode {
		err = errors.Join(err, errors.New("node authorizer does not support user rule resolution"))
	}
	return resource, nonResource, err
}

// PolicyRules returns all rules that RBAC gives a user in a namespace ("" for the cluster), and what could not be resolved.
// They must not be changed.
func (p *Policy) PolicyRules(u *User, namespace string) ([]rbacv1.PolicyRule, error) {
	var out []rbacv1.PolicyRule
	type binding struct{ namespace, name string }
	seen := map[binding]bool{} // one binding may name a user and its group
	err := p.visit(u, namespace, func(g *grant, rules []rbacv1.PolicyRule) bool {
		if by := (binding{g.namespace, g.binding}); !seen[by] {
			seen[by] = true
			out = append(out, rules...)
		}
		return true
	})
	return out, err
}

// RoleRules returns the rules of the role that a binding in a namespace ("" for a ClusterRoleBinding) refers to. The error is
// NotFound.
func (p *Policy) RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	return roleRules(p.reader.Snapshot(), ref.Kind, ref.Name, namespace)
}

const (
	resourceClusterRoleBindings = "clusterrolebindings." + rbacv1.GroupName
	resourceRoleBindings        = "rolebindings." + rbacv1.GroupName
	resourceClusterRoles        = "clusterroles." + rbacv1.GroupName
	resourceRoles               = "roles." + rbacv1.GroupName
)

func roleRules(s store.Snapshot, kind, name, namespace string) ([]rbacv1.PolicyRule, error) {
	if kind == "ClusterRole" {
		item := s.Get(store.Key{Resource: resourceClusterRoles, Name: name})
		if item == nil {
			return nil, apierrors.NewNotFound(schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterrole"}, name)
		}
		return item.Object.(*rbacv1.ClusterRole).Rules, nil
	}
	item := s.Get(store.Key{Resource: resourceRoles, Namespace: namespace, Name: name})
	if item == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: rbacv1.GroupName, Resource: "role"}, name)
	}
	return item.Object.(*rbacv1.Role).Rules, nil
}

// ready makes the indexes of the given followers as new as the store and returns holding the lock for reading.
func (p *Policy) ready(which ...int) {
	p.mu.RLock()
	behind := slices.ContainsFunc(which, func(i int) bool { return p.follow[i].behind() })
	if !behind {
		return
	}
	p.mu.RUnlock()
	p.mu.Lock()
	for _, i := range which {
		p.follow[i].catchUp()
	}
	p.mu.Unlock()
	p.mu.RLock()
}

// visit calls f with the rules of every binding that applies to u in the cluster and, if given, the namespace, until it
// returns false: bindings of the cluster first, those to the user's name before those to groups.
func (p *Policy) visit(u *User, namespace string, f func(g *grant, rules []rbacv1.PolicyRule) bool) error {
	p.ready(followClusterBindings, followBindings)
	defer p.mu.RUnlock()
	snapshot := p.reader.Snapshot()
	var unresolved []error
	for _, ns := range []string{"", namespace} {
		more := p.bindings.each(ns, u, func(g *grant) bool {
			rules, err := roleRules(snapshot, g.role.Kind, g.role.Name, g.namespace)
			if err != nil {
				unresolved = append(unresolved, err)
				return true
			}
			return f(g, rules)
		})
		if !more || namespace == "" {
			break
		}
	}
	return aggregate(unresolved)
}

func (p *Policy) authorizeRBAC(a *Attributes) (bool, string) {
	var by *grant
	err := p.visit(a.User, a.Namespace, func(g *grant, rules []rbacv1.PolicyRule) bool {
		for i := range rules {
			if Allows(&rules[i], a) {
				by = g
				return false
			}
		}
		return true
	})
	switch {
	case by != nil:
		return true, by.reason()
	case err != nil:
		return false, "RBAC: " + err.Error()
	default:
		return false, ""
	}
}

// Allows says whether one rule allows what a describes.
func Allows(rule *rbacv1.PolicyRule, a *Attributes) bool {
	if !has(rule.Verbs, a.Verb) {
		return false
	}
	if !a.IsResource {
		return slices.ContainsFunc(rule.NonResourceURLs, func(url string) bool { return matchURL(url, a.Path) })
	}
	return has(rule.APIGroups, a.Group) &&
		slices.ContainsFunc(rule.Resources, func(r string) bool { return matchResource(r, a.Resource, a.Subresource) }) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.Name))
}

// has says whether a list of a rule names s, or everything.
func has(list []string, s string) bool {
	for _, e := range list {
		if e == s || e == rbacv1.VerbAll {
			return true
		}
	}
	return false
}

// matchResource compares one entry of a rule: "*", "pods", "pods/log" or "*/scale".
func matchResource(entry, resource, subresource string) bool {
	if entry == rbacv1.ResourceAll {
		return true
	}
	name, sub, hasSub := strings.Cut(entry, "/")
	if !hasSub {
		return subresource == "" && name == resource
	}
	return subresource != "" && sub == subresource && (name == "*" || name == resource)
}

func matchURL(entry, path string) bool {
	if prefix, ok := strings.CutSuffix(entry, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return entry == path
}

// aggregate words several errors as upstream does: one as it is, more in brackets, each text once.
func aggregate(errs []error) error {
	var texts []string
	for _, err := range errs {
		if !slices.Contains(texts, err.Error()) {
			texts = append(texts, err.Error())
		}
	}
	switch len(texts) {
	case 0:
		return nil
	case 1:
		return errors.New(texts[0])
	default:
		return errors.New("[" + strings.Join(texts, ", ") + "]")
	}
}
