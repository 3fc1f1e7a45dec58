package auth

import (
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/auth/pki"
	"github.com/kebernetes/kebernetes/store"
)

// world is a store and everything of this package over it.
type world struct {
	t             testing.TB
	store         *store.Memory
	authority     *pki.Authority
	policy        *Policy
	tokens        *Tokens
	authenticator *Authenticator
}

func newWorld(t testing.TB, objects ...store.Object) *world {
	t.Helper()
	authority, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: store.NewMemory(1), authority: authority}
	w.policy = NewPolicy(w.store)
	w.tokens, err = NewTokens(TokenOptions{Reader: w.store, Issuer: "https://kubernetes.default.svc", Keys: authority.SigningKeys()})
	if err != nil {
		t.Fatal(err)
	}
	w.authenticator = NewAuthenticator(AuthenticatorOptions{
		Reader: w.store, Roots: authority.Pool(), Tokens: w.tokens, Authorizer: w.policy,
		Target: func(r *http.Request) Attributes { return *can(nil, r.Method+" pods ns") },
	})
	w.put(objects...)
	return w
}

func (w *world) put(objects ...store.Object) {
	for _, o := range objects {
		w.store.Mirror(store.Put, keyOfObject(o), o, 1)
	}
}

func (w *world) remove(objects ...store.Object) {
	for _, o := range objects {
		w.store.Mirror(store.Delete, keyOfObject(o), o, 1)
	}
}

func keyOfObject(o store.Object) store.Key {
	resource := ""
	switch o.(type) {
	case *rbacv1.ClusterRole:
		resource = resourceClusterRoles
	case *rbacv1.Role:
		resource = resourceRoles
	case *rbacv1.ClusterRoleBinding:
		resource = resourceClusterRoleBindings
	case *rbacv1.RoleBinding:
		resource = resourceRoleBindings
	case *corev1.Pod:
		resource = "pods"
	case *corev1.Secret:
		resource = "secrets"
	case *corev1.ServiceAccount:
		resource = "serviceaccounts"
	case *corev1.Node:
		resource = "nodes"
	case *corev1.PersistentVolumeClaim:
		resource = "persistentvolumeclaims"
	case *corev1.PersistentVolume:
		resource = "persistentvolumes"
	case *networkingv1.Ingress:
		resource = resourceIngresses
	case *networkingv1.IngressClass:
		resource = resourceIngressClasses
	}
	return store.Key{Resource: resource, Namespace: o.GetNamespace(), Name: o.GetName()}
}

func bootstrapObjects() []store.Object {
	var out []store.Object
	for _, o := range BootstrapObjects() {
		out = append(out, o)
	}
	return out
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "uid-of-" + types.UID(name)}
}

func account(namespace, name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: meta(namespace, name)}
}

func pod(name, node, account string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: meta("ns", name), Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: account}}
}

// can asks in one line: "get pods/log ns/name", with "resource.group" and "*" for no namespace or name; a path starts with a slash.
func can(u *User, question string) *Attributes {
	f := strings.Fields(question)
	a := &Attributes{User: u, Verb: f[0]}
	if strings.HasPrefix(f[1], "/") {
		a.Path = f[1]
		return a
	}
	a.IsResource = true
	a.Resource, a.Subresource, _ = strings.Cut(f[1], "/")
	a.Resource, a.Group, _ = strings.Cut(a.Resource, ".")
	if len(f) > 2 {
		a.Namespace, a.Name, _ = strings.Cut(f[2], "/")
	}
	if len(f) > 3 {
		a.FieldSelector = fields.ParseSelectorOrDie(f[3])
	}
	return a
}
