package fields

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A difference holds, of two objects of one type, all that decides which fields were added, removed and modified from one
// to the other: the shapes of both, and of each value that both have, whether it is the same. Values themselves are in it
// only where they tell elements of lists apart. Pairs of objects with one difference are all the same to the library that
// merges fields, whether it compares or refuses them.

// In a difference, who has a field, a key of a map or an element of a list.
const (
	onlyOld = 1 + iota
	onlyNew
	inBoth
)

// between appends the difference of two objects. ok is false when more than that decides.
func (s *shapes) between(out []byte, was, is any) (difference []byte, ok bool) {
	a, b := reflect.ValueOf(was).Elem(), reflect.ValueOf(is).Elem()
	if a.Type() != b.Type() {
		return out, false
	}
	return s.differ(out, a, b)
}

// differ appends the difference of two values of one type, neither of which is zero unless they are elements of a list.
func (s *shapes) differ(out []byte, a, b reflect.Value) ([]byte, bool) {
	switch a.Kind() {
	case reflect.Struct:
		t := s.typ(a.Type())
		if t.special {
			return differSpecial(out, a, b)
		}
		return s.differStruct(out, a, b, t.fields)
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() { // in a list
			return out, false
		}
		return s.differ(out, a.Elem(), b.Elem())
	case reflect.Map:
		return s.differMap(out, a, b)
	case reflect.Slice:
		return s.differList(out, a, b)
	case reflect.String:
		return appendFlag(out, a.String() == b.String()), true
	case reflect.Bool:
		return appendFlag(out, a.Bool() == b.Bool()), true
	}
	if a.CanInt() {
		return appendFlag(out, a.Int() == b.Int()), true
	}
	return out, false
}

// differSpecial compares what encodes itself in its own way, by what it encodes to.
func differSpecial(out []byte, a, b reflect.Value) (_ []byte, ok bool) {
	switch x := a.Addr().Interface().(type) {
	case *metav1.Time:
		y := b.Addr().Interface().(*metav1.Time)
		out = appendFlag(appendFlag(out, x.IsZero()), y.IsZero())
		return appendFlag(out, x.Unix() == y.Unix()), true
	case *metav1.MicroTime:
		y := b.Addr().Interface().(*metav1.MicroTime)
		out = appendFlag(appendFlag(out, x.IsZero()), y.IsZero())
		return appendFlag(out, x.UnixMicro() == y.UnixMicro()), true
	case *metav1.Duration:
		return appendFlag(out, x.Duration == b.Addr().Interface().(*metav1.Duration).Duration), true
	case *resource.Quantity:
		y := b.Addr().Interface().(*resource.Quantity)
		return appendFlag(out, quantityText(x) == quantityText(y)), true
	case *intstr.IntOrString, *runtime.RawExtension:
		if out, ok = appendSpecial(out, a); !ok {
			return out, false
		}
		return appendSpecial(out, b)
	}
	return out, false
}

// quantityText is how a quantity encodes. It leaves the quantity alone, which remembers its text when asked itself: others
// may be reading it.
func quantityText(q *resource.Quantity) string {
	own := *q
	return own.String()
}

func (s *shapes) differStruct(out []byte, a, b reflect.Value, fields []shapeField) (_ []byte, ok bool) {
	for i := range fields {
		x, y := a.Field(i), b.Field(i)
		noX, noY := x.IsZero(), y.IsZero()
		if noX && noY {
			continue
		}
		out = binary.AppendUvarint(out, uint64(i+1))
		switch {
		case noY:
			out, ok = s.append(append(out, onlyOld), x, presence)
		case noX:
			out, ok = s.append(append(out, onlyNew), y, presence)
		default:
			out, ok = s.differ(append(out, inBoth), x, y)
		}
		if !ok {
			return out, false
		}
	}
	return append(out, 0), true
}

