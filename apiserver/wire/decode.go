package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// protobufMagic starts every protobuf message of the API.
var protobufMagic = []byte{'k', '8', 's', 0}

// Decode decodes data into obj. It returns the faults that only strictness minds, unless lenient.
func Decode(obj runtime.Object, wanted schema.GroupVersionKind, data []byte, f Format, lenient bool) (strict []error, err error) {
	switch f {
	case Protobuf:
		return nil, decodeProtobuf(obj, wanted, data)
	case YAML:
		j, err := yaml.YAMLToJSON(data)
		if err != nil {
			return nil, errSyntax{err}
		}
		if !lenient {
			if _, err := yaml.YAMLToJSONStrict(data); err != nil {
				strict = append(strict, err)
			}
		}
		more, err := decodeJSON(obj, j, lenient)
		return append(strict, more...), err
	}
	return decodeJSON(obj, data, lenient)
}

func decodeJSON(obj runtime.Object, data []byte, lenient bool) (strict []error, err error) {
	var into any = obj
	u, free := obj.(runtime.Unstructured)
	content := map[string]any{}
	if free {
		into = &content
	} else if err := check.JSONQuantities(data, reflect.TypeOf(obj)); err != nil {
		return nil, err
	}
	if lenient {
		err = kjson.UnmarshalCaseSensitivePreserveInts(data, into)
	} else {
		strict, err = kjson.UnmarshalStrict(data, into)
	}
	if free && err == nil {
		u.SetUnstructuredContent(content)
	}
	return strict, err
}

// errSyntax marks a body that is not even the format it claims to be.
type errSyntax struct{ error }

// Message is what generated API types can do.
type Message interface {
	Marshal() ([]byte, error)
	MarshalToSizedBuffer([]byte) (int, error)
	Size() int
	Unmarshal([]byte) error
}

// decodeProtobuf reads the envelope (magic, then k8s.io/apimachinery's runtime.Unknown) and the object in it, without
// copying the object's bytes.
func decodeProtobuf(obj runtime.Object, wanted schema.GroupVersionKind, data []byte) error {
	m, ok := obj.(Message)
	if !ok {
		return &UnsupportedBody
	}
	data, ok = bytes.CutPrefix(data, protobufMagic)
	if !ok {
		return errSyntax{fmt.Errorf("provided data does not appear to be a protobuf message, expected prefix %v", protobufMagic)}
	}
	typeMeta, raw, err := openEnvelope(data)
	if err != nil {
		return errSyntax{err}
	}
	var tm runtime.TypeMeta
	if err := decodeTypeMeta(&tm, typeMeta); err != nil {
		return errSyntax{err}
	}
	if err := check.ProtobufQuantities(raw, reflect.TypeOf(obj)); err != nil {
		return err
	}
	if err := m.Unmarshal(raw); err != nil {
		return err
	}
	gv, err := schema.ParseGroupVersion(tm.APIVersion)
	if err != nil {
		return err
	}
	if tm.APIVersion == "" {
		gv = wanted.GroupVersion()
	}
	if tm.Kind == "" {
		tm.Kind = wanted.Kind
	}
	obj.GetObjectKind().SetGroupVersionKind(gv.WithKind(tm.Kind))
	return nil
}

var errTruncated = errors.New("unexpected EOF")

// openEnvelope returns the two fields of the envelope that matter: 1, the kind, and 2, the object.
func openEnvelope(data []byte) (typeMeta, raw []byte, err error) {
	err = eachField(data, func(number uint64, value []byte) {
		switch number {
		case 1:
			typeMeta = value
		case 2:
			raw = value
		}
	})
	return typeMeta, raw, err
}

func decodeTypeMeta(tm *runtime.TypeMeta, data []byte) error {
	return eachField(data, func(number uint64, value []byte) {
		switch number {
		case 1:
			tm.APIVersion = string(value)
		case 2:
			tm.Kind = string(value)
		}
	})
}

