package clienttest

import (
	"fmt"
	"reflect"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// Memory is a bare shared copy without an API behind it, for tests of components that only read: what is put there is what they
// see. Requests panic. Safe for concurrent use.
type Memory struct {
	client.Transport
	copy  *store.Memory
	table *kinds.Table
}

// NewMemory returns an empty copy of the kinds, and a client that reads it.
func NewMemory(rows ...*kinds.Kind) (*Memory, *client.Client) {
	m := &Memory{copy: store.NewMemory(1), table: kinds.NewTable(rows...)}
	return m, client.New(m, m.table)
}

// Snapshot is the copy as it is.
func (m *Memory) Snapshot() store.Snapshot { return m.copy.Snapshot() }

// Watch is a cursor over the changes of a resource.
func (m *Memory) Watch(resource string, after int64) (*store.Watch, error) {
	return m.copy.Watch(resource, after)
}

// Mirrors says that everything is in the copy.
func (m *Memory) Mirrors(string) bool { return true }

// Put creates or replaces objects.
func (m *Memory) Put(objects ...client.Object) {
	for _, obj := range objects {
		m.copy.Mirror(store.Put, m.key(obj), obj, 0)
	}
}

// Remove removes objects; those that are not there are none.
func (m *Memory) Remove(objects ...client.Object) {
	for _, obj := range objects {
		m.copy.Mirror(store.Delete, m.key(obj), obj, 0)
	}
}

func (m *Memory) key(obj client.Object) store.Key {
	k := m.table.Type(reflect.TypeOf(obj))
	if k == nil {
		panic(fmt.Sprintf("clienttest: no kind of type %T", obj))
	}
	return store.Key{Resource: k.GroupResource().String(), Namespace: obj.GetNamespace(), Name: obj.GetName()}
}
