package apiserver

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/kinds/builtin"
	"github.com/kebernetes/kebernetes/store"
)

// memStore is a store without a disk.
type memStore struct {
	*store.Memory
	mu  sync.Mutex
	rev int64
}

func newMemStore() *memStore { return &memStore{Memory: store.NewMemory(1), rev: 1} }

func (m *memStore) Commit(_ context.Context, writes ...store.Write) []store.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]store.Result, len(writes))
	for i, w := range writes {
		if w.Expect == store.Prior {
			if out[i-1].Err != nil {
				out[i] = out[i-1]
				continue
			}
			w.Expect = store.Any
		}
		out[i] = m.commit(w)
	}
	return out
}

func (m *memStore) commit(w store.Write) store.Result {
	prev := m.Snapshot().Get(w.Key)
	switch {
	case prev == nil && (w.Expect > 0 || w.Object == nil):
		return store.Result{Err: store.ErrNotFound}
	case prev != nil && w.Expect == 0:
		return store.Result{Item: prev, Err: store.ErrExists}
	case prev != nil && w.Expect != store.Any && w.Expect != prev.Revision:
		return store.Result{Item: prev, Err: store.ErrConflict}
	}
	m.rev++
	e := store.Event{Type: store.Put, Prev: prev, Item: &store.Item{Key: w.Key, Object: w.Object, Created: m.rev, Revision: m.rev}}
	if w.Object == nil {
		e.Type = store.Delete
		e.Item.Object = prev.Object.DeepCopyObject().(store.Object)
	}
	if prev != nil {
		e.Item.Created = prev.Created
	}
	e.Item.Object.SetResourceVersion(strconv.FormatInt(m.rev, 10))
	m.Publish(m.rev, []store.Event{e})
	return store.Result{Item: e.Item}
}

// everyone is an authenticator and authorizer that lets one user do anything.
type everyone struct{}

func (everyone) Authenticate(*http.Request) (*auth.User, error) {
	return &auth.User{Name: "tester", Groups: []string{auth.GroupMasters}}, nil
}
func (everyone) Authorize(*auth.Attributes) (bool, string) { return true, "" }
func (everyone) Rules(*auth.User, string) ([]auth.ResourceRule, []auth.NonResourceRule, error) {
	return nil, nil, nil
}

// newTestServer returns a server over an empty memory, whose bootstrap objects exist.
func newTestServer(t testing.TB) *Server {
	t.Helper()
	s, err := New(Options{Table: builtin.Table(), Store: newMemStore(), Authenticator: everyone{}, Authorizer: everyone{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

var everyoneUser = auth.User{Name: "tester", Groups: []string{auth.GroupMasters}}
