package apiserver

import (
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/apiserver/wire"
	"github.com/kebernetes/kebernetes/store"
)

// accept reads what the client wants to get. transform allows Tables and partial objects.
func (rq *request) accept(transform bool) (wire.Media, error) {
	m, err := wire.Accept(rq.r.Header.Get("Accept"), rq.verb, transform)
	m.Pretty = rq.pretty()
	return m, err
}

// decode reads the request's body into obj, an empty object of the type wanted. Fields that the type does not have are
// ignored, warned about or refused, as directive (the fieldValidation parameter) says; no directive warns. Other API
// versions whose bodies read the same may be named too.
func (rq *request) decode(obj runtime.Object, wanted schema.GroupVersionKind, directive string, same ...string) error {
	f, err := wire.BodyFormat(rq.r.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	b, err := rq.body()
	if err != nil {
		return err
	}
	defer b.Free()
	strict, err := wire.Decode(obj, wanted, b.B, f, directive == metav1.FieldValidationIgnore)
	for _, v := range same {
		if gvk := obj.GetObjectKind().GroupVersionKind(); gvk.GroupVersion().String() == v {
			obj.GetObjectKind().SetGroupVersionKind(wanted.GroupVersion().WithKind(gvk.Kind))
		}
	}
	if err == nil {
		err = wire.RightKind(obj, wanted)
	}
	if err != nil {
		return wire.Refuse(rq.s.Table.Scheme(), b.B, f, wanted, err)
	}
	return rq.fieldValidation(wanted, directive, strict)
}

// fieldValidation deals with fields that the type does not have, or that the body gave twice.
func (rq *request) fieldValidation(wanted schema.GroupVersionKind, directive string, strict []error) error {
	switch {
	case len(strict) == 0 || directive == metav1.FieldValidationIgnore:
		return nil
	case directive == metav1.FieldValidationStrict:
		return wire.CannotHandle(wanted, wanted, runtime.NewStrictDecodingError(strict))
	}
	for _, e := range strict {
		rq.warn(e.Error())
	}
	return nil
}

// kindOf is the kind that bodies of the request carry.
func (rq *request) kindOf() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: rq.kind.Group, Version: rq.served.Name, Kind: rq.kind.Kind}
}

// answerItem answers with a stored object.
func (rq *request) answerItem(code int, item *store.Item, m wire.Media) error {
	if m.Shape != wire.Objects {
		return rq.answerShape(code, item, m)
	}
	fm := wire.NewForm(rq.kind, rq.served, m.Format)
	bare, err := fm.Bare(item)
	if err != nil {
		return err
	}
	b := wire.GetBuffer()
	defer b.Free()
	b.B = fm.Object(b.B, item.Object, bare)
	return rq.answerBytes(code, b, m)
}

// answerShape answers with a stored object as a Table or a partial object.
func (rq *request) answerShape(code int, item *store.Item, m wire.Media) error {
	st := rq.stream(code, m)
	var err error
	switch {
	case m.Shape == wire.Tables:
		err = rq.writeTable(st, []*store.Item{item}, metav1.ListMeta{ResourceVersion: item.Object.GetResourceVersion()}, m)
	case m.Format == wire.Protobuf:
		err = wire.PartialProtobuf(&st.Out, item, m)
	default:
		err = wire.PartialJSON(&st.Out, item, m)
	}
	return st.end(err)
}

// newTable reads what kind of table the request wants.
func (rq *request) newTable(m wire.Media) (*wire.Table, error) {
	if m.Format == wire.Protobuf {
		return nil, &wire.NotAcceptable
	}
	t, err := wire.NewTable(rq.kind, rq.served, m, rq.values().Get("includeObject"))
	if err != nil {
		return nil, err
	}
	t.Now = metav1.NewTime(rq.s.Now())
	return t, nil
}

func (rq *request) writeTable(st *stream, items []*store.Item, meta metav1.ListMeta, m wire.Media) error {
	t, err := rq.newTable(m)
	if err != nil {
		return err
	}
	return t.Write(&st.Out, items, meta, true)
}

