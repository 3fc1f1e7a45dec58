package kinds

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Table is the set of all kinds that a process serves. Rows may be added and removed while it runs (custom resources);
// all methods are safe for concurrent use.
type Table struct {
	mu         sync.RWMutex
	byResource map[schema.GroupResource]*Kind
	byKind     map[schema.GroupKind]*Kind
	byType     map[reflect.Type]*Kind
	scheme     *runtime.Scheme
	changed    chan struct{}
}

// NewTable returns a table of the kinds given. It panics when two rows claim one name, which only a programmer can cause.
func NewTable(rows ...*Kind) *Table {
	t := &Table{
		byResource: map[schema.GroupResource]*Kind{},
		byKind:     map[schema.GroupKind]*Kind{},
		byType:     map[reflect.Type]*Kind{},
		scheme:     runtime.NewScheme(),
		changed:    make(chan struct{}),
	}
	metav1.AddToGroupVersion(t.scheme, schema.GroupVersion{Version: "v1"})
	for _, k := range rows {
		if err := t.Add(k); err != nil {
			panic(err)
		}
	}
	return t
}

// Add puts a row into the table and, for kinds with Go types, their types into the scheme. It fails when the resource or
// the kind is there already.
func (t *Table) Add(k *Kind) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byResource[k.GroupResource()] != nil || t.byKind[k.GroupKind()] != nil {
		return fmt.Errorf("add kind %s: it is in the table already", k.GroupKind())
	}
	if k.Storage() == nil {
		return fmt.Errorf("add kind %s: no storage version", k.GroupKind())
	}
	if k.Singular == "" {
		k.Singular = strings.ToLower(k.Kind)
	}
	t.byResource[k.GroupResource()] = k
	t.byKind[k.GroupKind()] = k
	t.announce()
	for i := range k.Versions {
		v := &k.Versions[i]
		obj := v.New()
		if _, ok := obj.(runtime.Unstructured); ok {
			continue
		}
		gv := schema.GroupVersion{Group: k.Group, Version: v.Name}
		metav1.AddToGroupVersion(t.scheme, gv)
		t.scheme.AddKnownTypeWithName(gv.WithKind(k.Kind), obj)
		if v.NewList != nil {
			t.scheme.AddKnownTypeWithName(gv.WithKind(k.Kind+"List"), v.NewList())
		}
		t.byType[reflect.TypeOf(obj)] = k
		for _, s := range k.Subresources {
			if s.NewBody != nil && !t.scheme.Recognizes(s.Body) {
				metav1.AddToGroupVersion(t.scheme, s.Body.GroupVersion())
				t.scheme.AddKnownTypeWithName(s.Body, s.NewBody())
			}
		}
	}
	return nil
}

// Remove takes the row of that resource out. Only rows of unstructured kinds may be removed.
func (t *Table) Remove(gr schema.GroupResource) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.byResource[gr]; k != nil {
		delete(t.byResource, gr)
		delete(t.byKind, k.GroupKind())
		t.announce()
	}
}

// Changed returns a channel that is closed when a row is next added or removed. Whoever follows the table takes the channel
// first and reads the rows then.
func (t *Table) Changed() <-chan struct{} {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.changed
}

// announce wakes those who follow the table. The caller holds mu.
func (t *Table) announce() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// Resource returns the row of a group and resource, or nil.
func (t *Table) Resource(gr schema.GroupResource) *Kind {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byResource[gr]
}

// Kind returns the row of a group and kind, or nil.
func (t *Table) Kind(gk schema.GroupKind) *Kind {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byKind[gk]
}

// Type returns the row whose Go type is that of obj, or nil.
func (t *Table) Type(typ reflect.Type) *Kind {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byType[typ]
}

// All returns the rows ordered by group and resource.
func (t *Table) All() []*Kind {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]*Kind, 0, len(t.byResource))
	for _, k := range t.byResource {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b *Kind) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Resource, b.Resource))
	})
	return out
}

// Scheme knows the Go types of all built-in kinds and of metav1, for codecs. It registers no conversions and no defaults.
func (t *Table) Scheme() *runtime.Scheme { return t.scheme }
