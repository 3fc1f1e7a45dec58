package podspec

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Dump is a value that validation prints whole, as upstream prints it: JSON with Go field names and every field, absent
// ones as null, because upstream's internal types have no JSON names.
func Dump(v any) json.Marshaler { return dump{v} }

type dump struct{ value any }

func (d dump) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	if err := dumpTo(&b, reflect.ValueOf(d.value)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func dumpTo(b *bytes.Buffer, v reflect.Value) error {
	if !v.IsValid() || (v.Kind() == reflect.Pointer || v.Kind() == reflect.Map || v.Kind() == reflect.Slice) && v.IsNil() {
		b.WriteString("null")
		return nil
	}
	// The types of apimachinery have JSON names upstream too.
	if _, own := v.Interface().(json.Marshaler); !own && !ofMachinery(v.Type()) {
		switch v.Kind() {
		case reflect.Pointer:
			return dumpTo(b, v.Elem())
		case reflect.Struct:
			b.WriteByte('{')
			err := dumpFields(b, v)
			b.WriteByte('}')
			return err
		case reflect.Slice:
			b.WriteByte('[')
			for i := range v.Len() {
				if i > 0 {
					b.WriteByte(',')
				}
				if err := dumpTo(b, v.Index(i)); err != nil {
					return err
				}
			}
			b.WriteByte(']')
			return nil
		}
	}
	out, err := json.Marshal(v.Interface())
	b.Write(out)
	return err
}

func ofMachinery(t reflect.Type) bool { return strings.HasPrefix(t.PkgPath(), "k8s.io/apimachinery/") }

// dumpFields writes the fields of a struct, those of embedded structs among them. The kind is no field upstream.
func dumpFields(b *bytes.Buffer, v reflect.Value) error {
	separator := ""
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Type == reflect.TypeFor[metav1.TypeMeta]() {
			continue
		}
		var inner bytes.Buffer
		var err error
		switch {
		case f.Anonymous && ofMachinery(f.Type):
			var out []byte
			out, err = json.Marshal(v.Field(i).Interface())
			inner.Write(bytes.TrimSuffix(bytes.TrimPrefix(out, []byte("{")), []byte("}")))
		case f.Anonymous:
			err = dumpFields(&inner, v.Field(i))
		default:
			inner.WriteString(`"` + f.Name + `":`)
			err = dumpTo(&inner, v.Field(i))
		}
		if err != nil {
			return err
		}
		if inner.Len() > 0 {
			b.WriteString(separator)
			b.Write(inner.Bytes())
			separator = ","
		}
	}
	return nil
}
