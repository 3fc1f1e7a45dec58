package apiserver

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// form is how one served version of a kind is encoded in one format. Encodings are cached in the items, bare: without
// apiVersion and kind, as they stand in lists. What stands around them is put there when they are sent.
type form struct {
	kind    *kinds.Kind
	version *kinds.Version
	format  format
	// cacheKey is the key of the bare encoding in an item.
	cacheKey uint8
}

// Cache keys: two bits of format, four of version, a bit for rows that share another's objects, a bit for metadata alone.
const (
	cacheShared  = 1 << 6
	cachePartial = 1 << 7
)

func newForm(k *kinds.Kind, v *kinds.Version, f format) form {
	if f == formatYAML {
		f = formatJSON
	}
	fm := form{kind: k, version: v, format: f, cacheKey: uint8(f)}
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
func (fm *form) apiVersion() string {
	if fm.kind.Group == "" {
		return fm.version.Name
	}
	return fm.kind.Group + "/" + fm.version.Name
}

// bare is the cached encoding of an item.
func (fm *form) bare(item *store.Item) ([]byte, error) {
	return item.Encoding(fm.cacheKey, func() ([]byte, error) { return fm.encode(item.Object) })
}

// encode encodes an object of the storage type, bare.
func (fm *form) encode(obj store.Object) ([]byte, error) {
	if fm.version.FromStorage != nil {
		converted, err := fm.version.FromStorage(obj.DeepCopyObject().(kinds.Object))
		if err != nil {
			return nil, fmt.Errorf("convert %s %s to %s: %w", fm.kind.Kind, obj.GetName(), fm.version.Name, err)
		}
		obj = converted
	}
	if fm.format == formatProtobuf {
		m, ok := obj.(protoMessage)
		if !ok {
			return nil, &notAcceptable
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

// object appends the whole of an object, given its bare encoding. Custom resources carry their kind in the encoding.
func (fm *form) object(out []byte, obj store.Object, bare []byte) []byte {
	if fm.format == formatProtobuf {
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

// answerItem answers with a stored object.
func (rq *request) answerItem(code int, item *store.Item, m media) error {
	if m.shape != shapeObject {
		return rq.answerShape(code, []*store.Item{item}, metav1.ListMeta{ResourceVersion: item.Object.GetResourceVersion()}, m, false)
	}
	fm := newForm(rq.kind, rq.served, m.format)
	bare, err := fm.bare(item)
	if err != nil {
		return err
	}
	b := buffers.Get().(*buffer)
	defer b.free()
	b.b = fm.object(b.b[:0], item.Object, bare)
	return rq.answerBytes(code, b, m)
}

// answerBytes sends what b holds, JSON or protobuf, as the media says.
func (rq *request) answerBytes(code int, b *buffer, m media) error {
	if err := finish(b, m); err != nil {
		return err
	}
	rq.head(code, m.format.contentType(), len(b.b))
	_, _ = rq.w.Write(b.b) // the client that left is nobody's error
	return nil
}

// finish turns compact JSON into what was asked for: YAML, indented, or with the line end that upstream sends.
func finish(b *buffer, m media) error {
	switch {
	case m.format == formatProtobuf:
	case m.format == formatYAML:
		y, err := yaml.JSONToYAML(b.b)
		if err != nil {
			return err
		}
		b.b = append(b.b[:0], y...)
	case m.pretty:
		var out bytes.Buffer
		if err := json.Indent(&out, b.b, "", "  "); err != nil {
			return err
		}
		b.b = append(b.b[:0], out.Bytes()...)
	default:
		b.b = append(b.b, '\n')
	}
	return nil
}

// answerObject answers with an object that is not stored: a Status, a Scale, a review.
func (rq *request) answerObject(code int, obj runtime.Object, gvk schema.GroupVersionKind, m media) error {
	b := buffers.Get().(*buffer)
	defer b.free()
	b.b = b.b[:0]
	if err := encodeWhole(b, obj, gvk, m.format); err != nil {
		return err
	}
	return rq.answerBytes(code, b, m)
}

// encodeWhole appends an object with its kind. The object's own kind is set to gvk.
func encodeWhole(b *buffer, obj runtime.Object, gvk schema.GroupVersionKind, f format) error {
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	if f == formatProtobuf {
		m, ok := obj.(protoMessage)
		if !ok {
			return &notAcceptable
		}
		raw, err := m.Marshal()
		if err != nil {
			return err
		}
		b.b = appendEnvelope(b.b, gvk.GroupVersion().String(), gvk.Kind, raw)
		return nil
	}
	j, err := json.Marshal(obj)
	if err != nil {
		return err
	}
	b.b = append(b.b, j...)
	return nil
}

var statusKind = schema.GroupVersionKind{Version: "v1", Kind: "Status"}

// answerStatus answers with a Status in whatever format the client reads; JSON when it reads none.
func (rq *request) answerStatus(code int, st *metav1.Status) {
	m, err := rq.accept(true)
	if err != nil {
		m = media{}
	}
	m.shape = shapeObject
	if err := rq.answerObject(code, st, statusKind, m); err != nil {
		rq.s.Logger.Error("encode a status", "error", err)
	}
}

// flush sends what has been written.
func (rq *request) flush() {
	if f, ok := rq.w.(interface{ Flush() }); ok {
		f.Flush()
	}
}

var _ io.Writer = (*buffer)(nil)
