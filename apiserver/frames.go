package apiserver

import (
	"encoding/binary"
	"encoding/json"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/store"
)

// frames writes the events of a watch in one format. The encodings of the objects are cached in the items, so that all
// watchers share the work.
type frames interface {
	// event appends an event about an object.
	event(out []byte, typ string, item *store.Item) ([]byte, error)
	// bookmark appends a bookmark; initialEnd marks the one that ends the initial events.
	bookmark(out []byte, revision int64, initialEnd bool) []byte
	// error appends the event that ends a watch.
	error(out []byte, st *metav1.Status) []byte
}

func (rq *request) newFrames(m media) (frames, error) {
	switch {
	case m.shape == shapeTable && m.format == formatProtobuf:
		return nil, &notAcceptable
	case m.shape == shapeTable:
		t, err := rq.table(m)
		return &tableFrames{rq: rq, table: t}, err
	case m.format == formatProtobuf:
		return &protobufFrames{form: newForm(rq.kind, rq.served, formatProtobuf), partial: m.shape == shapePartial, metaVersion: m.metaVersion}, nil
	}
	return &jsonFrames{form: newForm(rq.kind, rq.served, formatJSON), partial: m.shape == shapePartial, metaVersion: m.metaVersion}, nil
}

func openEvent(out []byte, typ string) []byte {
	out = append(out, `{"type":"`...)
	out = append(out, typ...)
	return append(out, `","object":`...)
}

func closeEvent(out []byte) []byte { return append(out, '}', '\n') }

func jsonError(out []byte, st *metav1.Status) []byte {
	st.Kind, st.APIVersion = statusKind.Kind, statusKind.Version
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
	form        form
	partial     bool
	metaVersion string
}

func (f *jsonFrames) event(out []byte, typ string, item *store.Item) ([]byte, error) {
	if f.partial {
		out, err := appendPartial(openEvent(out, typ), item, f.metaVersion)
		return closeEvent(out), err
	}
	bare, err := f.form.bare(item)
	if err != nil {
		return out, err
	}
	return closeEvent(f.form.object(openEvent(out, typ), item.Object, bare)), nil
}

func (f *jsonFrames) bookmark(out []byte, revision int64, initialEnd bool) []byte {
	out = openEvent(out, bookmark)
	if f.partial {
		out = appendJSON(out, partialKind, metav1.GroupName, f.metaVersion, bookmarkMeta(revision, initialEnd))
	} else {
		out = appendJSON(out, f.form.kind.Kind, f.form.kind.Group, f.form.version.Name, bookmarkMeta(revision, initialEnd))
	}
	return closeEvent(out)
}

func (f *jsonFrames) error(out []byte, st *metav1.Status) []byte { return jsonError(out, st) }

// protobufFrames writes length-prefixed WatchEvent messages: 1 the type, 2 the object as RawExtension, whose field 1 is the
// object in its envelope.
type protobufFrames struct {
	form        form
	partial     bool
	metaVersion string
}

func (f *protobufFrames) event(out []byte, typ string, item *store.Item) ([]byte, error) {
	if f.partial {
		raw, err := partialBare(item, formatProtobuf)
		if err != nil {
			return out, err
		}
		return appendFrame(out, typ, metav1.GroupName+"/"+f.metaVersion, partialKind, raw), nil
	}
	raw, err := f.form.bare(item)
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

func (f *protobufFrames) bookmark(out []byte, revision int64, initialEnd bool) []byte {
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

func (f *protobufFrames) error(out []byte, st *metav1.Status) []byte {
	raw, _ := st.Marshal() // a Status always encodes
	return appendFrame(out, failed, statusKind.Version, statusKind.Kind, raw)
}

// tableFrames writes a Table of one row for each event; the first describes the columns.
type tableFrames struct {
	rq        *request
	table     *table
	described bool
}

func (f *tableFrames) event(out []byte, typ string, item *store.Item) ([]byte, error) {
	st := &stream{rq: f.rq, buf: &buffer{b: openEvent(out, typ)}, media: media{pretty: true}} // never spills: the event is one piece
	f.table.now = metav1.NewTime(f.rq.s.Now())
	meta := metav1.ListMeta{ResourceVersion: item.Object.GetResourceVersion()}
	if err := f.table.write(st, []*store.Item{item}, meta, !f.described); err != nil {
		return out, err
	}
	f.described = true
	return closeEvent(st.buf.b), nil
}

func (f *tableFrames) bookmark(out []byte, revision int64, initialEnd bool) []byte {
	p := &metav1.PartialObjectMetadata{}
	p.ResourceVersion = strconv.FormatInt(revision, 10)
	if initialEnd {
		p.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	item := &store.Item{Object: p}
	f2 := *f.table
	f2.cells = blankCells(f2.columns)
	st := &stream{rq: f.rq, buf: &buffer{b: openEvent(out, bookmark)}, media: media{pretty: true}}
	if err := f2.write(st, []*store.Item{item}, metav1.ListMeta{ResourceVersion: p.ResourceVersion}, !f.described); err != nil {
		return out
	}
	f.described = true
	return closeEvent(st.buf.b)
}

func (f *tableFrames) error(out []byte, st *metav1.Status) []byte { return jsonError(out, st) }
