package fields

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/builtin"
)

// few draws objects with few fields from few values, so that pairs of them that differ in the same way are frequent.
type few struct{ *rand.Rand }

// fill sets some fields of a value.
func (r few) fill(v reflect.Value, depth int) {
	if depth == 0 {
		return
	}
	switch x := v.Addr().Interface().(type) {
	case *metav1.Time:
		*x = metav1.Unix(int64(r.IntN(3)), 0)
		return
	case *metav1.MicroTime:
		*x = metav1.NewMicroTime(time.UnixMicro(int64(r.IntN(3))))
		return
	case *resource.Quantity:
		*x = resource.MustParse([]string{"0", "1", "1000m", "2"}[r.IntN(4)])
		return
	case *intstr.IntOrString:
		*x = []intstr.IntOrString{{}, intstr.FromInt32(1), intstr.FromString("1"), intstr.FromString("a")}[r.IntN(4)]
		return
	case *runtime.RawExtension:
		x.Raw = []byte([]string{`{"a":1}`, `{"a":2}`, `{"b":[1]}`}[r.IntN(3)])
		return
	case *[]metav1.ManagedFieldsEntry, *metav1.TypeMeta, *metav1.FieldsV1:
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && r.IntN(3) == 0 || v.Type().Field(i).Anonymous {
				r.fill(v.Field(i), depth-1)
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.fill(v.Elem(), depth)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(4), 4))
		for i := range v.Len() {
			r.fill(v.Index(i), depth)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(3) {
			key, x := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			r.fill(key, 1)
			r.fill(x, depth)
			v.SetMapIndex(key, x)
		}
	case reflect.String:
		v.SetString([]string{"", "a", "b", "c"}[r.IntN(4)])
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.IntN(3)))
	case reflect.Uint8:
		v.SetUint(uint64(r.IntN(2)))
	}
}

// change sets some field of an object anew, at some depth.
func (r few) change(obj kinds.Object) {
	v := reflect.ValueOf(obj).Elem()
	for {
		switch {
		case v.Kind() == reflect.Pointer && !v.IsNil() && r.IntN(4) > 0:
			v = v.Elem()
		case v.Kind() == reflect.Slice && v.Len() > 1 && r.IntN(4) == 0:
			reflect.Swapper(v.Interface())(0, v.Len()-1)
			return
		case v.Kind() == reflect.Slice && v.Len() > 0 && r.IntN(4) > 0:
			v = v.Index(r.IntN(v.Len()))
		case v.Kind() == reflect.Struct && v.NumField() > 0 && v.Type().Field(0).IsExported() && r.IntN(8) > 0:
			v = v.Field(r.IntN(v.NumField()))
		default:
			r.fill(v, 5)
			return
		}
	}
}

