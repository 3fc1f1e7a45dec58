package fields

import (
	"encoding/binary"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
)

// shapes describes objects by all that decides which fields they have: which fields are set, the keys of their maps, and the
// values by which elements of lists are told apart. Objects of one type and one shape have the same set of fields; most
// objects that a cluster sees differ from an earlier one in values alone.
type shapes struct {
	// keys are the names of all fields that are a key of some list in the merge schema: the names of containers, the numbers
	// of ports.
	keys map[string]bool
	// types holds what is known of each struct type seen, *shapeType by reflect.Type.
	types sync.Map
}

// shapeType is a struct type; special says that it encodes itself in its own way.
type shapeType struct {
	special bool
	fields  []shapeField
}

// shapeField is a field of a struct; key says that it may tell elements of a list apart, inline that its own fields may.
type shapeField struct{ key, inline bool }

func newShapes(s *smdschema.Schema) *shapes {
	out := &shapes{keys: map[string]bool{}}
	add := func(a smdschema.Atom) {
		if a.List != nil {
			for _, k := range a.List.Keys {
				out.keys[k] = true
			}
		}
	}
	for i := range s.Types {
		add(s.Types[i].Atom)
		if m := s.Types[i].Map; m != nil {
			add(m.ElementType.Inlined)
			for j := range m.Fields {
				add(m.Fields[j].Type.Inlined)
			}
		}
	}
	return out
}

// detail is how much of a value the shape holds.
type detail uint8

const (
	presence detail = iota // of scalars, that they are there
	element                // of a struct, the values of its key fields
	whole                  // of scalars, their values
)

// of appends the shape of an object. ok is false when it has parts whose fields nothing but their encoding tells.
func (s *shapes) of(out []byte, obj any) (shape []byte, ok bool) {
	return s.append(out, reflect.ValueOf(obj).Elem(), presence)
}

// append appends the shape of a value, which is not zero unless it is an element of a list.
func (s *shapes) append(out []byte, v reflect.Value, d detail) ([]byte, bool) {
	switch v.Kind() {
	case reflect.Struct:
		t := s.typ(v.Type())
		if t.special {
			return appendSpecial(out, v)
		}
		return s.appendStruct(out, v, t.fields, d)
	case reflect.Pointer:
		if v.IsNil() { // in a list
			return out, false
		}
		return s.append(out, v.Elem(), d)
	case reflect.Map:
		return s.appendMap(out, v)
	case reflect.Slice:
		return s.appendList(out, v, d)
	case reflect.Interface, reflect.Array, reflect.Func, reflect.Chan:
		return out, false
	}
	if d == whole {
		return appendScalar(out, v)
	}
	return out, true
}

func appendScalar(out []byte, v reflect.Value) (_ []byte, ok bool) {
	switch {
	case v.Kind() == reflect.String:
		return appendText(out, v.String()), true
	case v.Kind() == reflect.Bool:
		return appendFlag(out, v.Bool()), true
	case v.CanInt():
		return binary.AppendVarint(out, v.Int()), true
	}
	return out, false // no list is keyed by anything else
}

func appendText[T string | []byte](out []byte, s T) []byte {
	return append(binary.AppendUvarint(out, uint64(len(s))), s...)
}

// appendSpecial appends what encodes itself in its own way.
func appendSpecial(out []byte, v reflect.Value) (_ []byte, ok bool) {
	switch x := v.Addr().Interface().(type) {
	case *metav1.Time:
		return appendFlag(out, x.IsZero()), true
	case *metav1.MicroTime:
		return appendFlag(out, x.IsZero()), true
	case *metav1.Duration:
		return out, true
	case *resource.Quantity:
		return appendText(out, quantityText(x)), true
	case *intstr.IntOrString:
		return appendText(append(out, byte(x.Type)), x.String()), true
	case *runtime.RawExtension:
		return appendText(out, x.Raw), x.Object == nil
	}
	return out, false
}

var marshaler = reflect.TypeFor[json.Marshaler]()

func appendFlag(out []byte, b bool) []byte {
	if b {
		return append(out, 1)
	}
	return append(out, 0)
}

// appendStruct appends the numbers of the fields that are set, each with its shape, and an end.
func (s *shapes) appendStruct(out []byte, v reflect.Value, fields []shapeField, d detail) (_ []byte, ok bool) {
	for i, f := range fields {
		x := v.Field(i)
		if x.IsZero() {
			continue
		}
		of := presence
		switch {
		case d == presence:
		case f.inline:
			of = d
		case f.key:
			of = whole
		}
		out = binary.AppendUvarint(out, uint64(i+1))
		if out, ok = s.append(out, x, of); !ok {
			return out, false
		}
	}
	return append(out, 0), true
}

func (s *shapes) typ(t reflect.Type) *shapeType {
	if known, ok := s.types.Load(t); ok {
		return known.(*shapeType)
	}
	out := &shapeType{special: reflect.PointerTo(t).Implements(marshaler), fields: make([]shapeField, t.NumField())}
	for i := range out.fields {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		out.fields[i] = shapeField{key: s.keys[name], inline: f.Anonymous}
	}
	s.types.Store(t, out)
	return out
}

// appendMap appends the keys in order; of their values, whatever they hold inside.
func (s *shapes) appendMap(out []byte, v reflect.Value) (_ []byte, ok bool) {
	if v.Type().Key().Kind() != reflect.String {
		return out, false
	}
	keys := make([]string, 0, v.Len())
	scalar := isScalar(v.Type().Elem())
	if m, plain := v.Interface().(map[string]string); plain {
		for k := range m {
			keys = append(keys, k)
		}
	} else {
		for _, k := range v.MapKeys() {
			keys = append(keys, k.String())
		}
	}
	slices.Sort(keys)
	out = binary.AppendUvarint(out, uint64(len(keys)))
	for _, k := range keys {
		out = appendText(out, k)
		if scalar {
			continue
		}
		x := reflect.New(v.Type().Elem()).Elem()
		x.Set(v.MapIndex(reflect.ValueOf(k).Convert(v.Type().Key())))
		if x.IsZero() {
			out = append(out, 0)
			continue
		}
		if out, ok = s.append(append(out, 1), x, whole); !ok {
			return out, false
		}
	}
	return out, true
}

// isScalar says that a type's values are fields without fields of their own.
func isScalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int32, reflect.Int64:
		return true
	}
	return t == reflect.TypeFor[resource.Quantity]() || t == reflect.TypeFor[[]byte]()
}

func (s *shapes) appendList(out []byte, v reflect.Value, d detail) (_ []byte, ok bool) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		return appendFlag(out, v.Len() == 0), true
	}
	of := element
	if v.Type().Elem().Kind() != reflect.Struct {
		of = whole
	}
	out = binary.AppendUvarint(out, uint64(v.Len()))
	for i := range v.Len() {
		if out, ok = s.append(out, v.Index(i), of); !ok {
			return out, false
		}
	}
	return out, true
}
