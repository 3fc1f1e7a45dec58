package auth

import (
	"cmp"
	"slices"
	"strconv"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/kebernetes/kebernetes/store"
)

// bindings indexes RoleBindings and ClusterRoleBindings by whom they apply to.
type bindings struct {
	// cluster and namespaced hold the grants of each subject ordered by the binding's name.
	cluster, namespaced map[subjectKey][]*grant
}

// subjectKey is a user or a group, in a namespace ("" for cluster-wide bindings). Service accounts are users.
type subjectKey struct {
	namespace string
	group     bool
	name      string
}

// grant is one subject of one binding.
type grant struct {
	namespace, binding string
	role               rbacv1.RoleRef
	subject            rbacv1.Subject
}

// reason is upstream's text for an allowed request. It is made for every request of every component, so without fmt.
func (g *grant) reason() string {
	kind, binding, to := "ClusterRoleBinding ", g.binding, g.subject.Name
	if g.namespace != "" {
		kind, binding = "RoleBinding ", binding+"/"+g.namespace
	}
	if g.subject.Kind == rbacv1.ServiceAccountKind {
		to += "/" + g.subject.Namespace
	}
	return "RBAC: allowed by " + kind + strconv.Quote(binding) + " of " + g.role.Kind + " " + strconv.Quote(g.role.Name) +
		" to " + g.subject.Kind + " " + strconv.Quote(to)
}

func (b *bindings) reset(cluster bool) {
	if cluster {
		b.cluster = map[subjectKey][]*grant{}
	} else {
		b.namespaced = map[subjectKey][]*grant{}
	}
}

func (b *bindings) apply(old, new store.Object) {
	b.change(old, func(index map[subjectKey][]*grant, key subjectKey, g *grant) {
		list := slices.DeleteFunc(slices.Clone(index[key]), func(h *grant) bool { return h.binding == g.binding })
		if len(list) == 0 {
			delete(index, key)
		} else {
			index[key] = list
		}
	})
	b.change(new, func(index map[subjectKey][]*grant, key subjectKey, g *grant) {
		list := index[key]
		at, found := slices.BinarySearchFunc(list, g.binding, func(h *grant, name string) int { return cmp.Compare(h.binding, name) })
		if !found { // the same subject twice in one binding counts once
			index[key] = slices.Insert(list, at, g)
		}
	})
}

// change calls f for every subject of a binding.
func (b *bindings) change(obj store.Object, f func(map[subjectKey][]*grant, subjectKey, *grant)) {
	var subjects []rbacv1.Subject
	var role rbacv1.RoleRef
	index := b.namespaced
	switch o := obj.(type) {
	case *rbacv1.ClusterRoleBinding:
		subjects, role, index = o.Subjects, o.RoleRef, b.cluster
	case *rbacv1.RoleBinding:
		subjects, role = o.Subjects, o.RoleRef
	default:
		return
	}
	for _, s := range subjects {
		if key, ok := keyOf(s, obj.GetNamespace()); ok {
			f(index, key, &grant{namespace: obj.GetNamespace(), binding: obj.GetName(), role: role, subject: s})
		}
	}
}

func keyOf(s rbacv1.Subject, namespace string) (subjectKey, bool) {
	switch s.Kind {
	case rbacv1.UserKind:
		return subjectKey{namespace, false, s.Name}, true
	case rbacv1.GroupKind:
		return subjectKey{namespace, true, s.Name}, true
	case rbacv1.ServiceAccountKind:
		of := cmp.Or(s.Namespace, namespace)
		return subjectKey{namespace, false, ServiceAccountPrefix + of + ":" + s.Name}, of != ""
	default:
		return subjectKey{}, false
	}
}

// each calls f for the grants to u in a namespace, or cluster-wide for "", until it returns false; it returns whether f always
// returned true.
func (b *bindings) each(namespace string, u *User, f func(*grant) bool) bool {
	index := b.namespaced
	if namespace == "" {
		index = b.cluster
	}
	for _, g := range index[subjectKey{namespace, false, u.Name}] {
		if !f(g) {
			return false
		}
	}
	for _, group := range u.Groups {
		for _, g := range index[subjectKey{namespace, true, group}] {
			if !f(g) {
				return false
			}
		}
	}
	return true
}
