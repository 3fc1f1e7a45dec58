package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/admission"
	"github.com/kebernetes/kebernetes/apiserver/wire"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// deleteOptions reads the options of a deletion from the body, or from the query when there is no body.
func (rq *request) deleteOptions() (*metav1.DeleteOptions, error) {
	o := &metav1.DeleteOptions{}
	if hasBody(rq.r) {
		if err := rq.decodeDeleteOptions(o); err != nil {
			return nil, err
		}
	} else if q := rq.values(); len(q) > 0 {
		if err := metav1.Convert_url_Values_To_v1_DeleteOptions(&q, o, nil); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	if errs := metav1validation.ValidateDeleteOptions(o); len(errs) > 0 {
		return nil, invalidOptions("DeleteOptions", errs)
	}
	return o, nil
}

// delete removes an object, or begins to.
func (rq *request) delete() error {
	m, err := rq.accept(true)
	if err != nil {
		return err
	}
	o, err := rq.deleteOptions()
	if err != nil {
		return err
	}
	w := rq.writeOf("", o.DryRun)
	item, gone, err := rq.s.delete(rq.ctx, w, o)
	if err != nil {
		return err
	}
	if gone && !w.kind.ReturnsDeleted {
		return rq.answerObject(http.StatusOK, deleted(w, item), wire.StatusKind, m)
	}
	return rq.answerItem(http.StatusOK, item, m)
}

// deleted is the answer to a deletion of a kind that does not show what was deleted.
func deleted(w *write, item *store.Item) *metav1.Status {
	return &metav1.Status{Status: metav1.StatusSuccess, Details: &metav1.StatusDetails{
		Name: w.name, Group: w.kind.Group, Kind: w.kind.Resource, UID: item.Object.GetUID(),
	}}
}

// delete deletes an object as options say. The item is the object's last state, or, when something still holds it, its
// state from now on; gone tells which.
func (s *Server) delete(ctx context.Context, w *write, o *metav1.DeleteOptions) (item *store.Item, gone bool, err error) {
	item = s.Store.Snapshot().Get(w.key())
	admitted := false
	for {
		if item == nil {
			return nil, false, notFound(w.kind, w.name)
		}
		opts := o.DeepCopy()
		if !admitted {
			if err := s.admitDelete(ctx, w, item); err != nil {
				return nil, false, err
			}
			admitted = true
		}
		out, gone, again, err := s.deleteOnce(ctx, w, item, opts)
		if !again {
			return out, gone, err
		}
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		item = s.Store.Snapshot().Get(w.key())
	}
}

// admitDelete lets admission look at a deletion.
func (s *Server) admitDelete(ctx context.Context, w *write, item *store.Item) error {
	ar := w.admissionRequest(admission.Delete, nil, item.Object)
	if err := s.Admission.Mutate(ctx, ar); err != nil {
		return err
	}
	return s.Admission.Validate(ctx, ar)
}

func (s *Server) deleteOnce(ctx context.Context, w *write, item *store.Item, o *metav1.DeleteOptions) (out *store.Item, gone, again bool, err error) {
	if err := preconditions(w.kind, item.Object, o.Preconditions); err != nil {
		return nil, false, false, err
	}
	d := decideDelete(w.kind, item.Object, o, s.now())
	var results []store.Result
	if writes := d.writes(item); !w.dryRun && len(writes) > 0 {
		results = s.Store.Commit(ctx, writes...)
	}
	return d.outcome(w, item, results)
}

// outcome is what became of a deletion, given the results of its writes; none when nothing was to be written. again is
// true when another write came first.
func (d deletion) outcome(w *write, item *store.Item, results []store.Result) (out *store.Item, gone, again bool, err error) {
	final := item
	if d.object != nil {
		final = &store.Item{Key: item.Key, Object: d.object, Created: item.Created, Revision: item.Revision}
	}
	if len(results) == 0 {
		return final, d.remove, false, nil
	}
	last := results[len(results)-1]
	switch {
	case results[0].Err == nil && last.Err == nil:
		if !d.remove {
			final = last.Item
		}
		return final, d.remove, false, nil
	case errors.Is(results[0].Err, store.ErrConflict):
		return nil, false, true, nil
	case errors.Is(results[0].Err, store.ErrNotFound):
		return nil, false, false, notFound(w.kind, w.name)
	case results[0].Err != nil:
		return nil, false, false, results[0].Err
	}
	return nil, false, false, last.Err
}

// deletion is what a delete does to an object: it changes it, removes it, or one after the other.
type deletion struct {
	object kinds.Object // the changed object, or nil
	remove bool
}

// writes are the deletion as writes to the store. Watchers of a kind with graceful deletion see the object as it was
// marked, and then its end, as upstream lets them.
func (d deletion) writes(item *store.Item) []store.Write {
	var out []store.Write
	if d.object != nil {
		out = append(out, store.Write{Key: item.Key, Object: d.object, Expect: item.Revision})
	}
	if d.remove {
		expect := item.Revision
		if d.object != nil {
			expect = store.Prior
		}
		out = append(out, store.Write{Key: item.Key, Expect: expect})
	}
	return out
}

// preconditions checks what a deletion wants to be true of the object.
func preconditions(k *kinds.Kind, obj store.Object, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	gr := schema.GroupResource{Group: k.Group, Resource: k.Kind}
	if p.UID != nil && *p.UID != obj.GetUID() {
		return apierrors.NewConflict(gr, obj.GetName(), fmt.Errorf(
			"the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, obj.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != obj.GetResourceVersion() {
		return apierrors.NewConflict(gr, obj.GetName(), fmt.Errorf(
			"the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, obj.GetResourceVersion()))
	}
	return nil
}

// decideDelete says what a deletion of obj does at a moment. It changes o: the grace period becomes what it is set to.
func decideDelete(k *kinds.Kind, obj kinds.Object, o *metav1.DeleteOptions, now time.Time) deletion {
	if isNamespace(k) {
		return decideDeleteNamespace(obj, o, now)
	}
	finalizers, moved := propagationFinalizers(k, obj, o)
	if k.GraceOnDelete == nil {
		return decideDeleteNow(obj, finalizers, moved, now)
	}
	if obj.GetDeletionTimestamp() != nil {
		return decideDeleteAgain(k, obj, o, finalizers, moved, now)
	}
	grace := k.GraceOnDelete(obj, o)
	marked := store.Copy(obj)
	mark(marked, grace, now)
	marked.SetFinalizers(finalizers)
	return deletion{object: marked, remove: grace == 0 && len(finalizers) == 0}
}

// decideDeleteNow deletes an object of a kind without grace: at once, unless finalizers hold it.
func decideDeleteNow(obj kinds.Object, finalizers []string, moved bool, now time.Time) deletion {
	if len(finalizers) == 0 {
		return deletion{remove: true}
	}
	if obj.GetDeletionTimestamp() != nil && !moved {
		return deletion{}
	}
	marked := store.Copy(obj)
	if obj.GetDeletionTimestamp() == nil {
		mark(marked, 0, now)
	}
	marked.SetFinalizers(finalizers)
	return deletion{object: marked}
}

// decideDeleteAgain deletes an object that is being deleted already: the grace period may become shorter, never longer.
func decideDeleteAgain(k *kinds.Kind, obj kinds.Object, o *metav1.DeleteOptions, finalizers []string, moved bool, now time.Time) deletion {
	was := int64(0)
	if g := obj.GetDeletionGracePeriodSeconds(); g != nil {
		was = *g
	}
	grace := was
	if o.GracePeriodSeconds != nil {
		grace = k.GraceOnDelete(obj, o)
	}
	switch {
	case was == 0 && len(finalizers) == 0:
		return deletion{remove: true}
	case grace >= was && !moved:
		return deletion{}
	}
	marked := store.Copy(obj)
	marked.SetFinalizers(finalizers)
	if grace < was {
		started := obj.GetDeletionTimestamp().Add(-time.Duration(was) * time.Second)
		ends := metav1.NewTime(started.Add(time.Duration(grace) * time.Second))
		if grace == 0 {
			ends = metav1.NewTime(now)
		}
		marked.SetDeletionTimestamp(&ends)
		marked.SetDeletionGracePeriodSeconds(&grace)
	}
	return deletion{object: marked, remove: grace == 0 && len(finalizers) == 0}
}

// mark makes an object one that is being deleted.
func mark(obj kinds.Object, grace int64, now time.Time) {
	ends := metav1.NewTime(now.Add(time.Duration(grace) * time.Second))
	obj.SetDeletionTimestamp(&ends)
	obj.SetDeletionGracePeriodSeconds(&grace)
	if g := obj.GetGeneration(); g > 0 {
		obj.SetGeneration(g + 1)
	}
}

// propagationFinalizers are the finalizers that an object has once a deletion said what becomes of its dependents
// (https://kubernetes.io/docs/concepts/architecture/garbage-collection/#cascading-deletion). moved tells whether they differ.
func propagationFinalizers(k *kinds.Kind, obj kinds.Object, o *metav1.DeleteOptions) (out []string, moved bool) {
	was := obj.GetFinalizers()
	orphan, foreground := dependentsFate(k, was, o)
	for _, f := range was {
		if f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents {
			out = append(out, f)
		}
	}
	if orphan {
		out = append(out, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	a, b := slices.Sorted(slices.Values(was)), slices.Sorted(slices.Values(out))
	if slices.Equal(a, b) {
		return was, false
	}
	return out, true
}

// dependentsFate says which of the two finalizers of garbage collection the object is to have: what the deletion asks for,
// else what the object has already, else what the kind does by itself.
func dependentsFate(k *kinds.Kind, was []string, o *metav1.DeleteOptions) (orphan, foreground bool) {
	switch {
	case o.OrphanDependents != nil: // the older form of the option
		return *o.OrphanDependents, false
	case o.PropagationPolicy != nil:
		switch *o.PropagationPolicy {
		case metav1.DeletePropagationOrphan:
			return true, false
		case metav1.DeletePropagationForeground:
			return false, true
		}
		return false, false
	case slices.Contains(was, metav1.FinalizerOrphanDependents):
		return true, false
	case slices.Contains(was, metav1.FinalizerDeleteDependents):
		return false, true
	}
	return k.OrphanByDefault, false
}
