package builtin_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/builtin"
)

// Every row says all that discovery, tables and selectors need, and says it consistently.
func TestRows(t *testing.T) {
	for _, k := range builtin.Kinds() {
		t.Run(k.GroupKind().String(), func(t *testing.T) {
			if k.Resource == "" || k.Resource != strings.ToLower(k.Resource) || len(k.Versions) == 0 {
				t.Errorf("resource %q with %d versions", k.Resource, len(k.Versions))
			}
			stored := 0
			for _, v := range k.Versions {
				if v.Storage {
					stored++
				}
				if (v.ToStorage == nil) != v.Storage || (v.FromStorage == nil) != v.Storage {
					t.Errorf("version %s must convert exactly when it is not stored", v.Name)
				}
				if v.NewList == nil && !k.Virtual {
					t.Errorf("version %s has no list", v.Name)
				}
			}
			if want := map[bool]int{true: 0, false: 1}[k.StoredAs != nil]; stored != want {
				t.Errorf("%d storage versions, want %d", stored, want)
			}
			for _, c := range k.Columns {
				if c.Name == "" || c.Type == "" || c.Description == "" {
					t.Errorf("column %+v says too little", c)
				}
			}
			for _, s := range k.Subresources {
				if len(s.Verbs) == 0 {
					t.Errorf("subresource %s has no verbs", s.Name)
				}
			}
			if (k.Subresource("scale") != nil) != (k.Scale != nil) {
				t.Error("the subresource scale and the row's Scale need each other")
			}
			if (k.Fields == nil) != (k.FieldLabels == nil) {
				t.Error("field labels and fields need each other")
			}
		})
	}
}

// Whatever stands in an object, no hook panics, Default has nothing to add to what it did, nothing but Default and the
// Prepare hooks writes to an object, and all versions of it convert.
func TestHooks(t *testing.T) {
	for _, k := range builtin.Kinds() {
		t.Run(k.GroupKind().String(), func(t *testing.T) {
			empty := k.Storage().New()
			exercise(t, k, empty, empty.DeepCopyObject().(kinds.Object))
			fill := filler(1)
			for range 15 {
				obj, old := k.Storage().New(), k.Storage().New()
				fill.Fill(obj)
				fill.Fill(old)
				exercise(t, k, obj, old)
			}
		})
	}
}

func filler(seed int64) *randfill.Filler {
	words := []string{"", "a", "A b", "a.b", "..", "/", "10.0.0.1", "::1", "10.0.0.0/8", "cpu", "storage", "25%", "In", "kubernetes.io/tls", "ClusterIP", "None", "system-a"}
	amounts := []string{"0", "1", "-1", "500m", "1Gi", "1e30"}
	return randfill.NewWithSeed(seed).NilChance(.3).NumElements(0, 3).MaxDepth(8).Funcs(
		func(s *string, c randfill.Continue) { *s = words[c.Intn(len(words))] },
		func(q *resource.Quantity, c randfill.Continue) {
			*q = resource.MustParse(amounts[c.Intn(len(amounts))])
		},
		func(p *intstr.IntOrString, c randfill.Continue) {
			*p = intstr.FromInt32(c.Int31n(3))
			if c.Bool() {
				*p = intstr.FromString(words[c.Intn(len(words))])
			}
		},
		func(r *runtime.RawExtension, c randfill.Continue) { r.Raw = []byte(`{"a":1}`) },
		func(m *metav1.ObjectMeta, c randfill.Continue) {
			c.Fill(&m.Name)
			c.Fill(&m.Namespace)
			c.Fill(&m.Labels)
			c.Fill(&m.Annotations)
			c.Fill(&m.OwnerReferences)
		},
		func(tm *metav1.TypeMeta, _ randfill.Continue) {},
	)
}

func exercise(t *testing.T, k *kinds.Kind, obj, old kinds.Object) {
	t.Helper()
	unchanged := func(what string, f func()) {
		before, oldBefore := dump(t, obj), dump(t, old)
		f()
		if dump(t, obj) != before || dump(t, old) != oldBefore {
			t.Errorf("%s changed an object", what)
		}
	}
	for _, o := range []kinds.Object{obj, old} {
		if k.Default != nil {
			k.Default(o)
			unchanged("a second Default", func() { k.Default(o) })
		}
	}
	if k.PrepareCreate != nil {
		k.PrepareCreate(old)
	}
	if k.PrepareUpdate != nil {
		k.PrepareUpdate(obj, old)
	}
	for i := range k.Subresources {
		s := &k.Subresources[i]
		if s.NewBody != nil && s.DefaultBody != nil {
			body := s.NewBody()
			s.DefaultBody(body)
			if s.ValidateBody != nil {
				_ = lines(s.ValidateBody(body))
			}
		}
		if s.PrepareUpdate == nil {
			continue
		}
		through := obj.DeepCopyObject().(kinds.Object)
		s.PrepareUpdate(through, old.DeepCopyObject().(kinds.Object))
		if s.Stamp != nil {
			s.Stamp(through, old, now)
		}
		if s.ValidateUpdate != nil {
			_ = lines(s.ValidateUpdate(through, old))
		}
	}
	wrong := ""
	unchanged("validation", func() {
		if k.Validate != nil {
			wrong += lines(k.Validate(old)) + lines(k.Validate(obj))
		}
		if k.ValidateUpdate != nil {
			_ = lines(k.ValidateUpdate(obj, old))
		}
	})
	unchanged("printing", func() {
		if wrong == "" { // the server warns only of what it accepts
			warn(k.Warnings, old, nil)
			warn(k.Warnings, obj, old)
		}
		if k.SpecChanged != nil {
			k.SpecChanged(obj, old)
		}
		if k.Scale != nil {
			k.Scale.Get(obj)
		}
		printed(t, k, obj)
	})
	for _, v := range k.Versions {
		if v.FromStorage == nil {
			continue
		}
		there, err := v.FromStorage(obj.DeepCopyObject().(kinds.Object))
		if err != nil || reflect.TypeOf(there) != reflect.TypeOf(v.New()) {
			t.Fatalf("to %s: %T, %v", v.Name, there, err)
		}
		back, err := v.ToStorage(there)
		if err != nil || reflect.TypeOf(back) != reflect.TypeOf(obj) {
			t.Fatalf("from %s: %T, %v", v.Name, back, err)
		}
	}
}

func printed(t *testing.T, k *kinds.Kind, obj kinds.Object) {
	if k.Cells != nil {
		if cells := k.Cells(obj, now); len(cells) != len(k.Columns) {
			t.Errorf("%d cells for %d columns", len(cells), len(k.Columns))
		}
	}
	if k.Fields == nil {
		return
	}
	for name := range k.Fields(obj) {
		if name != "metadata.name" && name != "metadata.namespace" && !slices.Contains(k.FieldLabels, name) {
			t.Errorf("field %s has no label that would let anyone select by it", name)
		}
	}
}

func dump(t *testing.T, v any) string {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
