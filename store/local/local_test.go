package local

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/store"
	"github.com/kebernetes/kebernetes/store/storetest"
)

// codec keeps Secrets and ConfigMaps as protobuf.
type codec struct{}

func (codec) Encode(_ string, obj store.Object) ([]byte, error) {
	return obj.(interface{ Marshal() ([]byte, error) }).Marshal()
}

func (codec) Decode(resource string, data []byte) (store.Object, error) {
	if resource == "secrets" {
		s := &corev1.Secret{}
		return s, s.Unmarshal(data)
	}
	c := &corev1.ConfigMap{}
	return c, c.Unmarshal(data)
}

func options(dir string) Options {
	return Options{
		Dir:      dir,
		Codec:    codec{},
		Encrypt:  func(resource string) bool { return resource == "secrets" },
		Volatile: func(resource string) bool { return resource == storetest.Volatile },
	}
}

// running is a store whose Run goes on until close.
type running struct {
	*Local
	close func() error
}

func start(t testing.TB, opts Options) *running {
	t.Helper()
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	closed := false
	r := &running{Local: l, close: func() error {
		if closed {
			return nil
		}
		closed = true
		cancel()
		return <-ended
	}}
	t.Cleanup(func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestContract(t *testing.T) {
	storetest.Run(t, storetest.Harness{
		Open: func(t *testing.T) store.Store { return start(t, options(t.TempDir())) },
		Reopen: func(t *testing.T, s store.Store) store.Store {
			r := s.(*running)
			if err := r.close(); err != nil {
				t.Fatal(err)
			}
			return start(t, r.opts)
		},
	})
}

func fill(t testing.TB, s store.Store, n int) {
	t.Helper()
	writes := make([]store.Write, n)
	for i := range writes {
		writes[i] = storetest.Put(storetest.Key(storetest.Resource, fmt.Sprint("object-", i)), fmt.Sprintf("%01000d", i), store.Any)
	}
	for _, r := range s.Commit(t.Context(), writes...) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}
