// Package view says what a list or watch sees of a resource: at which revision, behind which page, through which selectors.
// Only apiserver imports it.
package view

import (
	"context"
	"iter"
	"slices"
	"strings"

	"github.com/kebernetes/kebernetes/store"
)

// View is the state of one resource at one revision, which may lie in the past: then it is the newest state with the
// changes since taken back, as far as the store remembers them.
type View struct {
	snapshot store.Snapshot
	resource string
	revision int64
	// past holds what changed since: the items as they were, nil for those that were not there yet. order lists its keys.
	past  map[store.Key]*store.Item
	order []store.Key
	// left is how many items are behind the key that a page begins behind, if the token of the page told it, else 0.
	left int64
}

// Now is the newest state of a resource.
func Now(r store.Reader, resource string) *View {
	snap := r.Snapshot()
	return &View{snapshot: snap, resource: resource, revision: snap.Revision()}
}

// Revision is the revision that the view shows.
func (v *View) Revision() int64 { return v.revision }

// Len is about how many items the resource has.
func (v *View) Len() int { return v.snapshot.Len(v.resource) }

// Left is how many items of a namespace ("" for all) are behind a key, which is the one that Open returned; 0 where it is not
// known without going through them.
func (v *View) Left(namespace string, after store.Key) int64 {
	if v.left > 0 || namespace != "" || after.Name != "" {
		return v.left
	}
	n := int64(v.Len())
	for k, item := range v.past {
		if v.snapshot.Get(k) != nil {
			n--
		}
		if item != nil {
			n++
		}
	}
	return n
}

// At is the state of a resource at a revision. It returns store.ErrCompacted when that is no longer known, store.ErrFuture
// when it has not been reached.
func At(r store.Reader, resource string, revision int64) (*View, error) {
	snap := r.Snapshot()
	v := &View{snapshot: snap, resource: resource, revision: revision}
	if revision > snap.Revision() {
		return nil, store.ErrFuture
	}
	w, err := r.Watch(resource, revision)
	if err != nil {
		return nil, err
	}
	// What happened up to the snapshot is there to be read at once, so a context that is done ends the reading.
	done, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		events, _, err := w.Next(done)
		if len(events) == 0 {
			if err == store.ErrCompacted {
				return nil, err
			}
			break
		}
		if !v.takeBack(events, snap.Revision()) {
			break
		}
	}
	slices.SortFunc(v.order, compareKeys)
	return v, nil
}

// takeBack notes what the objects of some events were before, up to a revision; it returns false once that is reached.
func (v *View) takeBack(events []store.Event, upTo int64) bool {
	if v.past == nil {
		v.past = map[store.Key]*store.Item{}
	}
	for _, e := range events {
		if e.Item.Revision > upTo {
			return false
		}
		if _, known := v.past[e.Item.Key]; !known {
			v.past[e.Item.Key] = e.Prev
			v.order = append(v.order, e.Item.Key)
		}
	}
	return true
}

func compareKeys(a, b store.Key) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// Get returns one item, or nil.
func (v *View) Get(k store.Key) *store.Item {
	if item, changed := v.past[k]; changed {
		return item
	}
	return v.snapshot.Get(k)
}

// List yields the items of a namespace ("" for all) after a key, in order.
func (v *View) List(namespace string, after store.Key) iter.Seq[*store.Item] {
	now := v.snapshot.ListFrom(v.resource, namespace, after)
	if len(v.past) == 0 {
		return now
	}
	return func(yield func(*store.Item) bool) {
		was := v.changed(namespace, after)
		for item := range now {
			for len(was) > 0 && compareKeys(was[0].Key, item.Key) < 0 {
				if !yield(was[0]) {
					return
				}
				was = was[1:]
			}
			if _, changed := v.past[item.Key]; !changed && !yield(item) {
				return
			}
		}
		for _, item := range was {
			if !yield(item) {
				return
			}
		}
	}
}

// changed lists the items of the past that have changed since, in order.
func (v *View) changed(namespace string, after store.Key) []*store.Item {
	var out []*store.Item
	for _, k := range v.order {
		item := v.past[k]
		if item != nil && (namespace == "" || k.Namespace == namespace) && (after.Name == "" || compareKeys(k, after) > 0) {
			out = append(out, item)
		}
	}
	return out
}