// answerBytes sends what b holds, JSON or protobuf, as the media says.
func (rq *request) answerBytes(code int, b *wire.Buffer, m wire.Media) error {
	if err := wire.Finish(b, m); err != nil {
		return err
	}
	rq.head(code, m.Format.ContentType(), len(b.B))
	_, _ = rq.w.Write(b.B) // the client that left is nobody's error
	return nil
}

// answerObject answers with an object that is not stored: a Status, a Scale, a review.
func (rq *request) answerObject(code int, obj runtime.Object, gvk schema.GroupVersionKind, m wire.Media) error {
	b := wire.GetBuffer()
	defer b.Free()
	if err := wire.EncodeWhole(b, obj, gvk, m.Format); err != nil {
		return err
	}
	return rq.answerBytes(code, b, m)
}

// answerStatus answers with a Status in whatever format the client reads; JSON when it reads none.
func (rq *request) answerStatus(code int, st *metav1.Status) {
	m, err := rq.accept(true)
	if err != nil {
		m = wire.Media{}
	}
	if err := rq.answerObject(code, st, wire.StatusKind, m); err != nil {
		rq.s.Logger.Error("encode a status", "error", err)
	}
}

// flush sends what has been written.
func (rq *request) flush() {
	if f, ok := rq.w.(http.Flusher); ok {
		f.Flush()
	}
}

// stream sends a long answer piece by piece, and a short one with its length.
type stream struct {
	wire.Out
	rq      *request
	media   wire.Media
	code    int
	started bool
}

// streamPiece is how much of a long answer is gathered before it is sent.
const streamPiece = 64 << 10

func (rq *request) stream(code int, m wire.Media) *stream {
	st := &stream{rq: rq, media: m, code: code}
	st.Buffer = wire.GetBuffer()
	if !m.Pretty && m.Format != wire.YAML { // these need the whole
		st.Spill = st.spill
	}
	return st
}

// begin starts the answer, whose length is known.
func (st *stream) begin(length int) {
	st.rq.head(st.code, st.media.Format.ContentType(), length)
	st.started = true
}

// spill sends what has been gathered when it is enough.
func (st *stream) spill() {
	if len(st.B) < streamPiece {
		return
	}
	if !st.started {
		st.begin(-1)
	}
	st.write()
	st.B = st.B[:0]
}

// write sends what has been gathered. A client that takes none of it for as long as a request may last is cut off, as it
// holds a seat of its level.
func (st *stream) write() {
	_ = http.NewResponseController(st.rq.w).SetWriteDeadline(time.Now().Add(requestTimeout)) // what has no connection needs none
	_, _ = st.rq.w.Write(st.B)                                                               // the client that left is nobody's error
}

// end sends the rest, or passes on why there is none.
func (st *stream) end(err error) error {
	defer st.Free()
	if err != nil {
		return err
	}
	if !st.started {
		return st.rq.answerBytes(st.code, st.Buffer, st.media)
	}
	if st.media.Format != wire.Protobuf {
		st.B = append(st.B, '\n')
	}
	st.write()
	return nil
}

// createdStatus is the answer of subresources that tell no more than that they did as they were told.
func createdStatus() *metav1.Status {
	return &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated}
}

// hasBody says whether the client sent anything.
func hasBody(r *http.Request) bool {
	return r.ContentLength != 0 && r.Body != nil && r.Body != http.NoBody
}

// decodeDeleteOptions decodes options, which every API group has under its own name.
func (rq *request) decodeDeleteOptions(o *metav1.DeleteOptions) error {
	f, err := wire.BodyFormat(rq.r.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	b, err := rq.body()
	if err != nil {
		return err
	}
	defer b.Free()
	if len(b.B) == 0 {
		return nil
	}
	wanted := schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}
	if _, err := wire.Decode(o, wanted, b.B, f, true); err != nil {
		return wire.Refuse(rq.s.Table.Scheme(), b.B, f, wanted, err)
	}
	if o.Kind != "" && o.Kind != wanted.Kind {
		return apierrors.NewBadRequest(fmt.Sprintf("decoded object cannot be converted to DeleteOptions: %s", o.Kind))
	}
	return nil
}
