package apiserver

import (
	"bytes"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/apiserver/wire"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// patch changes an object, or a part of it.
func (rq *request) patch() error {
	m, err := rq.accept(true)
	if err != nil {
		return err
	}
	p, o, err := rq.readPatch()
	if err != nil {
		return err
	}
	w := rq.writeOf(o.FieldManager, o.DryRun)
	if p.Type == types.ApplyYAMLPatchType {
		item, created, err := rq.s.apply(rq.ctx, w, p, o.Force != nil && *o.Force)
		if err != nil {
			return err
		}
		code := http.StatusOK
		if created {
			code = http.StatusCreated
		}
		return rq.answerItem(code, item, m)
	}
	item, err := rq.s.modify(rq.ctx, w, patchChange(p, w))
	if err != nil {
		return err
	}
	return rq.answerItem(http.StatusOK, item, m)
}

// readPatch reads the patch that the request carries, and its options.
func (rq *request) readPatch() (*wire.Patch, *metav1.PatchOptions, error) {
	_, custom := rq.served.New().(runtime.Unstructured)
	pt, err := wire.PatchType(rq.r.Header.Get("Content-Type"), custom)
	if err != nil {
		return nil, nil, err
	}
	o, err := rq.patchOptions(pt)
	if err != nil {
		return nil, nil, err
	}
	b, err := rq.body()
	if err != nil {
		return nil, nil, err
	}
	defer b.Free()
	p := &wire.Patch{
		Scheme: rq.s.Table.Scheme(), Type: pt, Data: bytes.Clone(b.B), Directive: o.FieldValidation, Warn: rq.warn,
	}
	return p, &o, nil
}

// patchChange is a patch as a change of a stored object.
func patchChange(p *wire.Patch, w *write) change {
	fm := wire.NewForm(w.kind, w.served, wire.JSON)
	wanted := w.gvkOf()
	return func(current *store.Item) (kinds.Object, error) {
		bare, err := fm.Passing(current)
		if err != nil {
			return nil, err
		}
		obj := w.served.New()
		if err := p.Apply(fm.Object(nil, current.Object, bare), obj, wanted); err != nil {
			return nil, err
		}
		stored, err := toStorage(w.kind, w.served, obj)
		if err != nil {
			return nil, err
		}
		return stored, w.named(stored)
	}
}
