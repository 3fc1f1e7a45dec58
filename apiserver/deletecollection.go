package apiserver

import (
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

// deleteEach deletes the items. One that somebody else deletes meanwhile is as good as deleted.
func (rq *request) deleteEach(items []*store.Item, o *metav1.DeleteOptions) ([]*store.Item, error) {
	last := make([]*store.Item, 0, len(items))
	for _, item := range items {
		w := rq.writeOf("", o.DryRun)
		w.namespace, w.name = item.Key.Namespace, item.Key.Name
		final, _, err := rq.s.delete(rq.ctx, w, o)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		last = append(last, final)
	}
	return last, nil
}
