package apiserver

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/kinds/builtin"
	"github.com/kebernetes/kebernetes/store"
)

// overtaken is a store in which, once armed, another write of the same object comes just before the next one. As the embedded store
// does, it takes the version out of what it is given.
type overtaken struct {
	*memStore
	armed bool
}

func (o *overtaken) Commit(ctx context.Context, writes ...store.Write) []store.Result {
	for _, w := range writes {
		if w.Object == nil {
			continue
		}
		w.Object.SetResourceVersion("")
		if o.armed {
			o.armed = false
			other := o.Snapshot().Get(w.Key).Object.DeepCopyObject().(store.Object)
			other.SetAnnotations(map[string]string{"other": "write"})
			o.memStore.Commit(ctx, store.Write{Key: w.Key, Object: other, Expect: store.Any})
		}
	}
	return o.memStore.Commit(ctx, writes...)
}

// An update that names a version is refused when another write comes at the last moment; one that names none takes its place.
func TestUpdateThatIsOvertaken(t *testing.T) {
	o := &overtaken{memStore: newMemStore()}
	s, err := New(Options{Table: builtin.Table(), Store: o, Authenticator: everyone{}, Authorizer: everyone{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	k := s.Table.Resource(schema.GroupResource{Resource: "configmaps"})
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "m"}}
	api := s.Client(&everyoneUser)
	created, err := api.Create(t.Context(), k, m, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, named := range []bool{true, false} {
		next := created.DeepCopyObject().(*corev1.ConfigMap)
		next.Data = map[string]string{"a": "b"}
		if !named {
			next.ResourceVersion = ""
		}
		o.armed = true
		if _, err := api.Update(t.Context(), k, "", next, metav1.UpdateOptions{}); apierrors.IsConflict(err) != named || !named && err != nil {
			t.Errorf("version named: %v, answer: %v", named, err)
		}
	}
}
