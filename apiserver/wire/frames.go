package wire

import (
	"encoding/binary"
	"encoding/json"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// Frames writes the events of a watch in one format. The encodings of the objects are cached in the items, so that all
// watchers share the work.
type Frames interface {
	// Event appends an event about an object.
	Event(out []byte, typ string, item *store.Item) ([]byte, error)
	// Bookmark appends a bookmark; initialEnd marks the one that ends the initial events.
	Bookmark(out []byte, revision int64, initialEnd bool) []byte
	// Error appends the event that ends a watch.
	Error(out []byte, st *metav1.Status) []byte
}

// The types of events.
const (
	Added    = "ADDED"
	Modified = "MODIFIED"
	Deleted  = "DELETED"
	bookmark = "BOOKMARK"
	failed   = "ERROR"
)

// NewFrames returns the frames of a watch of a kind. Tables print by table, which is nil for other shapes; clock is what
// ages are counted to.
func NewFrames(k *kinds.Kind, v *kinds.Version, m Media, table *Table, clock func() time.Time) (Frames, error) {
	switch {
	case m.Shape == Tables && m.Format == Protobuf:
		return nil, &NotAcceptable
	case m.Shape == Tables:
		return &tableFrames{table: table, clock: clock}, nil
	case m.Format == Protobuf:
		return &protobufFrames{form: NewForm(k, v, Protobuf), partial: m.Shape == Partial, metaVersion: m.MetaVersion}, nil
	}
	return &jsonFrames{form: NewForm(k, v, JSON), partial: m.Shape == Partial, metaVersion: m.MetaVersion}, nil
}

func openEvent(out []byte, typ string) []byte {
	out = append(out, `{"type":"`...)
	out = append(out, typ...)
	return append(out, `","object":`...)
}

func closeEvent(out []byte) []byte { return append(out, '}', '\n') }

func jsonError(out []byte, st *metav1.Status) []byte {
	st.Kind, st.APIVersion = StatusKind.Kind, StatusKind.Version
	j, _ := json.Marshal(st) // a Status always encodes
	return closeEvent(append(openEvent(out, failed), j...))
}

// bookmarkMeta is the metadata of a bookmark, as the bare JSON of an object.
func bookmarkMeta(revision int64, initialEnd bool) []byte {
	out := append([]byte(`{"metadata":{"resourceVersion":"`), strconv.FormatInt(revision, 10)...)
	out = append(out, '"')
	if initialEnd {
		out = append(out, `,"annotations":{"`+metav1.InitialEventsAnnotationKey+`":"true"}`...)
	}
	return append(out, '}', '}')
}

type jsonFrames struct {
	form        Form
	partial     bool
	metaVersion string
}

func (f *jsonFrames) Event(out []byte, typ string, item *store.Item) ([]byte, error) {
	if f.partial {
		out, err := appendPartial(openEvent(out, typ), item, f.metaVersion)
		return closeEvent(out), err
	}
	bare, err := f.form.Bare(item)
	if err != nil {
		return out, err
	}
	return closeEvent(f.form.Object(openEvent(out, typ), item.Object, bare)), nil
}

func (f *jsonFrames) Bookmark(out []byte, revision int64, initialEnd bool) []byte {
	out = openEvent(out, bookmark)
	if f.partial {
		out = appendJSON(out, partialKind, metav1.GroupName, f.metaVersion, bookmarkMeta(revision, initialEnd))
	} else {
		out = appendJSON(out, f.form.kind.Kind, f.form.kind.Group, f.form.version.Name, bookmarkMeta(revision, initialEnd))
	}
	return closeEvent(out)
}

func (f *jsonFrames) Error(out []byte, st *metav1.Status) []byte { return jsonError(out, st) }

// protobufFrames writes length-prefixed WatchEvent messages: 1 the type, 2 the object as RawExtension, whose field 1 is the
// object in its envelope.
type protobufFrames struct {
	form        Form
	partial     bool
	metaVersion string
}

func (f *protobufFrames) Event(out []byte, typ string, item *store.Item) ([]byte, error) {
	if f.partial {
		raw, err := partialBare(item, Protobuf)
		if err != nil {
			return out, err
		}
		return appendFrame(out, typ, metav1.GroupName+"/"+f.metaVersion, partialKind, raw), nil
	}
	raw, err := f.form.Bare(item)
	if err != nil {
		return out, err
	}
	return appendFrame(out, typ, f.form.apiVersion(), f.form.kind.Kind, raw), nil
}

func appendFrame(out []byte, typ, apiVersion, kind string, raw []byte) []byte {
	tm := typeMetaSize(apiVersion, kind)
	object := len(protobufMagic) + 1 + uvarintSize(tm) + tm + 1 + uvarintSize(len(raw)) + len(raw) + 4
	extension := 1 + uvarintSize(object) + object
	event := 1 + uvarintSize(len(typ)) + len(typ) + 1 + uvarintSize(extension) + extension
	out = binary.BigEndian.AppendUint32(out, uint32(event))
	out = binary.AppendUvarint(append(out, 0x0a), uint64(len(typ)))
	out = append(out, typ...)
	out = binary.AppendUvarint(append(out, 0x12), uint64(extension))
	out = binary.AppendUvarint(append(out, 0x0a), uint64(object))
	return appendEnvelope(out, apiVersion, kind, raw)
}

func (f *protobufFrames) Bookmark(out []byte, revision int64, initialEnd bool) []byte {
	p := metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{ResourceVersion: strconv.FormatInt(revision, 10)}}
	if initialEnd {
		p.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	raw, _ := p.Marshal() // metadata always encodes, and is field 1 of every kind
	if f.partial {
		return appendFrame(out, bookmark, metav1.GroupName+"/"+f.metaVersion, partialKind, raw)
	}
	return appendFrame(out, bookmark, f.form.apiVersion(), f.form.kind.Kind, raw)
}

func (f *protobufFrames) Error(out []byte, st *metav1.Status) []byte {
	raw, _ := st.Marshal() // a Status always encodes
	return appendFrame(out, failed, StatusKind.Version, StatusKind.Kind, raw)
}

// tableFrames writes a Table of one row for each event; the first describes the columns.
type tableFrames struct {
	table     *Table
	clock     func() time.Time
	described bool
}

func (f *tableFrames) Event(out []byte, typ string, item *store.Item) ([]byte, error) {
	f.table.Now = metav1.NewTime(f.clock())
	return f.write(out, f.table, typ, item)
}

func (f *tableFrames) write(out []byte, t *Table, typ string, item *store.Item) ([]byte, error) {
	o := &Out{Buffer: &Buffer{B: openEvent(out, typ)}}
	meta := metav1.ListMeta{ResourceVersion: item.Object.GetResourceVersion()}
	if err := t.Write(o, []*store.Item{item}, meta, !f.described); err != nil {
		return out, err
	}
	f.described = true
	return closeEvent(o.B), nil
}

// Bookmark appends a row without cells, about no object but its version.
func (f *tableFrames) Bookmark(out []byte, revision int64, initialEnd bool) []byte {
	p := &metav1.PartialObjectMetadata{}
	p.ResourceVersion = strconv.FormatInt(revision, 10)
	if initialEnd {
		p.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	blank := *f.table
	blank.cells = func(kinds.Object, metav1.Time) []any { return make([]any, len(blank.columns)) }
	out, _ = f.write(out, &blank, bookmark, &store.Item{Object: p}) // metadata always encodes
	return out
}

func (f *tableFrames) Error(out []byte, st *metav1.Status) []byte { return jsonError(out, st) }
