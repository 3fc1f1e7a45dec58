package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// Form is how one served version of a kind is encoded in one format. Encodings are cached in the items, bare: without
// apiVersion and kind, as they stand in lists. What stands around them is put there when they are sent.
type Form struct {
	kind    *kinds.Kind
	version *kinds.Version
	format  Format
	// cacheKey is the key of the bare encoding in an item.
	cacheKey uint8
}

// Cache keys: two bits of format, four of version, a bit for rows that share another's objects, a bit for metadata alone.
const (
	cacheShared  = 1 << 6
	cachePartial = 1 << 7
)

// NewForm returns the form of a served version of a kind.
func NewForm(k *kinds.Kind, v *kinds.Version, f Format) Form {
	if f == YAML {
		f = JSON
	}
	fm := Form{kind: k, version: v, format: f, cacheKey: uint8(f)}
	for i := range k.Versions {
		if &k.Versions[i] == v {
			fm.cacheKey |= uint8(i&15) << 2
		}
	}
	if k.StoredAs != nil {
		fm.cacheKey |= cacheShared
	}
	return fm
}

// apiVersion is the version as objects name it: "apps/v1".
func (fm *Form) apiVersion() string {
	if fm.kind.Group == "" {
		return fm.version.Name
	}
	return fm.kind.Group + "/" + fm.version.Name
}

// Bare is the cached encoding of an item.
func (fm *Form) Bare(item *store.Item) ([]byte, error) {
	return item.Encoding(fm.cacheKey, func() ([]byte, error) { return fm.encode(item.Object) })
}

// Passing is the encoding of an item that is about to be replaced. It is not kept: nobody may ask for it again.
func (fm *Form) Passing(item *store.Item) ([]byte, error) {
	if b, ok := item.Cached(fm.cacheKey); ok {
		return b, nil
	}
	return fm.encode(item.Object)
}

// encode encodes an object of the storage type, bare.
func (fm *Form) encode(obj store.Object) ([]byte, error) {
	if fm.version.FromStorage != nil {
		converted, err := fm.version.FromStorage(obj.DeepCopyObject().(kinds.Object))
		if err != nil {
			return nil, fmt.Errorf("convert %s %s to %s: %w", fm.kind.Kind, obj.GetName(), fm.version.Name, err)
		}
		obj = converted
	}
	if fm.format == Protobuf {
		m, ok := obj.(Message)
		if !ok {
			return nil, &NotAcceptable
		}
		return m.Marshal()
	}
	return json.Marshal(withoutKind(obj))
}

// withoutKind makes sure that an object's encoding does not carry its kind, without changing the object.
func withoutKind(obj store.Object) runtime.Object {
	if _, free := obj.(runtime.Unstructured); free {
		return obj
	}
	if gvk := obj.GetObjectKind().GroupVersionKind(); gvk.Kind != "" || gvk.Version != "" {
		c := obj.DeepCopyObject()
		c.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		return c
	}
	return obj
}

// Object appends the whole of an object, given its bare encoding. Custom resources carry their kind in the encoding.
func (fm *Form) Object(out []byte, obj store.Object, bare []byte) []byte {
	if fm.format == Protobuf {
		return appendEnvelope(out, fm.apiVersion(), fm.kind.Kind, bare)
	}
	if _, free := obj.(runtime.Unstructured); free {
		return append(out, bare...)
	}
	return appendJSON(out, fm.kind.Kind, fm.kind.Group, fm.version.Name, bare)
}

// appendJSON appends an object given bare, with its kind in front.
func appendJSON(out []byte, kind, group, version string, bare []byte) []byte {
	out = append(out, `{"kind":"`...)
	out = append(out, kind...)
	out = append(out, `","apiVersion":"`...)
	if group != "" {
		out = append(append(out, group...), '/')
	}
	out = append(append(out, version...), '"')
	if len(bare) > 2 { // not empty
		out = append(out, ',')
	}
	return append(out, bare[1:]...)
}

// appendEnvelope appends a protobuf object as the API sends it.
func appendEnvelope(out []byte, apiVersion, kind string, raw []byte) []byte {
	out = append(out, protobufMagic...)
	out = append(out, 0x0a)
	out = binary.AppendUvarint(out, uint64(typeMetaSize(apiVersion, kind)))
	out = appendTypeMeta(out, apiVersion, kind)
	out = append(out, 0x12)
	out = binary.AppendUvarint(out, uint64(len(raw)))
	out = append(out, raw...)
	return append(out, 0x1a, 0, 0x22, 0)
}

func appendTypeMeta(out []byte, apiVersion, kind string) []byte {
	out = append(out, 0x0a)
	out = binary.AppendUvarint(out, uint64(len(apiVersion)))
	out = append(out, apiVersion...)
	out = append(out, 0x12)
	out = binary.AppendUvarint(out, uint64(len(kind)))
	return append(out, kind...)
}

func typeMetaSize(apiVersion, kind string) int {
	return 2 + uvarintSize(len(apiVersion)) + len(apiVersion) + uvarintSize(len(kind)) + len(kind)
}

func uvarintSize(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

// Finish turns compact JSON into what was asked for: YAML, indented, or with the line end that upstream sends.
func Finish(b *Buffer, m Media) error {
	switch {
	case m.Format == Protobuf:
	case m.Format == YAML:
		y, err := yaml.JSONToYAML(b.B)
		if err != nil {
			return err
		}
		b.B = append(b.B[:0], y...)
	case m.Pretty:
		var out bytes.Buffer
		if err := json.Indent(&out, b.B, "", "  "); err != nil {
			return err
		}
		b.B = append(b.B[:0], out.Bytes()...)
	default:
		b.B = append(b.B, '\n')
	}
	return nil
}

// EncodeWhole appends an object with its kind. The object's own kind is set to gvk.
func EncodeWhole(b *Buffer, obj runtime.Object, gvk schema.GroupVersionKind, f Format) error {
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	if f == Protobuf {
		m, ok := obj.(Message)
		if !ok {
			return &NotAcceptable
		}
		raw, err := m.Marshal()
		if err != nil {
			return err
		}
		b.B = appendEnvelope(b.B, gvk.GroupVersion().String(), gvk.Kind, raw)
		return nil
	}
	j, err := json.Marshal(obj)
	if err != nil {
		return err
	}
	b.B = append(b.B, j...)
	return nil
}

// StatusKind is the kind of answers that tell what became of a request.
var StatusKind = schema.GroupVersionKind{Version: "v1", Kind: "Status"}

// Same says whether two messages encode to the same bytes. Nothing is cached: most callers are about to replace one of them.
func Same(a, b Message) bool {
	size := a.Size()
	if size != b.Size() {
		return false
	}
	x, y := GetBuffer(), GetBuffer()
	defer x.Free()
	defer y.Free()
	x.B, y.B = slices.Grow(x.B, size)[:size], slices.Grow(y.B, size)[:size]
	n, err := a.MarshalToSizedBuffer(x.B)
	m, err2 := b.MarshalToSizedBuffer(y.B)
	return err == nil && err2 == nil && bytes.Equal(x.B[size-n:], y.B[size-m:])
}