// eachField calls f for each field of a protobuf message all of whose fields are bytes or strings.
func eachField(data []byte, f func(number uint64, value []byte)) error {
	for len(data) > 0 {
		tag, n := binary.Uvarint(data)
		if n <= 0 || tag&7 != 2 {
			return errTruncated
		}
		size, m := binary.Uvarint(data[n:])
		if m <= 0 || size > uint64(len(data)-n-m) {
			return errTruncated
		}
		data = data[n+m:]
		f(tag>>3, data[:size])
		data = data[size:]
	}
	return nil
}

// RightKind checks that the body was of the kind wanted; one that does not say is.
func RightKind(obj runtime.Object, wanted schema.GroupVersionKind) error {
	got := obj.GetObjectKind().GroupVersionKind()
	if (got.Kind == "" || got.Kind == wanted.Kind) && (got.Version == "" || got.GroupVersion() == wanted.GroupVersion()) {
		return nil
	}
	return errWrongKind
}

var errWrongKind = errors.New("wrong kind")

// Refuse words the refusal of a body as upstream does, by what is wrong with it first: its syntax, its kind, its fields.
func Refuse(scheme *runtime.Scheme, data []byte, f Format, wanted schema.GroupVersionKind, err error) error {
	var syntax errSyntax
	if errors.As(err, &syntax) {
		return unrecognised(wanted, syntax.error, data)
	}
	var api apierrors.APIStatus
	if errors.As(err, &api) {
		return err
	}
	got := wanted
	if f != Protobuf {
		j := data
		if f == YAML {
			j, _ = yaml.YAMLToJSON(data)
		}
		var head struct {
			APIVersion string `json:"apiVersion,omitempty"`
			Kind       string `json:"kind,omitempty"`
		}
		if err := json.Unmarshal(j, &head); err != nil {
			return unrecognised(wanted, fmt.Errorf("couldn't get version/kind; json parse error: %w", err), data)
		}
		gv, err := schema.ParseGroupVersion(head.APIVersion)
		if err != nil {
			return unrecognised(wanted, err, data)
		}
		if head.APIVersion != "" {
			got.Group, got.Version = gv.Group, gv.Version
		}
		if head.Kind != "" {
			got.Kind = head.Kind
		}
	}
	return CannotHandle(got, wanted, OtherKind(scheme, got, wanted, data, f, err))
}

// OtherKind says why a body of kind got does not do where wanted was: nobody knows the kind, the fields do not fit it,
// or it is simply another.
func OtherKind(scheme *runtime.Scheme, got, wanted schema.GroupVersionKind, data []byte, f Format, err error) error {
	if got == wanted {
		return err
	}
	obj, newErr := scheme.New(got)
	if newErr != nil {
		return newErr
	}
	if f != Protobuf {
		if _, err := Decode(obj, got, data, f, true); err != nil {
			return err
		}
	}
	return fmt.Errorf("converting (%s.%s) to (%s.%s): unknown conversion", got.Version, got.Kind, packageOf(wanted.Group), wanted.Kind)
}

// packageOf is the name that upstream's texts give a group: its first label, and core for the group without a name.
func packageOf(group string) string {
	name, _, _ := strings.Cut(group, ".")
	if name == "" {
		return "core"
	}
	return name
}

// CannotHandle is the answer to a body of kind got where wanted was.
func CannotHandle(got, wanted schema.GroupVersionKind, err error) error {
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", got.Kind, got.Version, wanted.Kind, err))
}

func unrecognised(wanted schema.GroupVersionKind, err error, data []byte) error {
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", wanted.Kind, err, excerpt(data)))
}

// excerpt is the beginning of a body: as it stands when it looks like JSON, else in hexadecimal.
func excerpt(data []byte) string {
	const most = 30
	if len(data) == 0 {
		return "<empty>"
	}
	dots := ""
	if len(data) > most {
		data, dots = data[:most], " ..."
	}
	if data[0] == '{' {
		return string(data) + dots
	}
	return hex.EncodeToString(data) + dots
}
