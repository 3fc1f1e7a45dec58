package apiserver

import (
	"context"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// update replaces an object, or a part of it.
func (rq *request) update() error {
	m, err := rq.accept(true)
	if err != nil {
		return err
	}
	o, err := rq.updateOptions()
	if err != nil {
		return err
	}
	obj, err := rq.object(o.FieldValidation)
	if err != nil {
		return err
	}
	w := rq.writeOf(o.FieldManager, o.DryRun)
	if err := w.named(obj); err != nil {
		return err
	}
	item, created, err := rq.s.update(rq.ctx, w, obj)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	return rq.answerItem(code, item, m)
}

// named checks that a body is about the object that the path names.
func (w *write) named(obj kinds.Object) error {
	if name := obj.GetName(); name == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: name must be provided", w.name))
	} else if name != w.name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", name, w.name))
	}
	return w.place(obj)
}

// update replaces the object that w names by obj, which it owns. Kinds that allow it are created when they are not there.
func (s *Server) update(ctx context.Context, w *write, obj kinds.Object) (item *store.Item, created bool, err error) {
	uid := obj.GetUID()
	current := s.Store.Snapshot().Get(w.key())
	if current == nil {
		switch {
		case uid != "":
			return nil, false, uidConflict(w.kind, w.namespace, w.name, string(uid), "")
		case w.kind.CreateOnUpdate && w.sub == nil && obj.GetResourceVersion() == "":
			item, err := s.createByUpdate(ctx, w, obj)
			return item, true, err
		}
		return nil, false, notFound(w.kind, w.name)
	}
	version := obj.GetResourceVersion()
	item, err = s.modify(ctx, w, func(current *store.Item) (kinds.Object, error) {
		if has := current.Object.GetUID(); uid != "" && uid != has {
			return nil, uidConflict(w.kind, w.namespace, w.name, string(uid), string(has))
		}
		if version != "" {
			// Another write in between ends the attempt, so that nobody needs the object again, but for this version: the store
			// that refused it has taken it out.
			obj.SetResourceVersion(version)
			return obj, nil
		}
		return obj.DeepCopyObject().(kinds.Object), nil
	})
	return item, false, err
}

// createByUpdate creates what an update did not find, if the user may create.
func (s *Server) createByUpdate(ctx context.Context, w *write, obj kinds.Object) (*store.Item, error) {
	if err := s.mayCreate(w); err != nil {
		return nil, err
	}
	return s.create(ctx, w, obj)
}
