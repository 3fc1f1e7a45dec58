package apiserver

import (
	"net/http"
	"net/url"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	listvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/apiserver/view"
	"github.com/kebernetes/kebernetes/apiserver/wire"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// listOptions reads the options of a list or watch from the query, and checks them.
func listOptions(q url.Values, watch bool) (metav1.ListOptions, error) {
	var o metav1.ListOptions
	if len(q) > 0 {
		if err := metav1.Convert_url_Values_To_v1_ListOptions(&q, &o, nil); err != nil {
			return o, apierrors.NewBadRequest(err.Error())
		}
	}
	o.Watch = watch
	internal := internalversion.ListOptions{
		Watch: watch, ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		Continue: o.Continue, SendInitialEvents: o.SendInitialEvents, Limit: o.Limit,
	}
	if errs := listvalidation.ValidateListOptions(&internal, true); len(errs) > 0 {
		return o, invalidOptions("ListOptions", errs)
	}
	return o, nil
}

// list answers with the objects of a namespace, or of all.
func (rq *request) list() error {
	m, err := rq.accept(true)
	if err != nil {
		return err
	}
	o, err := listOptions(rq.values(), false)
	if err != nil {
		return err
	}
	sel, err := view.Select(rq.kind, o.LabelSelector, o.FieldSelector)
	if err != nil {
		return err
	}
	items, meta, err := rq.s.collect(rq.kind, rq.namespace, &o, &sel)
	if err != nil {
		return err
	}
	return rq.answerList(items, meta, m)
}

// answerList answers with a list of items.
func (rq *request) answerList(items []*store.Item, meta metav1.ListMeta, m wire.Media) error {
	st := rq.stream(http.StatusOK, m)
	switch {
	case m.Shape == wire.Tables:
		return st.end(rq.writeTable(st, items, meta, m))
	case m.Format != wire.Protobuf && m.Shape == wire.Partial:
		return st.end(wire.PartialListJSON(&st.Out, items, meta, m))
	case m.Format != wire.Protobuf:
		return st.end(wire.ListJSON(&st.Out, wire.NewForm(rq.kind, rq.served, wire.JSON), items, meta))
	}
	list, err := wire.NewProtobufList(wire.NewForm(rq.kind, rq.served, wire.Protobuf), items, meta)
	if m.Shape == wire.Partial {
		list, err = wire.NewPartialProtobufList(m, items, meta)
	}
	if err == nil {
		st.begin(list.Size())
		list.Write(&st.Out)
	}
	return st.end(err)
}

// collect returns a page of a list.
func (s *Server) collect(k *kinds.Kind, namespace string, o *metav1.ListOptions, sel *view.Selection) ([]*store.Item, metav1.ListMeta, error) {
	v, after, err := view.Open(s.Store, k.StorageResource().String(), o)
	if err != nil {
		return nil, metav1.ListMeta{}, err
	}
	meta := metav1.ListMeta{ResourceVersion: strconv.FormatInt(v.Revision(), 10)}
	if sel.Name != "" && o.Limit <= 0 && o.Continue == "" && (namespace != "" || !k.Namespaced) {
		item := v.Get(key(k, namespace, sel.Name))
		if item == nil || !sel.Matches(item.Object) {
			return nil, meta, nil
		}
		return []*store.Item{item}, meta, nil
	}
	var items []*store.Item
	if sel.All() && o.Limit <= 0 && namespace == "" {
		items = make([]*store.Item, 0, v.Len())
	}
	if !k.Namespaced {
		namespace = ""
	}
	left, remaining := v.Left(namespace, after), int64(0)
	for item := range v.List(namespace, after) {
		if !sel.Matches(item.Object) {
			continue
		}
		if o.Limit <= 0 || int64(len(items)) < o.Limit {
			items = append(items, item)
			continue
		}
		remaining++
		if !sel.All() {
			break // how many match is not told
		}
		if left > 0 { // or known
			remaining = max(left-o.Limit, 1)
			break
		}
	}
	switch {
	case remaining > 0 && sel.All():
		meta.RemainingItemCount = &remaining
		meta.Continue = view.After(items[len(items)-1].Key, v.Revision(), remaining)
	case remaining > 0:
		meta.Continue = view.After(items[len(items)-1].Key, v.Revision(), 0)
	}
	return items, meta, nil
}
