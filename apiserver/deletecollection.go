package apiserver

import (
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/apiserver/view"
	"github.com/kebernetes/kebernetes/store"
)

// deleteCollection deletes the objects that a list with the same parameters shows.
func (rq *request) deleteCollection() error {
	m, err := rq.accept(true)
	if err != nil {
		return err
	}
	lo, err := listOptions(rq.values(), false)
	if err != nil {
		return err
	}
	o, err := rq.deleteOptions()
	if err != nil {
		return err
	}
	sel, err := view.Select(rq.kind, lo.LabelSelector, lo.FieldSelector)
	if err != nil {
		return err
	}
	items, meta, err := rq.s.collect(rq.kind, rq.namespace, &lo, &sel)
	if err != nil {
		return err
	}
	last, err := rq.deleteEach(items, o)
	if err != nil {
		return err
	}
	return rq.answerList(last, meta, m)
}

// deletesAtOnce is how many objects of a collection are deleted by one commit.
const deletesAtOnce = 256

// deleteEach deletes the items. One that somebody else deletes meanwhile is as good as deleted.
func (rq *request) deleteEach(items []*store.Item, o *metav1.DeleteOptions) ([]*store.Item, error) {
	last := make([]*store.Item, 0, len(items))
	for some := range slices.Chunk(items, deletesAtOnce) {
		gone, err := rq.deleteTogether(some, o)
		if err != nil {
			return nil, err
		}
		last = append(last, gone...)
	}
	return last, nil
}

// doomed is an object of a collection, what its deletion does to it, and where its writes are in the commit.
type doomed struct {
	w        *write
	item     *store.Item
	d        deletion
	from, to int
}

// deleteTogether deletes items by one commit, up to the first that may not be deleted.
func (rq *request) deleteTogether(items []*store.Item, o *metav1.DeleteOptions) ([]*store.Item, error) {
	all := make([]doomed, 0, len(items))
	var writes []store.Write
	var refused error
	for _, item := range items {
		w := rq.writeOf("", o.DryRun)
		w.namespace, w.name = item.Key.Namespace, item.Key.Name
		if refused = rq.s.admitDelete(rq.ctx, w, item); refused != nil {
			break
		}
		if refused = preconditions(w.kind, item.Object, o.Preconditions); refused != nil {
			break
		}
		x := doomed{w: w, item: item, d: decideDelete(w.kind, item.Object, o.DeepCopy(), rq.s.now()), from: len(writes)}
		if !w.dryRun {
			writes = append(writes, x.d.writes(item)...)
		}
		x.to = len(writes)
		all = append(all, x)
	}
	var results []store.Result
	if len(writes) > 0 {
		results = rq.s.Store.Commit(rq.ctx, writes...)
	}
	last := make([]*store.Item, 0, len(all))
	for _, x := range all {
		final, _, again, err := x.d.outcome(x.w, x.item, results[x.from:x.to])
		if again {
			final, _, err = rq.s.delete(rq.ctx, x.w, o)
		}
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		last = append(last, final)
	}
	return last, refused
}
