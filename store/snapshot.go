package store

import (
	"iter"

	"github.com/google/btree"
)

// entry is one place in a tree. The names are held beside the item, so that a comparison follows no pointer and a
// look-up allocates nothing.
type entry struct {
	namespace, name string
	item            *Item
}

func less(a, b entry) bool {
	if a.namespace != b.namespace {
		return a.namespace < b.namespace
	}
	return a.name < b.name
}

type tree = btree.BTreeG[entry]

// treeDegree makes nodes of up to 31 entries: small enough that copying the path to a changed entry costs about a
// microsecond, large enough that 10,000 objects are three levels.
const treeDegree = 16

func newTree() *tree { return btree.NewG(treeDegree, less) }

// state is one published version of everything. Never changed.
type state struct {
	revision int64
	// index finds a resource's tree; it is replaced, not changed, when a resource is new.
	index map[string]int
	trees []*tree
}

func (s *state) tree(resource string) *tree {
	if s == nil {
		return nil
	}
	i, ok := s.index[resource]
	if !ok {
		return nil
	}
	return s.trees[i]
}

// Snapshot is the state of all resources at one revision. The zero Snapshot is empty. Safe for concurrent use.
type Snapshot struct{ state *state }

// Revision is the revision of the newest change that the snapshot holds.
func (s Snapshot) Revision() int64 {
	if s.state == nil {
		return 0
	}
	return s.state.revision
}

// Get returns an item, or nil.
func (s Snapshot) Get(key Key) *Item {
	t := s.state.tree(key.Resource)
	if t == nil {
		return nil
	}
	e, _ := t.Get(entry{namespace: key.Namespace, name: key.Name})
	return e.item
}

// List yields the items of a resource in one namespace ("" for all), ordered by namespace and name.
func (s Snapshot) List(resource, namespace string) iter.Seq[*Item] {
	return s.ListFrom(resource, namespace, Key{})
}

// ListFrom is List starting after the key given, for paging.
func (s Snapshot) ListFrom(resource, namespace string, after Key) iter.Seq[*Item] {
	return func(yield func(*Item) bool) {
		t := s.state.tree(resource)
		if t == nil {
			return
		}
		pivot := entry{namespace: after.Namespace, name: after.Name}
		if namespace != "" && after.Namespace != namespace {
			if after.Namespace > namespace {
				return
			}
			pivot = entry{namespace: namespace}
		}
		t.AscendGreaterOrEqual(pivot, func(e entry) bool {
			if namespace != "" && e.namespace != namespace {
				return false
			}
			if e.name == after.Name && e.namespace == after.Namespace {
				return true
			}
			return yield(e.item)
		})
	}
}

// Len counts the items of a resource, in O(1).
func (s Snapshot) Len(resource string) int {
	t := s.state.tree(resource)
	if t == nil {
		return 0
	}
	return t.Len()
}

// Resources yields the names of all resources that ever held an object, in no order.
func (s Snapshot) Resources() iter.Seq[string] {
	return func(yield func(string) bool) {
		if s.state == nil {
			return
		}
		for name := range s.state.index {
			if !yield(name) {
				return
			}
		}
	}
}
