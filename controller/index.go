package controller

import (
	"iter"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
)

// Index holds the objects of one resource by group, so that a reconcile need not look at all of them. It shares the
// snapshot's objects. Safe for concurrent use.
type Index struct {
	groups func(obj client.Object, add func(group string))

	mu    sync.RWMutex
	items map[string]map[Key]*client.Item
}

// NewIndex returns an empty index; groups calls add with each group that an object belongs to, and must depend on the object alone.
func NewIndex(groups func(obj client.Object, add func(group string))) *Index {
	return &Index{groups: groups, items: map[string]map[Key]*client.Item{}}
}

// Indexed returns the objects of a group, in no order. They must not be changed.
func Indexed[T client.Object](x *Index, group string) []T {
	x.mu.RLock()
	defer x.mu.RUnlock()
	items := x.items[group]
	if len(items) == 0 {
		return nil
	}
	out := make([]T, 0, len(items))
	for _, item := range items {
		out = append(out, item.Object.(T))
	}
	return out
}

// Len counts the objects of a group.
func (x *Index) Len(group string) int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.items[group])
}

// ByController groups objects by the UID of their controlling owner, and those without one by Orphans of their namespace.
func ByController(obj client.Object, add func(string)) {
	if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
		add(string(ref.UID))
		return
	}
	add(Orphans(obj.GetNamespace()))
}

// Orphans is the group of the objects of a namespace that ByController found without a controlling owner.
func Orphans(namespace string) string { return "orphans/" + namespace }

// apply brings one event in.
func (x *Index) apply(ev client.Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if ev.Prev != nil && len(x.items) > 0 {
		x.groups(ev.Prev.Object, func(group string) { x.remove(group, ev.Prev.Key) })
	}
	if ev.Type == client.Delete {
		x.groups(ev.Item.Object, func(group string) { x.remove(group, ev.Item.Key) })
		return
	}
	x.groups(ev.Item.Object, func(group string) { x.put(group, ev.Item) })
}

// reset replaces all objects and calls gone with each that is no longer there.
func (x *Index) reset(items iter.Seq[*client.Item], gone func(*client.Item)) {
	x.mu.Lock()
	old := x.items
	x.items = map[string]map[Key]*client.Item{}
	there := map[Key]bool{}
	for item := range items {
		if len(old) > 0 {
			there[item.Key] = true
		}
		x.groups(item.Object, func(group string) { x.put(group, item) })
	}
	x.mu.Unlock()
	for _, group := range old {
		for key, item := range group {
			if !there[key] {
				there[key] = true
				gone(item)
			}
		}
	}
}

func (x *Index) put(group string, item *client.Item) {
	items := x.items[group]
	if items == nil {
		items = map[Key]*client.Item{}
		x.items[group] = items
	}
	items[item.Key] = item
}

func (x *Index) remove(group string, key Key) {
	items := x.items[group]
	delete(items, key)
	if len(items) == 0 {
		delete(x.items, group)
	}
}
