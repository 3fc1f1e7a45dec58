package apiserver

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	listvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// listOptions reads the options of a list or watch from the query, and checks them.
func listOptions(q url.Values, watch bool) (metav1.ListOptions, error) {
	var o metav1.ListOptions
	if len(q) > 0 {
		if err := metav1.Convert_url_Values_To_v1_ListOptions(&q, &o, nil); err != nil {
			return o, apierrors.NewBadRequest(err.Error())
		}
	}
	o.Watch = watch
	internal := internalversion.ListOptions{
		Watch: watch, ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		Continue: o.Continue, SendInitialEvents: o.SendInitialEvents, Limit: o.Limit,
	}
	if errs := listvalidation.ValidateListOptions(&internal, true); len(errs) > 0 {
		return o, invalidOptions("ListOptions", errs)
	}
	return o, nil
}

// list answers with the objects of a namespace, or of all.
func (rq *request) list() error {
	m, err := rq.accept(true)
	if err != nil {
		return err
	}
	o, err := listOptions(rq.values(), false)
	if err != nil {
		return err
	}
	sel, err := newSelection(rq.kind, o.LabelSelector, o.FieldSelector)
	if err != nil {
		return err
	}
	items, meta, err := rq.s.collect(rq.kind, rq.namespace, &o, &sel)
	if err != nil {
		return err
	}
	return rq.answerList(items, meta, m)
}

// answerList answers with a list of items.
func (rq *request) answerList(items []*store.Item, meta metav1.ListMeta, m media) error {
	if m.shape != shapeObject {
		return rq.answerShape(http.StatusOK, items, meta, m, true)
	}
	if m.format == formatProtobuf {
		return rq.listProtobuf(items, meta)
	}
	return rq.listJSON(items, meta, m)
}

// collect returns a page of a list.
func (s *Server) collect(k *kinds.Kind, namespace string, o *metav1.ListOptions, sel *selection) ([]*store.Item, metav1.ListMeta, error) {
	v, after, err := s.listView(k, o)
	if err != nil {
		return nil, metav1.ListMeta{}, err
	}
	meta := metav1.ListMeta{ResourceVersion: strconv.FormatInt(v.revision, 10)}
	if sel.name != "" && o.Limit <= 0 && o.Continue == "" && (namespace != "" || !k.Namespaced) {
		item := v.get(key(k, namespace, sel.name))
		if item == nil || !sel.matches(item.Object) {
			return nil, meta, nil
		}
		return []*store.Item{item}, meta, nil
	}
	var items []*store.Item
	if sel.all() && o.Limit <= 0 && namespace == "" {
		items = make([]*store.Item, 0, v.snapshot.Len(v.resource))
	}
	if !k.Namespaced {
		namespace = ""
	}
	remaining := int64(0)
	for item := range v.list(namespace, after) {
		if !sel.matches(item.Object) {
			continue
		}
		if o.Limit <= 0 || int64(len(items)) < o.Limit {
			items = append(items, item)
			continue
		}
		remaining++
		if !sel.all() {
			break // how many match is not told
		}
	}
	if remaining > 0 {
		meta.Continue = continueAfter(items[len(items)-1].Key, v.revision)
		if sel.all() {
			meta.RemainingItemCount = &remaining
		}
	}
	return items, meta, nil
}

// listView is the state that a list shows, and the key that it starts behind, by the rules of
// https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list.
func (s *Server) listView(k *kinds.Kind, o *metav1.ListOptions) (*view, store.Key, error) {
	resource := k.StorageResource().String()
	if o.Continue != "" {
		return s.continuedView(resource, o)
	}
	rv, err := parseVersion(o.ResourceVersion)
	if err != nil {
		return nil, store.Key{}, apierrors.NewBadRequest("invalid resource version: " + err.Error())
	}
	exact := o.ResourceVersionMatch == metav1.ResourceVersionMatchExact || (o.ResourceVersionMatch == "" && o.Limit > 0 && rv > 0)
	if exact {
		v, err := s.viewAt(resource, rv)
		if errors.Is(err, store.ErrCompacted) {
			err = apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
		}
		return v, store.Key{}, err
	}
	v := s.viewNow(resource)
	if rv > v.revision {
		return nil, store.Key{}, tooLarge(rv, v.revision)
	}
	return v, store.Key{}, nil
}

