package apiserver

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/admission"
	"github.com/kebernetes/kebernetes/apiserver/wire"
	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/meta"
	"github.com/kebernetes/kebernetes/store"
)

// write is one user's wish to change one object: what all writing verbs have in common, whether the request came by HTTP or
// from this process.
type write struct {
	user      *auth.User
	kind      *kinds.Kind
	served    *kinds.Version
	sub       *kinds.Subresource // a part of the object, or nil for the main resource
	namespace string
	name      string
	// manager is recorded in managedFields; empty leaves them alone.
	manager string
	dryRun  bool
	warn    func(string)
	// unlocked skips managed fields: the caller has set them (apply).
	unlocked bool
}

// writeOf is the write that an HTTP request asks for.
func (rq *request) writeOf(manager string, dry []string) *write {
	ns, name := rq.storedName()
	return &write{
		user: rq.user, kind: rq.kind, served: rq.served, sub: rq.sub, namespace: ns, name: name,
		manager: rq.manager(manager), dryRun: dryRun(dry), warn: rq.warn,
	}
}

func (w *write) key() store.Key { return key(w.kind, w.namespace, w.name) }

// admissionRequest is the write as admission sees it.
func (w *write) admissionRequest(op admission.Operation, obj, old kinds.Object) *admission.Request {
	r := &admission.Request{
		Operation: op, Kind: w.kind, Version: w.served.Name, Namespace: w.namespace, Name: w.name,
		Object: obj, Old: old, User: w.user, DryRun: w.dryRun, Warn: w.warn,
	}
	if w.sub != nil {
		r.Subresource = w.sub.Name
	}
	return r
}

// mayCreate asks whether the user of an update may create the object that is not there.
func (s *Server) mayCreate(w *write) error {
	a := auth.Attributes{
		User: w.user, Verb: "create", IsResource: true, Group: w.kind.Group, Version: w.served.Name,
		Resource: w.kind.Resource, Namespace: w.namespace, Name: w.name,
	}
	if ok, reason := s.Authorizer.Authorize(&a); !ok {
		return auth.Forbidden(&a, reason)
	}
	return nil
}

// trackNew records in managedFields who makes an object.
func (s *Server) trackNew(w *write, obj kinds.Object) (kinds.Object, error) {
	if w.manager == "" || w.unlocked {
		return obj, nil
	}
	return s.fields.Created(w.kind, w.served, obj, w.manager, s.now())
}

// trackFields records in managedFields what the write changes. live is the state before.
func (s *Server) trackFields(w *write, live, obj kinds.Object) (kinds.Object, error) {
	if w.manager == "" || w.unlocked {
		return obj, nil
	}
	return s.fields.Updated(w.kind, w.served, w.sub, live, obj, w.manager, s.now())
}

// toStorage brings a decoded object into the form in which it is kept, with its defaults.
func toStorage(k *kinds.Kind, v *kinds.Version, obj kinds.Object) (kinds.Object, error) {
	if v.ToStorage != nil {
		converted, err := v.ToStorage(obj)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		obj = converted
	}
	if _, free := obj.(runtime.Unstructured); !free {
		obj.GetObjectKind().SetGroupVersionKind(noKind)
	}
	if k.Default != nil {
		k.Default(obj)
	}
	return obj, nil
}

