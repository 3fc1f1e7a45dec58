package apiserver

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/builtin"
	"github.com/kebernetes/kebernetes/store"
)

// A deletion that another write overtakes looks again, and loses nothing of that write.
func TestDeleteThatIsOvertaken(t *testing.T) {
	o := &overtaken{memStore: newMemStore()}
	s, err := New(Options{Table: builtin.Table(), Store: o, Authenticator: everyone{}, Authorizer: everyone{}})
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n"}}
	k := s.Table.Resource(corev1.Resource("pods"))
	w := &write{user: &auth.User{Name: "tester"}, kind: k, served: k.Storage(), namespace: "default", name: "p"}
	o.Commit(t.Context(), store.Write{Key: w.key(), Object: pod})
	o.armed = true
	item, gone, err := s.delete(t.Context(), w, &metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
	if err != nil || !gone || item.Object.GetAnnotations()["other"] != "write" {
		t.Errorf("gone %v, error %v, %+v", gone, err, item)
	}
}

func TestDecideDelete(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	table := builtin.Table()
	configMap := func(finalizers ...string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Finalizers: finalizers}}
	}
	pod := func(node string, ending int64, finalizers ...string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Generation: 1, Finalizers: finalizers}}
		p.Spec.NodeName = node
		p.Spec.TerminationGracePeriodSeconds = new(int64(30))
		if ending > 0 {
			ends := metav1.NewTime(now.Add(time.Duration(ending) * time.Second))
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds, p.Generation = &ends, &ending, 2
		}
		return p
	}
	opts := func(o metav1.DeleteOptions) *metav1.DeleteOptions { return &o }
	policy := func(p metav1.DeletionPropagation) *metav1.DeleteOptions {
		return opts(metav1.DeleteOptions{PropagationPolicy: &p})
	}
	grace := func(s int64) *metav1.DeleteOptions { return opts(metav1.DeleteOptions{GracePeriodSeconds: &s}) }
	none := opts(metav1.DeleteOptions{})
	for name, tc := range map[string]struct {
		kind string
		obj  kinds.Object
		o    *metav1.DeleteOptions
		want string
	}{
		"at once":                     {"configmaps", configMap(), none, "remove"},
		"held by a finalizer":         {"configmaps", configMap("x/y"), none, "mark 0s [x/y]"},
		"foreground":                  {"configmaps", configMap(), policy(metav1.DeletePropagationForeground), "mark 0s [foregroundDeletion]"},
		"orphan":                      {"configmaps", configMap("x/y"), policy(metav1.DeletePropagationOrphan), "mark 0s [x/y orphan]"},
		"background takes them back":  {"configmaps", configMap("orphan"), policy(metav1.DeletePropagationBackground), "remove"},
		"a finalizer says the policy": {"configmaps", configMap("orphan"), none, "mark 0s [orphan]"},
		"a pod gets its time":         {"pods", pod("n", 0), none, "mark 30s [] generation 2"},
		"a pod that runs nowhere":     {"pods", pod("", 0), none, "mark 0s [] generation 2 remove"},
		"a pod killed":                {"pods", pod("n", 0), grace(0), "mark 0s [] generation 2 remove"},
		"a killed pod with finalizer": {"pods", pod("n", 0, "x/y"), grace(0), "mark 0s [x/y] generation 2"},
		"less time":                   {"pods", pod("n", 30), grace(5), "mark 5s [] generation 2"},
		"not more time":               {"pods", pod("n", 30), grace(50), ""},
		"again":                       {"pods", pod("n", 30), none, ""},
		"killed while ending":         {"pods", pod("n", 30), grace(0), "mark 0s [] generation 2 remove"},
	} {
		t.Run(name, func(t *testing.T) {
			before := tc.obj.DeepCopyObject()
			d := decideDelete(table.Resource(corev1.Resource(tc.kind)), tc.obj, tc.o.DeepCopy(), now)
			got := ""
			if d.object != nil {
				g := d.object.GetDeletionGracePeriodSeconds()
				got = fmt.Sprintf("mark %ds %v", *g, d.object.GetFinalizers())
				if gen := d.object.GetGeneration(); gen > 0 {
					got += fmt.Sprintf(" generation %d", gen)
				}
				if want := now.Add(time.Duration(*g) * time.Second); !d.object.GetDeletionTimestamp().Time.Equal(want) {
					t.Errorf("ends at %v, want %v", d.object.GetDeletionTimestamp(), want)
				}
			}
			if d.remove {
				got = strings.TrimSpace(got + " remove")
			}
			if got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
			if !reflect.DeepEqual(before, runtime.Object(tc.obj)) {
				t.Error("the stored object was changed")
			}
		})
	}
}