func (s *shapes) differMap(out []byte, a, b reflect.Value) (_ []byte, ok bool) {
	if a.Type().Key().Kind() != reflect.String {
		return out, false
	}
	if x, plain := a.Interface().(map[string]string); plain {
		return differTexts(out, x, b.Interface().(map[string]string)), true
	}
	keys := make([]string, 0, a.Len()+b.Len())
	for _, m := range []reflect.Value{a, b} {
		for _, k := range m.MapKeys() {
			keys = append(keys, k.String())
		}
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	out = binary.AppendUvarint(out, uint64(len(keys)))
	for _, k := range keys {
		key := reflect.ValueOf(k).Convert(a.Type().Key())
		if out, ok = s.differEntry(appendText(out, k), mapEntry(a, key), mapEntry(b, key)); !ok {
			return out, false
		}
	}
	return out, true
}

// mapEntry is a copy of a map's value, which can be addressed; the zero Value when there is none.
func mapEntry(m, key reflect.Value) reflect.Value {
	v := m.MapIndex(key)
	if !v.IsValid() {
		return v
	}
	x := reflect.New(v.Type()).Elem()
	x.Set(v)
	return x
}

// differEntry appends the difference of two values of one key, of which one may be missing.
func (s *shapes) differEntry(out []byte, x, y reflect.Value) (_ []byte, ok bool) {
	switch {
	case !y.IsValid():
		return s.entry(append(out, onlyOld), x)
	case !x.IsValid():
		return s.entry(append(out, onlyNew), y)
	case x.IsZero() || y.IsZero():
		out = append(out, inBoth, 0)
		if out, ok = s.entry(out, x); !ok {
			return out, false
		}
		if out, ok = s.entry(out, y); !ok {
			return out, false
		}
		return appendFlag(out, x.IsZero() == y.IsZero()), true
	}
	return s.differ(append(out, inBoth, 1), x, y)
}

// entry appends the shape of a map's value, which may be zero.
func (s *shapes) entry(out []byte, v reflect.Value) (_ []byte, ok bool) {
	if v.IsZero() {
		return append(out, 0), true
	}
	return s.append(append(out, 1), v, presence)
}

// differTexts is differMap for the commonest of maps.
func differTexts(out []byte, a, b map[string]string) []byte {
	var room [16]string
	keys := room[:0]
	for k := range a {
		keys = append(keys, k)
	}
	for k := range b {
		if _, both := a[k]; !both {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	out = binary.AppendUvarint(out, uint64(len(keys)))
	for _, k := range keys {
		out = appendText(out, k)
		x, old := a[k]
		y, now := b[k]
		switch {
		case !now:
			out = append(out, onlyOld)
		case !old:
			out = append(out, onlyNew)
		default:
			out = appendFlag(append(out, inBoth), x == y)
		}
	}
	return out
}

func (s *shapes) differList(out []byte, a, b reflect.Value) (_ []byte, ok bool) {
	e := a.Type().Elem()
	if e.Kind() == reflect.Uint8 {
		x, y := a.Bytes(), b.Bytes()
		out = appendFlag(appendFlag(out, len(x) == 0), len(y) == 0)
		return appendFlag(out, bytes.Equal(x, y)), true
	}
	if e.Kind() == reflect.Pointer {
		e = e.Elem()
	}
	switch {
	case e.Kind() != reflect.Struct: // the values are what tells its elements apart
		if out, ok = s.appendList(out, a, element); !ok {
			return out, false
		}
		return s.appendList(out, b, element)
	case s.typ(e).special:
		return out, false
	}
	if inOrder, ok := s.differInOrder(out, a, b); ok {
		return inOrder, true
	}
	return s.differOutOfOrder(out, a, b)
}

// differInOrder appends the difference of two lists whose elements are the same, one after the other, by what tells them
// apart: nearly all lists.
func (s *shapes) differInOrder(out []byte, a, b reflect.Value) (_ []byte, ok bool) {
	if a.Len() != b.Len() {
		return out, false
	}
	out = binary.AppendUvarint(append(out, 1), uint64(a.Len()))
	var room [128]byte
	for i := range a.Len() {
		x, y := a.Index(i), b.Index(i)
		start := len(out)
		if out, ok = s.appendName(out, x); !ok {
			return out, false
		}
		name, ok := s.appendName(room[:0], y)
		if !ok || !bytes.Equal(out[start:], name) {
			return out, false
		}
		if out, ok = s.differ(out, x, y); !ok {
			return out, false
		}
	}
	return out, true
}

// differOutOfOrder appends the difference of two lists by pairs of elements that nothing tells apart. It gives up where
// names repeat, and where both lists have elements that the other has not: the library, which goes by less, may still take
// some of those for the same.
func (s *shapes) differOutOfOrder(out []byte, a, b reflect.Value) (_ []byte, ok bool) {
	old, ok := s.names(a)
	if !ok {
		return out, false
	}
	now, ok := s.names(b)
	if !ok {
		return out, false
	}
	out = binary.AppendUvarint(append(out, 2), uint64(a.Len()))
	out = binary.AppendUvarint(out, uint64(b.Len()))
	pairs := 0
	for i := range a.Len() {
		name := old.of[i]
		out = appendText(out, name)
		if j, both := now.at[name]; both {
			pairs++
			out, ok = s.differ(binary.AppendUvarint(append(out, inBoth), uint64(j)), a.Index(i), b.Index(j))
		} else {
			out, ok = s.append(append(out, onlyOld), a.Index(i), element)
		}
		if !ok {
			return out, false
		}
	}
	if pairs < a.Len() && pairs < b.Len() {
		return out, false
	}
	for j := range b.Len() {
		if _, both := old.at[now.of[j]]; both {
			continue
		}
		out = appendText(binary.AppendUvarint(out, uint64(j)), now.of[j])
		if out, ok = s.append(out, b.Index(j), element); !ok {
			return out, false
		}
	}
	return out, true
}

// listNames are what tells the elements of a list apart, and where each is.
type listNames struct {
	of []string
	at map[string]int
}

// names returns the names of a list's elements, unless some have the same.
func (s *shapes) names(list reflect.Value) (out listNames, ok bool) {
	out.at = make(map[string]int, list.Len())
	var room [128]byte
	for i := range list.Len() {
		name, ok := s.appendName(room[:0], list.Index(i))
		if _, twice := out.at[string(name)]; !ok || twice {
			return out, false
		}
		out.of = append(out.of, string(name))
		out.at[out.of[i]] = i
	}
	return out, true
}

// appendName appends the fields of a struct that may tell it apart in a list, with their values.
func (s *shapes) appendName(out []byte, v reflect.Value) (_ []byte, ok bool) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return out, false
		}
		v = v.Elem()
	}
	for i, f := range s.typ(v.Type()).fields {
		if !f.key && !f.inline || v.Field(i).IsZero() {
			continue
		}
		out = binary.AppendUvarint(out, uint64(i+1))
		if f.inline && v.Field(i).Kind() == reflect.Struct {
			out, ok = s.appendName(out, v.Field(i))
		} else {
			out, ok = s.append(out, v.Field(i), whole)
		}
		if !ok {
			return out, false
		}
	}
	return append(out, 0), true
}