// revalue exchanges values that no list goes by, the same everywhere, and every tenth time sets any: most equal values stay
// equal, and most others different.
func (r few) revalue(v reflect.Value, s *shapes) {
	if v.IsZero() {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		r.revalue(v.Elem(), s)
	case reflect.Struct:
		t := s.typ(v.Type())
		if t.special {
			r.sometimes(v)
			return
		}
		for i := range t.fields {
			if !t.fields[i].key {
				r.revalue(v.Field(i), s)
			} else if !v.Field(i).IsZero() {
				r.sometimes(v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if v.Index(i).Kind() == reflect.Struct {
				r.revalue(v.Index(i), s)
			} else {
				r.sometimes(v.Index(i))
			}
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			x := reflect.New(v.Type().Elem()).Elem()
			x.Set(v.MapIndex(key))
			r.revalue(x, s)
			v.SetMapIndex(key, x)
		}
	case reflect.String:
		r.sometimes(v)
		if other := map[string]string{"a": "b", "b": "a"}[v.String()]; other != "" {
			v.SetString(other)
		}
	case reflect.Int, reflect.Int32, reflect.Int64:
		r.sometimes(v)
		if v.Int() != 0 {
			v.SetInt(3 - v.Int())
		}
	default:
		r.sometimes(v)
	}
}

// sometimes sets a value to any every tenth time.
func (r few) sometimes(v reflect.Value) {
	if r.IntN(10) == 0 {
		r.fill(v, 2)
	}
}

// TestUpdatedIsWhatTheMergeSays updates objects, one after the other, with managers of fields that remember, and compares
// each outcome with what the library makes of it.
func TestUpdatedIsWhatTheMergeSays(t *testing.T) {
	table := builtin.Table()
	now := time.Unix(1000, 0)
	for _, resource := range []schema.GroupResource{
		{Resource: "configmaps"}, {Resource: "secrets"}, {Resource: "pods"}, {Resource: "nodes"}, {Resource: "services"}, {Resource: "endpoints"},
		{Resource: "serviceaccounts"}, {Group: "apps", Resource: "deployments"}, {Group: "batch", Resource: "jobs"},
		{Group: "networking.k8s.io", Resource: "ingresses"}, {Group: "networking.k8s.io", Resource: "networkpolicies"},
		{Group: "discovery.k8s.io", Resource: "endpointslices"}, {Group: "coordination.k8s.io", Resource: "leases"},
		{Group: "rbac.authorization.k8s.io", Resource: "clusterroles"}, {Group: "storage.k8s.io", Resource: "csinodes"},
	} {
		t.Run(resource.String(), func(t *testing.T) {
			k := table.Resource(resource)
			remembers, plain := New(), New()
			s, err := remembers.shapes()
			if err != nil {
				t.Fatal(err)
			}
			r := few{rand.New(rand.NewPCG(1, 2))}
			again := 0
			for range 100 {
				live := k.Storage().New()
				r.fill(reflect.ValueOf(live).Elem(), 5)
				obj := live.DeepCopyObject().(kinds.Object)
				for range 1 + r.IntN(2) {
					r.change(obj)
				}
				before := r.managed(apiVersion(k, k.Storage()))
				sent := [][]metav1.ManagedFieldsEntry{nil, before, {}}[r.IntN(3)]
				var sub *kinds.Subresource
				if r.IntN(4) == 0 && len(k.Subresources) > 0 {
					sub = &k.Subresources[0]
				}
				for i := range 10 {
					if r.IntN(4) == 0 {
						live, obj = obj, live
					}
					manager := []string{"m", "n"}[i%2]
					for j := range before {
						before[j].Time = &metav1.Time{Time: time.Unix([]int64{1, 2, 5e9}[r.IntN(3)], 0)}
					}
					live.SetManagedFields(before)
					obj.SetManagedFields(sent)
					known := len(remembers.updated)
					got, err := remembers.Updated(k, k.Storage(), sub, live, obj.DeepCopyObject().(kinds.Object), manager, now)
					if err != nil {
						t.Fatal(err)
					}
					if len(remembers.updated) == known {
						again++
					}
					m, err := plain.For(k, k.Storage(), sub)
					if err != nil {
						t.Fatal(err)
					}
					want := m.UpdateNoErrors(live, obj.DeepCopyObject(), manager).(kinds.Object)
					if a, b := dated(got, now), dated(want, now); a != b {
						t.Fatalf("from\n%v\nto\n%v\n%s\nthe merge says\n%s", live, obj, a, b)
					}
					live, obj = live.DeepCopyObject().(kinds.Object), obj.DeepCopyObject().(kinds.Object)
					r.revalue(reflect.ValueOf(live).Elem(), s)
					r.revalue(reflect.ValueOf(obj).Elem(), s)
				}
			}
			if again < 100 {
				t.Errorf("only %d of 1000 updates were like one before", again)
			}
		})
	}
}

// managed draws who managed an object before.
func (r few) managed(version string) (out []metav1.ManagedFieldsEntry) {
	turn := r.IntN(2)
	for i := range r.IntN(3) {
		out = append(out, metav1.ManagedFieldsEntry{
			Manager: []string{"m", "o"}[(i+turn)%2], Operation: []metav1.ManagedFieldsOperationType{"Update", "Apply"}[r.IntN(2)],
			APIVersion: version, FieldsType: "FieldsV1",
			FieldsV1: metav1.NewFieldsV1([]string{`{"f:data":{"f:a":{}}}`, `{"f:metadata":{"f:labels":{"f:a":{}}},"f:spec":{"f:replicas":{}}}`}[r.IntN(2)]),
		})
	}
	return out
}

// dated tells the managers of an object with their times; those since the test began as one.
func dated(obj kinds.Object, now time.Time) (out string) {
	for i, e := range obj.GetManagedFields() {
		if e.Time.Year() < 2100 && e.Time.After(now) {
			e.Time = &metav1.Time{Time: now}
		}
		out += fmt.Sprintln(i, e.Time.Unix(), entries(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{e}}}))
	}
	return out
}

func TestUpdatedForgets(t *testing.T) {
	k := builtin.Table().Resource(schema.GroupResource{Resource: "configmaps"})
	f := New()
	for i := range maxUpdates + 10 {
		live := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}
		if _, err := f.Updated(k, k.Storage(), nil, live, &corev1.ConfigMap{Data: map[string]string{fmt.Sprint(i): ""}}, "m", time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(f.updated); n == 0 || n > maxUpdates {
		t.Errorf("%d outcomes are kept", n)
	}
}

func BenchmarkUpdated(b *testing.B) {
	k := builtin.Table().Resource(schema.GroupResource{Resource: "pods"})
	f := New()
	live, err := f.Created(k, k.Storage(), pod(func(p *corev1.Pod) { p.UID = "u" }), "m", time.Unix(0, 0))
	if err != nil {
		b.Fatal(err)
	}
	obj := live.DeepCopyObject().(*corev1.Pod)
	obj.Status.Phase = corev1.PodRunning
	b.ReportAllocs()
	for b.Loop() {
		obj.SetManagedFields(nil)
		if _, err := f.Updated(k, k.Storage(), nil, live, obj, "kubelet", time.Unix(0, 0)); err != nil {
			b.Fatal(err)
		}
	}
}
