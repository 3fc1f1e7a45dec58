package apiserver

import (
	"context"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/apiserver/wire"
	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// Local carries the requests of one user inside the process: the same authorisation, defaults, validation and admission as
// over HTTP, without a codec or a socket. Objects handed in belong to it; objects returned are shared and must not be
// changed. Errors are Status errors. Safe for concurrent use.
type Local struct {
	s       *Server
	user    *auth.User
	manager string
}

// Client returns the transport of a user. It is the server's side of client.Transport.
func (s *Server) Client(u *auth.User) *Local {
	name := u.Name
	if i := strings.LastIndexByte(name, ':'); i >= 0 {
		name = name[i+1:] // controllers are service accounts, system:serviceaccount:kube-system:NAME
	}
	return &Local{s: s, user: u, manager: name}
}

// Snapshot is the newest state of everything.
func (l *Local) Snapshot() store.Snapshot { return l.s.Store.Snapshot() }

// Watch is a cursor over a resource's events.
func (l *Local) Watch(resource string, after int64) (*store.Watch, error) {
	return l.s.Store.Watch(resource, after)
}

// Mirrors is true: the process holds every resource.
func (l *Local) Mirrors(string) bool { return true }

// write starts a write in the storage version, if the user may do it.
func (l *Local) write(k *kinds.Kind, verb, subresource, namespace, name string) (*write, error) {
	if !k.Namespaced {
		namespace = ""
	}
	w := &write{
		user: l.user, kind: k, served: localVersion(k), namespace: namespace, name: name, manager: l.manager, warn: func(string) {},
	}
	if subresource != "" {
		if w.sub = k.Subresource(subresource); w.sub == nil {
			return nil, pathUnknown()
		}
	}
	return w, l.authorise(w, verb)
}

// localVersion is the version in which components speak of a kind: the stored one, or the first of a row without.
func localVersion(k *kinds.Kind) *kinds.Version {
	if k.StoredAs == nil {
		return k.Storage()
	}
	return &k.Versions[0]
}

func (l *Local) authorise(w *write, verb string) error {
	a := auth.Attributes{
		User: l.user, Verb: verb, IsResource: true, Group: w.kind.Group, Version: w.served.Name,
		Resource: w.kind.Resource, Namespace: w.namespace, Name: w.name,
	}
	if w.sub != nil {
		a.Subresource = w.sub.Name
	}
	if isNamespace(w.kind) {
		a.Namespace = w.name
	}
	if verb == "create" && w.sub == nil {
		a.Name = ""
	}
	if ok, reason := l.s.Authorizer.Authorize(&a); !ok {
		return auth.Forbidden(&a, reason)
	}
	return nil
}

// Get reads one object.
func (l *Local) Get(_ context.Context, k *kinds.Kind, namespace, name string) (kinds.Object, error) {
	w, err := l.write(k, "get", "", namespace, name)
	if err != nil {
		return nil, err
	}
	item, err := l.s.read(k, w.namespace, name)
	if err != nil {
		return nil, err
	}
	return item.Object, nil
}

// Create stores a new object.
func (l *Local) Create(ctx context.Context, k *kinds.Kind, obj kinds.Object, opts metav1.CreateOptions) (kinds.Object, error) {
	w, err := l.write(k, "create", "", obj.GetNamespace(), obj.GetName())
	if err != nil {
		return nil, err
	}
	w.options(opts.FieldManager, opts.DryRun)
	if obj, err = toStorage(k, w.served, obj); err != nil {
		return nil, err
	}
	if k.Virtual {
		return obj, l.s.review(ctx, k, l.user, obj)
	}
	return objectOf(l.s.create(auth.WithUser(ctx, l.user), w, obj))
}

func (w *write) options(manager string, dry []string) {
	if manager != "" {
		w.manager = manager
	}
	w.dryRun = dryRun(dry)
}

func objectOf(item *store.Item, err error) (kinds.Object, error) {
	if err != nil {
		return nil, err
	}
	return item.Object, nil
}

// Update replaces an object, or a part of it.
func (l *Local) Update(ctx context.Context, k *kinds.Kind, subresource string, obj kinds.Object, opts metav1.UpdateOptions) (kinds.Object, error) {
	w, err := l.write(k, "update", subresource, obj.GetNamespace(), obj.GetName())
	if err != nil {
		return nil, err
	}
	if sc, ok := obj.(*autoscalingv1.Scale); ok && k.Scale != nil {
		return l.updateScale(ctx, w, sc, opts)
	}
	if w.sub != nil && w.sub.PrepareUpdate == nil {
		return nil, methodNotAllowed()
	}
	w.options(opts.FieldManager, opts.DryRun)
	if obj, err = toStorage(k, w.served, obj); err != nil {
		return nil, err
	}
	item, _, err := l.s.update(auth.WithUser(ctx, l.user), w, obj)
	return objectOf(item, err)
}

func (l *Local) updateScale(ctx context.Context, w *write, sc *autoscalingv1.Scale, opts metav1.UpdateOptions) (kinds.Object, error) {
	w.options(opts.FieldManager, opts.DryRun)
	item, err := l.s.setScale(auth.WithUser(ctx, l.user), w, func(*store.Item) (*autoscalingv1.Scale, error) { return sc, nil })
	if err != nil {
		return nil, err
	}
	return scaleOf(w.kind, item.Object), nil
}

// Patch changes an object, or a part of it, by any of the API's patch types.
func (l *Local) Patch(ctx context.Context, k *kinds.Kind, namespace, name, subresource string, pt types.PatchType, data []byte, opts metav1.PatchOptions) (kinds.Object, error) {
	w, err := l.write(k, "patch", subresource, namespace, name)
	if err != nil {
		return nil, err
	}
	if w.sub != nil && w.sub.PrepareUpdate == nil {
		return nil, methodNotAllowed()
	}
	w.options(opts.FieldManager, opts.DryRun)
	ctx = auth.WithUser(ctx, l.user)
	p := &wire.Patch{Scheme: l.s.Table.Scheme(), Type: pt, Data: data, Directive: opts.FieldValidation, Warn: w.warn}
	if pt == types.ApplyYAMLPatchType {
		item, _, err := l.s.apply(ctx, w, p, opts.Force != nil && *opts.Force)
		return objectOf(item, err)
	}
	return objectOf(l.s.modify(ctx, w, patchChange(p, w)))
}

// Delete deletes an object, or begins to.
func (l *Local) Delete(ctx context.Context, k *kinds.Kind, namespace, name string, opts metav1.DeleteOptions) error {
	w, err := l.write(k, "delete", "", namespace, name)
	if err != nil {
		return err
	}
	w.dryRun = dryRun(opts.DryRun)
	_, _, err = l.s.delete(auth.WithUser(ctx, l.user), w, &opts)
	return err
}

// Post sends a body to a subresource with behaviour of its own: eviction, token or binding.
func (l *Local) Post(ctx context.Context, k *kinds.Kind, namespace, name, subresource string, body kinds.Object) (kinds.Object, error) {
	w, err := l.write(k, "create", subresource, namespace, name)
	if err != nil {
		return nil, err
	}
	ctx = auth.WithUser(ctx, l.user)
	switch b := body.(type) {
	case *policyv1.Eviction:
		return b, l.s.evict(ctx, w, b)
	case *authenticationv1.TokenRequest:
		if l.s.Tokens == nil {
			return nil, pathUnknown()
		}
		return l.s.requestToken(ctx, w, b)
	case *corev1.Binding:
		b.Namespace, b.Name = namespace, name
		return b, l.s.bindAll(ctx, w, []*corev1.Binding{b})[0]
	}
	return nil, methodNotAllowed()
}

// Bind binds pods to nodes, in one commit where it can; it returns one error, or nil, for each binding.
func (l *Local) Bind(ctx context.Context, bindings []*corev1.Binding) []error {
	pods := l.s.Table.Resource(corev1.Resource("pods"))
	errs := make([]error, len(bindings))
	var w *write
	var allowed []*corev1.Binding
	var at []int
	for i, b := range bindings {
		one, err := l.write(pods, "create", "binding", b.Namespace, b.Name)
		if err != nil {
			errs[i] = err
			continue
		}
		w = one
		allowed, at = append(allowed, b), append(at, i)
	}
	if w == nil {
		return errs
	}
	for j, err := range l.s.bindAll(auth.WithUser(ctx, l.user), w, allowed) {
		errs[at[j]] = err
	}
	return errs
}