func (s *Server) continuedView(resource string, o *metav1.ListOptions) (*view, store.Key, error) {
	if o.ResourceVersion != "" && o.ResourceVersion != "0" {
		return nil, store.Key{}, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	token, after, err := parseContinue(o.Continue)
	if err != nil {
		return nil, store.Key{}, err
	}
	if token.Revision < 0 {
		return s.viewNow(resource), after, nil
	}
	v, err := s.viewAt(resource, token.Revision)
	if errors.Is(err, store.ErrCompacted) {
		err = expiredContinue(token)
	}
	return v, after, err
}

// stream sends a long answer piece by piece, and a short one with its length.
type stream struct {
	rq      *request
	buf     *buffer
	media   media
	code    int
	started bool
}

// streamPiece is how much of a long answer is gathered before it is sent.
const streamPiece = 64 << 10

func (rq *request) stream(code int, m media) *stream {
	st := &stream{rq: rq, buf: buffers.Get().(*buffer), media: m, code: code}
	st.buf.b = st.buf.b[:0]
	return st
}

// spill sends what has been gathered when it is enough. YAML and indented JSON need the whole.
func (st *stream) spill() {
	if len(st.buf.b) < streamPiece || st.media.pretty || st.media.format == formatYAML {
		return
	}
	if !st.started {
		st.rq.head(st.code, st.media.format.contentType(), -1)
		st.started = true
	}
	_, _ = st.rq.w.Write(st.buf.b) // the client that left is nobody's error
	st.buf.b = st.buf.b[:0]
}

// end sends the rest.
func (st *stream) end() error {
	defer st.buf.free()
	if !st.started {
		return st.rq.answerBytes(st.code, st.buf, st.media)
	}
	if st.media.format != formatProtobuf {
		st.buf.b = append(st.buf.b, '\n')
	}
	_, _ = st.rq.w.Write(st.buf.b)
	return nil
}

// listJSON sends a list from the cached encodings of its items.
func (rq *request) listJSON(items []*store.Item, meta metav1.ListMeta, m media) error {
	fm := newForm(rq.kind, rq.served, formatJSON)
	head, err := json.Marshal(struct {
		Metadata metav1.ListMeta `json:"metadata"`
	}{meta})
	if err != nil {
		return err
	}
	st := rq.stream(http.StatusOK, m)
	out := appendJSON(st.buf.b, rq.kind.Kind+"List", rq.kind.Group, rq.served.Name, head)
	st.buf.b = append(out[:len(out)-1], `,"items":[`...)
	for i, item := range items {
		bare, err := fm.bare(item)
		if err != nil {
			st.abandon()
			return err
		}
		if i > 0 {
			st.buf.b = append(st.buf.b, ',')
		}
		st.buf.b = append(st.buf.b, bare...)
		st.spill()
	}
	st.buf.b = append(st.buf.b, "]}"...)
	return st.end()
}

// abandon gives the memory back without sending it.
func (st *stream) abandon() { st.buf.free() }

// listProtobuf sends a list from the cached encodings of its items. The lengths of all messages around them come first, so
// the encodings are made before anything is sent.
func (rq *request) listProtobuf(items []*store.Item, meta metav1.ListMeta) error {
	fm := newForm(rq.kind, rq.served, formatProtobuf)
	return rq.protobufList(fm.apiVersion(), rq.kind.Kind+"List", items, meta, fm.bare)
}

// protobufList sends a list message (1 its metadata, 2 its items) of items encoded by bare.
func (rq *request) protobufList(apiVersion, kind string, items []*store.Item, meta metav1.ListMeta, bare func(*store.Item) ([]byte, error)) error {
	m, err := meta.Marshal()
	if err != nil {
		return err
	}
	size := 1 + uvarintSize(len(m)) + len(m)
	encoded := make([][]byte, len(items))
	for i, item := range items {
		if encoded[i], err = bare(item); err != nil {
			return err
		}
		size += 1 + uvarintSize(len(encoded[i])) + len(encoded[i])
	}
	tm := typeMetaSize(apiVersion, kind)
	total := len(protobufMagic) + 1 + uvarintSize(tm) + tm + 1 + uvarintSize(size) + size + 4
	rq.head(http.StatusOK, typeProtobuf, total)
	st := rq.stream(http.StatusOK, media{format: formatProtobuf})
	st.started = true
	out := append(st.buf.b, protobufMagic...)
	out = binary.AppendUvarint(append(out, 0x0a), uint64(tm))
	out = appendTypeMeta(out, apiVersion, kind)
	out = binary.AppendUvarint(append(out, 0x12), uint64(size))
	st.buf.b = appendField(out, 1, m)
	for _, e := range encoded {
		st.buf.b = appendField(st.buf.b, 2, e)
		st.spill()
	}
	st.buf.b = append(st.buf.b, 0x1a, 0, 0x22, 0)
	return st.end()
}

// appendField appends one length-delimited field of a protobuf message.
func appendField(out []byte, number byte, value []byte) []byte {
	out = binary.AppendUvarint(append(out, number<<3|2), uint64(len(value)))
	return append(out, value...)
}
