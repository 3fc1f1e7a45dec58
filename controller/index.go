package controller

import (
	"iter"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
)

// Index holds the objects of one resource by group, so that a reconcile need not look at all of them. It shares the
// snapshot's objects. Safe for concurrent use.
type Index struct {
	groups func(obj client.Object, add func(Group))

	mu    sync.RWMutex
	items map[Group]map[Key]*client.Item
	// Scratch of apply: an event costs no allocation unless its object changes groups.
	before, after       []Group
	addBefore, addAfter func(Group)
}

// Group names a group of an Index, in up to three words that the index's owner chooses.
type Group [3]string

// NewIndex returns an empty index; groups calls add with each group that an object belongs to, and must depend on the object alone.
func NewIndex(groups func(obj client.Object, add func(Group))) *Index {
	x := &Index{groups: groups, items: map[Group]map[Key]*client.Item{}}
	x.addBefore = func(g Group) { x.before = append(x.before, g) }
	x.addAfter = func(g Group) { x.after = append(x.after, g) }
	return x
}

// Indexed returns the objects of a group, in no order. They must not be changed.
func Indexed[T client.Object](x *Index, group Group) []T {
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
func (x *Index) Len(group Group) int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.items[group])
}

// ByController groups objects by their controlling owner of one kind (OwnedBy), and those without any controlling owner by namespace
// (Orphans).
func ByController(gk schema.GroupKind) func(client.Object, func(Group)) {
	return func(obj client.Object, add func(Group)) {
		ref := metav1.GetControllerOfNoCopy(obj)
		if ref == nil {
			add(Orphans(obj.GetNamespace()))
		} else if ref.Kind == gk.Kind {
			add(OwnedBy(ref.UID))
		}
	}
}

// OwnedBy is the group of the objects with that owner.
func OwnedBy(owner types.UID) Group { return Group{"owner", string(owner)} }

// Orphans is the group of the objects of a namespace that no controller owns.
func Orphans(namespace string) Group { return Group{"orphans", namespace} }

// apply brings one event in.
func (x *Index) apply(ev client.Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.before, x.after = x.before[:0], x.after[:0]
	switch {
	case ev.Type == client.Delete:
		x.groups(ev.Item.Object, x.addBefore)
	case ev.Prev != nil:
		x.groups(ev.Prev.Object, x.addBefore)
		x.groups(ev.Item.Object, x.addAfter)
	default:
		x.groups(ev.Item.Object, x.addAfter)
	}
	for _, group := range x.before {
		if !slices.Contains(x.after, group) {
			x.remove(group, ev.Item.Key)
		}
	}
	for _, group := range x.after {
		x.put(group, ev.Item)
	}
}

// reset replaces all objects and calls gone with each that is no longer there.
func (x *Index) reset(items iter.Seq[*client.Item], gone func(*client.Item)) {
	x.mu.Lock()
	old := x.items
	x.items = map[Group]map[Key]*client.Item{}
	there := map[Key]bool{}
	for item := range items {
		if len(old) > 0 {
			there[item.Key] = true
		}
		x.groups(item.Object, func(group Group) { x.put(group, item) })
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

func (x *Index) put(group Group, item *client.Item) {
	items := x.items[group]
	if items == nil {
		items = map[Key]*client.Item{}
		x.items[group] = items
	}
	items[item.Key] = item
}

func (x *Index) remove(group Group, key Key) {
	items := x.items[group]
	delete(items, key)
	if len(items) == 0 {
		delete(x.items, group)
	}
}
