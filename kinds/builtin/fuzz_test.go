package builtin

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"

	"github.com/kebernetes/kebernetes/kinds"
)

// Whatever stands in an object of any kind, it is filled in to the same each time, judged and shown.
func FuzzKinds(f *testing.F) {
	all := Table().All()
	for i := range all {
		f.Add(uint16(i), []byte("an object of which as much is filled in as there is text, which ought to be a good deal"))
	}
	amounts := []string{"0", "1", "-1", "500m", "1Gi", "100n", "1e30", "9223372036854775807"}
	names := []string{"", "a", "A b", "a.b/c", "..", "/", "*", "10.0.0.1", "10.0.0.0/8", "::1", "cpu", "pods", "25%", "-1", "TCP", "http", "v1", "Pod",
		"* * * * *", "@every 1h", "TZ=x * * * * *", "61 * 31 2 *", "Always", "ClusterIP", "NodePort", "RollingUpdate", "In", "Exists", "$(A)"}
	f.Fuzz(func(t *testing.T, index uint16, data []byte) {
		k := all[int(index)%len(all)]
		if k.Storage() == nil {
			return
		}
		fill := randfill.NewFromGoFuzz(data).NilChance(.3).NumElements(0, 3).MaxDepth(10).Funcs(
			func(q *resource.Quantity, c randfill.Continue) {
				*q = resource.MustParse(amounts[c.Intn(len(amounts))])
			},
			func(s *string, c randfill.Continue) { *s = names[c.Intn(len(names))] },
			func(p *intstr.IntOrString, c randfill.Continue) {
				*p = intstr.FromString(names[c.Intn(len(names))])
				if c.Bool() {
					*p = intstr.FromInt32(c.Int31())
				}
			},
			func(at *metav1.Time, c randfill.Continue) { *at = metav1.Unix(c.Int63n(1<<40)-1<<39, 0) },
			func(m *metav1.FieldsV1, c randfill.Continue) {},
			func(r *runtime.RawExtension, c randfill.Continue) { r.Raw = []byte(`{"kind":"x"}`) },
		)
		obj, old := k.Storage().New(), k.Storage().New()
		fill.Fill(obj)
		fill.Fill(old)
		obj.GetObjectKind().SetGroupVersionKind(k.GroupKind().WithVersion(""))
		prepare(k, obj)
		prepare(k, old)
		before := obj.DeepCopyObject()
		judge(k, obj, old)
		if k.Default != nil {
			k.Default(obj)
		}
		if !equality.Semantic.DeepEqual(obj, before) {
			t.Errorf("%s: a check, or a second run of the defaults, changed\n%+v\nto\n%+v", k.Kind, before, obj)
		}
		for _, s := range k.Subresources {
			if s.PrepareUpdate == nil {
				continue
			}
			next := obj.DeepCopyObject().(kinds.Object)
			s.PrepareUpdate(next, old)
			if s.ValidateUpdate != nil {
				_ = s.ValidateUpdate(next, old).ToAggregate()
			}
		}
		if k.PrepareUpdate != nil {
			k.PrepareUpdate(obj, old)
			judge(k, obj, old)
		}
	})
}

func prepare(k *kinds.Kind, obj kinds.Object) {
	if k.Default != nil {
		k.Default(obj)
	}
	if k.PrepareCreate != nil {
		k.PrepareCreate(obj)
	}
	if k.Default != nil {
		k.Default(obj)
	}
}

// judge runs all that looks at an object and changes nothing. Errors are made into text, as they would be in an answer.
func judge(k *kinds.Kind, obj, old kinds.Object) {
	valid := true // warnings are only for what is
	if k.Validate != nil {
		valid = k.Validate(obj).ToAggregate() == nil
	}
	if k.ValidateUpdate != nil {
		_ = k.ValidateUpdate(obj, old).ToAggregate()
	}
	if k.Warnings != nil && valid {
		k.Warnings(obj, nil)
		k.Warnings(obj, old)
	}
	if k.Fields != nil {
		k.Fields(obj)
	}
	if k.Cells != nil {
		k.Cells(obj, metav1.NewTime(time.Unix(1<<31, 0)))
	}
	if k.Scale != nil {
		k.Scale.Get(obj)
	}
}
