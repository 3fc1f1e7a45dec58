package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	// maxDigits and maxExponent bound the digits of a quantity and those of its exponent. The largest amount that the API can
	// count has 19 digits; the time that it takes to read a quantity grows with the number that it names, not with its text.
	maxDigits   = 128
	maxExponent = 3
	// deepest is how many levels JSON may be nested; the decoders' own bound.
	deepest = 10_000
)

var errTooDeep = errors.New("exceeded max depth")

// Quantity is resource.ParseQuantity for text that anybody may have written: what would take long to read is refused.
func Quantity(text string) (resource.Quantity, error) {
	if err := costly(text); err != nil {
		return resource.Quantity{}, err
	}
	return resource.ParseQuantity(text)
}

// costly refuses a quantity that it would take long to read, or to calculate with, as a malformed one is refused.
func costly(text string) error {
	digits := 0
	for i := range len(text) {
		if isDigit(text[i]) {
			digits++
		}
	}
	if digits > maxDigits {
		return resource.ErrNumeric
	}
	if i := strings.LastIndexAny(text, "eE"); i >= 0 {
		exponent := strings.TrimRight(strings.TrimLeft(text[i+1:], "+-"), " \t\r\n")
		if len(exponent) > maxExponent && isDigit(exponent[0]) {
			return resource.ErrSuffix
		}
	}
	return nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// JSONQuantities refuses JSON for type t that holds a quantity which would take long to read. It is to be asked before the
// JSON is decoded. Text without a number of such a form, wherever it stands, costs a look at every fourth byte.
func JSONQuantities(data []byte, t reflect.Type) error {
	if !suspicious(data) && !escaped(data) {
		return nil
	}
	w := walker{holds: map[reflect.Type]bool{}}
	if !w.holdsQuantity(t) {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return w.json(d, t, 0)
}

// ProtobufQuantities is JSONQuantities for a protobuf message of type t, as the API's types are generated.
func ProtobufQuantities(data []byte, t reflect.Type) error {
	if !suspicious(data) {
		return nil
	}
	w := walker{holds: map[reflect.Type]bool{}}
	if !w.holdsQuantity(t) {
		return nil
	}
	return w.message(data, t)
}

// runLeast is the shortest run of digits that can make a quantity costly: an exponent's.
const runLeast = maxExponent + 1

// suspicious tells whether data holds a number with a long exponent or with very many digits: a run of digits of which one,
// at least, is at a place that is looked at.
func suspicious(data []byte) bool {
	for i := runLeast - 1; i < len(data); i += runLeast {
		if !isDigit(data[i]) {
			continue
		}
		begin, end := i, i+1
		for begin > 0 && isDigit(data[begin-1]) {
			begin--
		}
		for end < len(data) && isDigit(data[end]) {
			end++
		}
		if end-begin > maxDigits/2 || end-begin >= runLeast && afterExponent(data[:begin]) {
			return true
		}
		i = max(i, end-runLeast) // the next look is behind the run
	}
	return false
}

// afterExponent tells whether what comes before a run of digits makes it an exponent.
func afterExponent(before []byte) bool {
	before = bytes.TrimRight(before, "+-")
	return len(before) > 0 && before[len(before)-1]|0x20 == 'e'
}

// escaped tells whether JSON holds a part of a number that is written as an escape.
func escaped(data []byte) bool {
	for {
		i := bytes.Index(data, []byte(`\u00`))
		if i < 0 || len(data) < i+6 {
			return false
		}
		if c, err := strconv.ParseUint(string(data[i+4:i+6]), 16, 8); err == nil && strings.IndexByte("0123456789eE+-.", byte(c)) >= 0 {
			return true
		}
		data = data[i+4:]
	}
}

var quantityType = reflect.TypeFor[resource.Quantity]()

// walker goes through data beside the type that it is for.
type walker struct {
	holds map[reflect.Type]bool
}

// holdsQuantity tells whether values of a type can hold quantities.
func (w walker) holdsQuantity(t reflect.Type) bool {
	if t == nil {
		return false
	}
	if t == quantityType {
		return true
	}
	if known, ok := w.holds[t]; ok {
		return known
	}
	w.holds[t] = false // for a type that contains itself
	found := false
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		found = w.holdsQuantity(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			found = found || w.holdsQuantity(t.Field(i).Type)
		}
	}
	w.holds[t] = found
	return found
}

// within is the type that a pointer leads to; nil for one without quantities.
func (w walker) within(t reflect.Type) reflect.Type {
	if !w.holdsQuantity(t) {
		return nil
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// json reads one value of type t, nil for one that holds no quantity.
func (w walker) json(d *json.Decoder, t reflect.Type, depth int) error {
	if depth > deepest {
		return errTooDeep
	}
	token, err := d.Token()
	if err != nil {
		return unfinished(err)
	}
	t = w.within(t)
	switch v := token.(type) {
	case json.Delim:
		for d.More() {
			var child reflect.Type
			if v == '{' {
				name, err := d.Token()
				if err != nil {
					return unfinished(err)
				}
				child = member(t, name)
			} else if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
				child = t.Elem()
			}
			if err := w.json(d, child, depth+1); err != nil {
				return err
			}
		}
		_, err := d.Token()
		return unfinished(err)
	case string:
		if t == quantityType {
			return costly(v)
		}
	case json.Number:
		if t == quantityType {
			return costly(v.String())
		}
	}
	return nil
}

// unfinished leaves it to the decoder to say what is wrong with data that ends too early.
func unfinished(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// member is the type of a member of a JSON object.
func member(t reflect.Type, name json.Token) reflect.Type {
	key, ok := name.(string)
	if t == nil || !ok {
		return nil
	}
	switch t.Kind() {
	case reflect.Map:
		return t.Elem()
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if tag == "" && f.Anonymous {
				if f.Type.Kind() == reflect.Struct && f.Type != quantityType {
					if found := member(f.Type, name); found != nil {
						return found
					}
				}
			} else if strings.EqualFold(tag, key) {
				return f.Type
			}
		}
	}
	return nil
}

// message reads a message of a type that holds quantities: a struct, or an entry of a map.
func (w walker) message(data []byte, t reflect.Type) error {
	t = w.within(t)
	for len(data) > 0 {
		number, wireType, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		size := protowire.ConsumeFieldValue(number, wireType, data)
		if size < 0 {
			return protowire.ParseError(size)
		}
		value := data[:size]
		data = data[size:]
		if wireType != protowire.BytesType {
			continue
		}
		value, _ = protowire.ConsumeBytes(value)
		if t == quantityType {
			if number == 1 {
				if err := costly(string(value)); err != nil {
					return err
				}
			}
			continue
		}
		if err := w.field(value, t, number); err != nil {
			return err
		}
	}
	return nil
}

// field reads a field of a message of type t.
func (w walker) field(value []byte, t reflect.Type, number protowire.Number) error {
	of := w.within(numbered(t, number))
	if of == nil {
		return nil
	}
	if of.Kind() == reflect.Slice || of.Kind() == reflect.Array {
		of = of.Elem()
	}
	return w.message(value, of)
}

// numbered is the type of the field of a message that has a number.
func numbered(t reflect.Type, number protowire.Number) reflect.Type {
	if t.Kind() == reflect.Map && number == 2 { // a map's entry is a message of key and value
		return t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	for i := range t.NumField() {
		parts := strings.SplitN(t.Field(i).Tag.Get("protobuf"), ",", 3)
		if len(parts) > 1 && parts[1] == strconv.Itoa(int(number)) {
			return t.Field(i).Type
		}
	}
	return nil
}
