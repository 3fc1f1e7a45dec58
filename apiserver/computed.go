package apiserver

import (
	"context"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/apiserver/view"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// Computed answers reads of a virtual kind, whose objects are made when somebody asks. Errors are Status errors. Safe for
// concurrent use.
type Computed interface {
	// Get makes one object.
	Get(ctx context.Context, namespace, name string) (kinds.Object, error)
	// List makes the objects of a namespace ("" for all) that are shown, by namespace and name. shown looks at no more of an
	// object than its metadata, so that it can be asked before the object is made.
	List(ctx context.Context, namespace string, shown func(store.Object) bool) ([]kinds.Object, error)
}

// readComputed answers with objects that are not stored.
func (rq *request) readComputed(from Computed) error {
	m, err := rq.accept(true)
	if err != nil {
		return err
	}
	ns, name := rq.storedName()
	if rq.verb == "get" {
		obj, err := from.Get(rq.ctx, ns, name)
		if err != nil {
			return err
		}
		return rq.answerItem(http.StatusOK, &store.Item{Object: obj}, m)
	}
	o, err := listOptions(rq.values(), false)
	if err != nil {
		return err
	}
	sel, err := view.Select(rq.kind, o.LabelSelector, o.FieldSelector)
	if err != nil {
		return err
	}
	objects, err := from.List(rq.ctx, ns, sel.Matches)
	if err != nil {
		return err
	}
	items := make([]*store.Item, len(objects))
	for i, obj := range objects {
		items[i] = &store.Item{Object: obj}
	}
	return rq.answerList(items, metav1.ListMeta{}, m)
}
