package apiserver

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/apiserver/fields"
	"github.com/kebernetes/kebernetes/apiserver/wire"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// apply merges what a manager wants of an object into it (server-side apply), and creates the object when it is not there.
func (s *Server) apply(ctx context.Context, w *write, p *wire.Patch, force bool) (item *store.Item, created bool, err error) {
	intent, err := p.Intent(w.served.New())
	if err != nil {
		return nil, false, err
	}
	a := *w
	a.unlocked = true
	for {
		if s.Store.Snapshot().Get(a.key()) == nil {
			item, err := s.applyNew(ctx, &a, intent, force)
			if apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
				continue // somebody else was quicker: apply to that object
			}
			return item, true, err
		}
		item, err := s.modify(ctx, &a, func(current *store.Item) (kinds.Object, error) {
			obj, err := s.merge(&a, current.Object, intent, force)
			if err != nil {
				return nil, err
			}
			return obj, a.named(obj)
		})
		return item, false, err
	}
}

// merge returns the state of an object after an apply, in the form in which it is kept.
func (s *Server) merge(w *write, current store.Object, intent *unstructured.Unstructured, force bool) (kinds.Object, error) {
	m, err := s.fields.For(w.kind, w.served, w.sub)
	if err != nil {
		return nil, err
	}
	// The live object must say its kind, as the intent does, or they would always differ.
	live := current.DeepCopyObject().(kinds.Object)
	live.GetObjectKind().SetGroupVersionKind(fields.StorageVersion(w.kind).WithKind(w.kind.Kind))
	merged, err := m.Apply(live, intent.DeepCopy(), w.manager, force)
	if err != nil {
		return nil, err
	}
	obj := merged.(kinds.Object)
	obj.GetObjectKind().SetGroupVersionKind(noKind)
	if w.kind.Default != nil {
		w.kind.Default(obj)
	}
	return obj, nil
}

// applyNew creates an object by apply, if the user may create.
func (s *Server) applyNew(ctx context.Context, w *write, intent *unstructured.Unstructured, force bool) (*store.Item, error) {
	if w.sub != nil {
		return nil, notFound(w.kind, w.name)
	}
	if err := s.mayCreate(w); err != nil {
		return nil, err
	}
	if uid := intent.GetUID(); uid != "" {
		return nil, apierrors.NewConflict(w.kind.GroupResource(), w.name,
			fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
	}
	obj, err := s.merge(w, w.kind.Storage().New(), intent, force)
	if err != nil {
		return nil, err
	}
	obj.SetResourceVersion("")
	if err := w.named(obj); err != nil {
		return nil, err
	}
	return s.create(ctx, w, obj)
}

// gvkOf is the kind of a write in the version that the client speaks.
func (w *write) gvkOf() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: w.kind.Group, Version: w.served.Name, Kind: w.kind.Kind}
}