// place checks that an object's namespace is the one of the request, and fills it in.
func (w *write) place(obj kinds.Object) error {
	if !w.kind.Namespaced {
		if obj.GetNamespace() != "" {
			return apierrors.NewBadRequest("namespace field is not allowed on cluster-scoped objects; remove it")
		}
		return nil
	}
	switch obj.GetNamespace() {
	case "":
		obj.SetNamespace(w.namespace)
	case w.namespace:
	default:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}

// dedupOwners drops repeated owner references, which some old controllers send.
func dedupOwners(obj kinds.Object, warn func(string)) {
	refs := obj.GetOwnerReferences()
	if len(refs) < 2 {
		return
	}
	seen := map[types.UID]metav1.OwnerReference{}
	var kept []metav1.OwnerReference
	var repeated []string
	for _, r := range refs {
		if first, ok := seen[r.UID]; ok && apiequality.Semantic.DeepEqual(first, r) {
			repeated = append(repeated, string(r.UID))
			continue
		}
		seen[r.UID] = r
		kept = append(kept, r)
	}
	if len(repeated) > 0 {
		obj.SetOwnerReferences(kept)
		warn(fmt.Sprintf(".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: %v", repeated))
	}
}

// change computes the new state of an object from its present one, which it must not change. It is called again when
// another write came between.
type change func(current *store.Item) (kinds.Object, error)

// modify changes one object. When the new state names the resourceVersion that it builds on, a write in between is a
// conflict, else the change is computed anew. The result is the item stored, or the present one when nothing changes.
func (s *Server) modify(ctx context.Context, w *write, f change) (*store.Item, error) {
	k := w.key()
	item := s.Store.Snapshot().Get(k)
	for {
		if item == nil {
			return nil, notFound(w.kind, w.name)
		}
		out, again, err := s.modifyOnce(ctx, w, item, f)
		if !again {
			return out, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		item = out
	}
}

// modifyOnce tries a change on the state given. again is true when another write came between: out is then the newer state,
// or nil when the object is gone.
func (s *Server) modifyOnce(ctx context.Context, w *write, item *store.Item, f change) (out *store.Item, again bool, err error) {
	current := item.Object
	obj, err := f(item)
	if err != nil {
		return nil, false, err
	}
	seen := obj.GetResourceVersion()
	if seen != "" && seen != current.GetResourceVersion() {
		return nil, false, conflict(w.kind, w.name)
	}
	if seen == "" && !w.kind.UnconditionalUpdate && w.sub == nil {
		return nil, false, invalid(w.kind.GroupKind(), w.name, field.ErrorList{
			field.Invalid(field.NewPath("metadata", "resourceVersion"), uint64(0), "must be specified for an update")})
	}
	obj.SetResourceVersion(current.GetResourceVersion())
	if obj, err = s.prepareUpdate(ctx, w, obj, current); err != nil {
		return nil, false, err
	}
	if ended(obj, current, w) {
		return s.remove(ctx, w, item, obj)
	}
	if unchanged(obj, item) {
		return item, false, nil
	}
	release, err := s.addresses.Update(w.kind, w.sub, obj, current, w.dryRun)
	if err != nil {
		return nil, false, err
	}
	defer release()
	if w.dryRun {
		return &store.Item{Key: item.Key, Object: obj, Revision: item.Revision}, false, nil
	}
	res := s.Store.Commit(ctx, store.Write{Key: item.Key, Object: obj, Expect: item.Revision})[0]
	switch {
	case res.Err == nil:
		return res.Item, false, nil
	case errors.Is(res.Err, store.ErrNotFound):
		return nil, true, nil
	case errors.Is(res.Err, store.ErrConflict):
		// Who named a version gets a conflict at the next try, as it is no longer the present one.
		return res.Item, true, nil
	}
	return nil, false, res.Err
}

// prepareUpdate brings an update into its final form: fields tracked, admitted, prepared and valid.
func (s *Server) prepareUpdate(ctx context.Context, w *write, obj, current kinds.Object) (kinds.Object, error) {
	dedupOwners(obj, w.warn)
	obj, err := s.trackFields(w, current, obj)
	if err != nil {
		return nil, err
	}
	ar := w.admissionRequest(admission.Update, obj, current)
	if err := s.Admission.Mutate(ctx, ar); err != nil {
		return nil, err
	}
	obj = ar.Object
	if w.kind.Default != nil {
		w.kind.Default(obj)
	}
	s.keepSystemFields(w, obj, current)
	if errs := w.validateUpdate(obj, current); len(errs) > 0 {
		return nil, invalid(w.kind.GroupKind(), obj.GetName(), errs)
	}
	w.warnings(obj, current)
	ar.Object = obj
	return obj, s.Admission.Validate(ctx, ar)
}

// keepSystemFields carries over what no update may change, runs the kind's own preparation and counts the generation.
func (s *Server) keepSystemFields(w *write, obj, current kinds.Object) {
	obj.SetGeneration(current.GetGeneration())
	prepare := w.kind.PrepareUpdate
	if w.sub != nil {
		prepare = w.sub.PrepareUpdate
	}
	if prepare != nil {
		prepare(obj, current)
	}
	if w.sub != nil && w.sub.Stamp != nil {
		w.sub.Stamp(obj, current, metav1.NewTime(s.now()))
	}
	if obj.GetUID() == "" {
		obj.SetUID(current.GetUID())
	}
	obj.SetCreationTimestamp(current.GetCreationTimestamp())
	if t := current.GetDeletionTimestamp(); t != nil {
		obj.SetDeletionTimestamp(t)
	}
	if g := current.GetDeletionGracePeriodSeconds(); g != nil && obj.GetDeletionGracePeriodSeconds() == nil {
		obj.SetDeletionGracePeriodSeconds(g)
	}
	obj.SetSelfLink("")
	if w.kind.HasGeneration {
		obj.SetGeneration(current.GetGeneration())
		if specChanged(w.kind, obj, current) {
			obj.SetGeneration(current.GetGeneration() + 1)
		}
	}
}

// specChanged says whether an update counts for metadata.generation.
func specChanged(k *kinds.Kind, obj, current kinds.Object) bool {
	if k.SpecChanged != nil {
		return k.SpecChanged(obj, current)
	}
	a, b := reflect.Indirect(reflect.ValueOf(obj)), reflect.Indirect(reflect.ValueOf(current))
	if a.Kind() != reflect.Struct {
		return false
	}
	x, y := a.FieldByName("Spec"), b.FieldByName("Spec")
	return x.IsValid() && !apiequality.Semantic.DeepEqual(x.Addr().Interface(), y.Addr().Interface())
}

func (w *write) validateUpdate(obj, current kinds.Object) field.ErrorList {
	errs := meta.ValidateUpdate(obj, current, w.kind)
	validate := w.kind.ValidateUpdate
	if w.sub != nil {
		validate = w.sub.ValidateUpdate
	}
	if validate != nil {
		errs = append(errs, validate(obj, current)...)
	}
	return errs
}

// warnings tells the client what the kind has to say about an object; current is nil for a new one.
func (w *write) warnings(obj, current kinds.Object) {
	f := w.kind.Warnings
	if w.sub != nil {
		f = w.sub.Warnings
	}
	if f == nil {
		return
	}
	for _, text := range f(obj, current) {
		w.warn(text)
	}
}

// unchanged says whether an update leaves an object as it is, in the form that is stored: then it keeps its version, and
// nobody hears of it.
func unchanged(obj kinds.Object, item *store.Item) bool {
	m, ok := obj.(wire.Message)
	was, typed := item.Object.(wire.Message)
	if !ok || !typed {
		return apiequality.Semantic.DeepEqual(obj, item.Object)
	}
	// An apply that moves nothing but the times of managed fields is no change either.
	now := obj.GetManagedFields()
	if kept := withTimes(now, item.Object.GetManagedFields()); kept != nil {
		obj.SetManagedFields(kept)
		if wire.Same(m, was) {
			return true
		}
		obj.SetManagedFields(now)
		return false
	}
	return wire.Same(m, was)
}

// withTimes returns managed fields with the times that they had before, when the times are all that differs; else nil.
func withTimes(now, was []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	if len(now) != len(was) {
		return nil
	}
	moved := false
	for i := range now {
		a, b := &now[i], &was[i]
		if a.Manager != b.Manager || a.Operation != b.Operation || a.APIVersion != b.APIVersion ||
			a.Subresource != b.Subresource || !sameFields(a.FieldsV1, b.FieldsV1) {
			return nil
		}
		moved = moved || !a.Time.Equal(b.Time)
	}
	if !moved {
		return nil
	}
	return was
}

func sameFields(a, b *metav1.FieldsV1) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.GetRawString() == b.GetRawString()
}

// ended says whether an update lets go the last thing that held a deleted object.
func ended(obj, current kinds.Object, w *write) bool {
	if obj.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) > 0 {
		return false
	}
	if isNamespace(w.kind) {
		return namespaceEnded(obj)
	}
	grace := obj.GetDeletionGracePeriodSeconds()
	was := current.GetDeletionGracePeriodSeconds()
	return grace != nil && *grace == 0 && was != nil && *was == 0
}

// remove deletes an object instead of storing its last update.
func (s *Server) remove(ctx context.Context, w *write, item *store.Item, last kinds.Object) (*store.Item, bool, error) {
	final := &store.Item{Key: item.Key, Object: last, Revision: item.Revision}
	if w.dryRun {
		return final, false, nil
	}
	res := s.Store.Commit(ctx, store.Write{Key: item.Key, Expect: item.Revision})[0]
	switch {
	case res.Err == nil || errors.Is(res.Err, store.ErrNotFound):
		return final, false, nil
	case errors.Is(res.Err, store.ErrConflict):
		return res.Item, true, nil
	}
	return nil, false, res.Err
}
