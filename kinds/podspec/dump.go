package podspec

import (
	"bytes"
	"encoding/json"
	"reflect"
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
	if _, own := v.Interface().(json.Marshaler); !own {
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

// dumpFields writes the fields of a struct, those of embedded structs among them.
func dumpFields(b *bytes.Buffer, v reflect.Value) error {
	for i := range v.NumField() {
		if i > 0 {
			b.WriteByte(',')
		}
		f := v.Type().Field(i)
		if f.Anonymous {
			if err := dumpFields(b, v.Field(i)); err != nil {
				return err
			}
			continue
		}
		b.WriteString(`"` + f.Name + `":`)
		if err := dumpTo(b, v.Field(i)); err != nil {
			return err
		}
	}
	return nil
}
