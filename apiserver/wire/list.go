package wire

import (
	"encoding/binary"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/store"
)

// openList appends the beginning of a list, up to its first item.
func openList(out *Out, kind, group, version string, meta metav1.ListMeta) error {
	head, err := json.Marshal(struct {
		Metadata metav1.ListMeta `json:"metadata"`
	}{meta})
	if err != nil {
		return err
	}
	out.B = appendJSON(out.B, kind, group, version, head)
	out.B = append(out.B[:len(out.B)-1], `,"items":[`...)
	return nil
}

// ListJSON appends a list, from the cached encodings of its items.
func ListJSON(out *Out, fm Form, items []*store.Item, meta metav1.ListMeta) error {
	if err := openList(out, fm.kind.Kind+"List", fm.kind.Group, fm.version.Name, meta); err != nil {
		return err
	}
	for i, item := range items {
		bare, err := fm.Bare(item)
		if err != nil {
			return err
		}
		if i > 0 {
			out.B = append(out.B, ',')
		}
		out.B = append(out.B, bare...)
		out.spill()
	}
	out.B = append(out.B, "]}"...)
	return nil
}

// ProtobufList is a list message: 1 its metadata, 2 its items. The lengths of all messages around the items come first, so
// the encodings are made before anything is sent.
type ProtobufList struct {
	apiVersion, kind string
	meta             []byte
	items            [][]byte
	size             int // of the list message
}

// NewProtobufList encodes the items of a list, as far as they are not cached.
func NewProtobufList(fm Form, items []*store.Item, meta metav1.ListMeta) (*ProtobufList, error) {
	return newProtobufList(fm.apiVersion(), fm.kind.Kind+"List", items, meta, fm.Bare)
}

// NewPartialProtobufList is NewProtobufList for the items' metadata alone.
func NewPartialProtobufList(m Media, items []*store.Item, meta metav1.ListMeta) (*ProtobufList, error) {
	bare := func(item *store.Item) ([]byte, error) { return partialBare(item, Protobuf) }
	return newProtobufList(metav1.GroupName+"/"+m.MetaVersion, partialKind+"List", items, meta, bare)
}

func newProtobufList(apiVersion, kind string, items []*store.Item, meta metav1.ListMeta, bare func(*store.Item) ([]byte, error)) (*ProtobufList, error) {
	m, err := meta.Marshal()
	if err != nil {
		return nil, err
	}
	l := &ProtobufList{apiVersion: apiVersion, kind: kind, meta: m, items: make([][]byte, len(items))}
	l.size = 1 + uvarintSize(len(m)) + len(m)
	for i, item := range items {
		if l.items[i], err = bare(item); err != nil {
			return nil, err
		}
		l.size += 1 + uvarintSize(len(l.items[i])) + len(l.items[i])
	}
	return l, nil
}

// Size is how many bytes Write appends.
func (l *ProtobufList) Size() int {
	tm := typeMetaSize(l.apiVersion, l.kind)
	return len(protobufMagic) + 1 + uvarintSize(tm) + tm + 1 + uvarintSize(l.size) + l.size + 4
}

// Write appends the list.
func (l *ProtobufList) Write(out *Out) {
	b := append(out.B, protobufMagic...)
	b = binary.AppendUvarint(append(b, 0x0a), uint64(typeMetaSize(l.apiVersion, l.kind)))
	b = appendTypeMeta(b, l.apiVersion, l.kind)
	b = binary.AppendUvarint(append(b, 0x12), uint64(l.size))
	out.B = appendField(b, 1, l.meta)
	for _, item := range l.items {
		out.B = appendField(out.B, 2, item)
		out.spill()
	}
	out.B = append(out.B, 0x1a, 0, 0x22, 0)
}

// appendField appends one length-delimited field of a protobuf message.
func appendField(out []byte, number byte, value []byte) []byte {
	out = binary.AppendUvarint(append(out, number<<3|2), uint64(len(value)))
	return append(out, value...)
}
