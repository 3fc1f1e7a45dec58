package view

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

const resource = "configmaps"

// history publishes changes written as "+name", "~name" and "-name", each at the next revision from 2 on.
func history(m *store.Memory, changes string) {
	rev := m.Snapshot().Revision()
	for change := range strings.FieldsSeq(changes) {
		rev++
		name := change[1:]
		k := store.Key{Resource: resource, Namespace: "ns", Name: name}
		e := store.Event{Prev: m.Snapshot().Get(k)}
		e.Item = &store.Item{Key: k, Revision: rev, Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "ns", ResourceVersion: fmt.Sprint(rev), Labels: map[string]string{"rev": fmt.Sprint(rev)}}}}
		if change[0] == '-' {
			e.Type = store.Delete
		}
		m.Publish(rev, []store.Event{e})
	}
}

func shown(v *View, after store.Key) string {
	var out []string
	for item := range v.List("ns", after) {
		out = append(out, fmt.Sprintf("%s@%d", item.Key.Name, item.Revision))
	}
	return strings.Join(out, " ")
}

func TestPast(t *testing.T) {
	m := store.NewMemory(1)
	history(m, "+a +b +c ~b -a +d -c +a") // revisions 2 to 9
	for rev, want := range map[int64]string{
		1: "", 2: "a@2", 4: "a@2 b@3 c@4", 5: "a@2 b@5 c@4", 6: "b@5 c@4", 7: "b@5 c@4 d@7", 9: "a@9 b@5 d@7",
	} {
		v, err := At(m, resource, rev)
		if err != nil {
			t.Fatal(err)
		}
		if got := shown(v, store.Key{}); got != want {
			t.Errorf("at %d: %q, want %q", rev, got, want)
		}
		if got := v.Left("", store.Key{}); int(got) != len(strings.Fields(want)) {
			t.Errorf("at %d: %d items, want %q", rev, got, want)
		}
		if got, all := shown(v, store.Key{Namespace: "ns", Name: "b"}), want; !strings.HasSuffix(all, got) || strings.Contains(got, "a@") || strings.Contains(got, "b@") {
			t.Errorf("at %d behind b: %q of %q", rev, got, all)
		}
	}
	if _, err := At(m, resource, 99); err != store.ErrFuture {
		t.Errorf("the future: %v", err)
	}
	m.Compact(5)
	if _, err := At(m, resource, 4); err != store.ErrCompacted {
		t.Errorf("what is compacted: %v", err)
	}
}

func TestToken(t *testing.T) {
	k := store.Key{Namespace: "ns", Name: "b"}
	token, after, err := Parse(After(k, 7, 3))
	if err != nil || token.Revision != 7 || token.Left != 3 || after != k {
		t.Fatalf("%+v %+v %v", token, after, err)
	}
	expired := token.Expired()
	if !apierrors.IsResourceExpired(expired) {
		t.Fatal(expired)
	}
	rest := expired.(apierrors.APIStatus).Status().Continue
	if token, after, err = Parse(rest); err != nil || token.Revision != -1 || token.Left != 0 || after != k {
		t.Errorf("the rest: %+v %+v %v", token, after, err)
	}
}

func FuzzToken(f *testing.F) {
	f.Add("nonsense")
	f.Add(After(store.Key{Namespace: "a", Name: "b"}, 3, 1))
	f.Fuzz(func(t *testing.T, text string) {
		if _, after, err := Parse(text); err == nil && after.Name == "" {
			t.Fatal("a token without a place to go on")
		}
	})
}

func TestSelect(t *testing.T) {
	k := &kinds.Kind{Kind: "ConfigMap"}
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "ns", Labels: map[string]string{"a": "b"}}}
	for _, tc := range []struct {
		labels, fields string
		want           bool
	}{
		{"", "", true},
		{"a=b", "", true},
		{"a!=b", "", false},
		{"", "metadata.name=x", true},
		{"", "metadata.name=y", false},
		{"", "metadata.name!=y,metadata.namespace=ns", true},
		{"a", "metadata.name=x,metadata.namespace=other", false},
	} {
		sel, err := Select(k, tc.labels, tc.fields)
		if err != nil {
			t.Fatal(err)
		}
		if got := sel.Matches(obj); got != tc.want {
			t.Errorf("%q %q: %v", tc.labels, tc.fields, got)
		}
	}
	for _, bad := range [][2]string{{"a b", ""}, {"", "x"}, {"", "spec.x=y"}} {
		if _, err := Select(k, bad[0], bad[1]); !apierrors.IsBadRequest(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func FuzzSelect(f *testing.F) {
	f.Add("a in (b, c),!d,e notin (f),g>1", "metadata.name=x,metadata.namespace!=y")
	f.Add("a==b", `metadata.name=a\,b\=c`)
	k := &kinds.Kind{Kind: "ConfigMap"}
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "ns", Labels: map[string]string{"a": "b", "g": "7"}}}
	f.Fuzz(func(t *testing.T, labels, fields string) {
		sel, err := Select(k, labels, fields)
		if err != nil {
			if !apierrors.IsBadRequest(err) {
				t.Errorf("%q %q: %v", labels, fields, err)
			}
			return
		}
		if !sel.Matches(obj) && sel.All() {
			t.Errorf("%q %q selects all, but not this", labels, fields)
		}
	})
}
