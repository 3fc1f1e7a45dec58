package apiserver

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// answerShape answers with a Table or with partial objects instead of the objects themselves.
func (rq *request) answerShape(code int, items []*store.Item, meta metav1.ListMeta, m media, list bool) error {
	if m.shape == shapeTable {
		if m.format == formatProtobuf {
			return &notAcceptable
		}
		t, err := rq.table(m)
		if err != nil {
			return err
		}
		st := rq.stream(code, m)
		if err := t.write(st, items, meta, true); err != nil {
			st.abandon()
			return err
		}
		return st.end()
	}
	if m.format == formatProtobuf {
		return rq.partialProtobuf(code, items, meta, m, list)
	}
	return rq.partialJSON(code, items, meta, m, list)
}

// partialBare is the cached encoding of an item's metadata alone.
func partialBare(item *store.Item, f format) ([]byte, error) {
	if f == formatYAML {
		f = formatJSON
	}
	return item.Encoding(cachePartial|uint8(f), func() ([]byte, error) {
		p := &metav1.PartialObjectMetadata{}
		if a, ok := item.Object.(metav1.ObjectMetaAccessor); ok {
			if om, ok := a.GetObjectMeta().(*metav1.ObjectMeta); ok {
				p.ObjectMeta = *om
			}
		} else {
			p.ObjectMeta = copyMeta(item.Object)
		}
		if f == formatProtobuf {
			return p.Marshal()
		}
		return json.Marshal(p)
	})
}

// copyMeta gathers the metadata of an object without an ObjectMeta of its own.
func copyMeta(o metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: o.GetName(), GenerateName: o.GetGenerateName(), Namespace: o.GetNamespace(), UID: o.GetUID(),
		ResourceVersion: o.GetResourceVersion(), Generation: o.GetGeneration(), CreationTimestamp: o.GetCreationTimestamp(),
		DeletionTimestamp: o.GetDeletionTimestamp(), DeletionGracePeriodSeconds: o.GetDeletionGracePeriodSeconds(),
		Labels: o.GetLabels(), Annotations: o.GetAnnotations(), OwnerReferences: o.GetOwnerReferences(),
		Finalizers: o.GetFinalizers(), ManagedFields: o.GetManagedFields(),
	}
}

const partialKind = "PartialObjectMetadata"

func appendPartial(out []byte, item *store.Item, metaVersion string) ([]byte, error) {
	bare, err := partialBare(item, formatJSON)
	if err != nil {
		return out, err
	}
	return appendJSON(out, partialKind, metav1.GroupName, metaVersion, bare), nil
}

func (rq *request) partialJSON(code int, items []*store.Item, meta metav1.ListMeta, m media, list bool) (err error) {
	st := rq.stream(code, m)
	if !list {
		if st.buf.b, err = appendPartial(st.buf.b, items[0], m.metaVersion); err != nil {
			st.abandon()
			return err
		}
		return st.end()
	}
	head, err := json.Marshal(struct {
		Metadata metav1.ListMeta `json:"metadata"`
	}{meta})
	if err != nil {
		st.abandon()
		return err
	}
	out := appendJSON(st.buf.b, partialKind+"List", metav1.GroupName, m.metaVersion, head)
	st.buf.b = append(out[:len(out)-1], `,"items":[`...)
	for i, item := range items {
		if i > 0 {
			st.buf.b = append(st.buf.b, ',')
		}
		if st.buf.b, err = appendPartial(st.buf.b, item, m.metaVersion); err != nil {
			st.abandon()
			return err
		}
		st.spill()
	}
	st.buf.b = append(st.buf.b, "]}"...)
	return st.end()
}

func (rq *request) partialProtobuf(code int, items []*store.Item, meta metav1.ListMeta, m media, list bool) error {
	apiVersion := metav1.GroupName + "/" + m.metaVersion
	bare := func(item *store.Item) ([]byte, error) { return partialBare(item, formatProtobuf) }
	if list {
		return rq.protobufList(apiVersion, partialKind+"List", items, meta, bare)
	}
	raw, err := bare(items[0])
	if err != nil {
		return err
	}
	b := buffers.Get().(*buffer)
	defer b.free()
	b.b = appendEnvelope(b.b[:0], apiVersion, partialKind, raw)
	return rq.answerBytes(code, b, m)
}

// table prints objects as the rows that kubectl shows.
type table struct {
	kind        *kinds.Kind
	columns     []metav1.TableColumnDefinition
	cells       func(kinds.Object, metav1.Time) []any
	now         metav1.Time
	metaVersion string
	include     metav1.IncludeObjectPolicy
	form        form
}

// table reads what kind of table the request wants.
func (rq *request) table(m media) (*table, error) {
	t := &table{
		kind: rq.kind, columns: rq.kind.Columns, cells: rq.kind.Cells, now: metav1.NewTime(rq.s.Now()),
		metaVersion: m.metaVersion, form: newForm(rq.kind, rq.served, formatJSON),
		include: metav1.IncludeObjectPolicy(rq.values().Get("includeObject")),
	}
	switch t.include {
	case "", metav1.IncludeNone, metav1.IncludeMetadata, metav1.IncludeObject:
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("unrecognized includeObject value: %q", t.include))
	}
	if t.columns == nil || t.cells == nil {
		doc := metav1.ObjectMeta{}.SwaggerDoc()
		t.columns = []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Format: "name", Description: doc["name"]},
			{Name: "Created At", Type: "date", Description: doc["creationTimestamp"]},
		}
		t.cells = func(o kinds.Object, _ metav1.Time) []any {
			return []any{o.GetName(), o.GetCreationTimestamp().UTC().Format(time.RFC3339)}
		}
	}
	return t, nil
}

// write appends the table to a stream. The columns are described only when asked: a watch does so once.
func (t *table) write(st *stream, items []*store.Item, meta metav1.ListMeta, describe bool) error {
	head := struct {
		Metadata metav1.ListMeta                `json:"metadata"`
		Columns  []metav1.TableColumnDefinition `json:"columnDefinitions"`
	}{Metadata: meta}
	if describe {
		head.Columns = t.columns
	}
	j, err := json.Marshal(head)
	if err != nil {
		return err
	}
	out := appendJSON(st.buf.b, "Table", metav1.GroupName, t.metaVersion, j)
	st.buf.b = append(out[:len(out)-1], `,"rows":[`...)
	for i, item := range items {
		if i > 0 {
			st.buf.b = append(st.buf.b, ',')
		}
		if err := t.row(st, item); err != nil {
			return err
		}
		st.spill()
	}
	st.buf.b = append(st.buf.b, "]}"...)
	return nil
}

func (t *table) row(st *stream, item *store.Item) (err error) {
	out := append(st.buf.b, `{"cells":[`...)
	for i, cell := range t.cells(item.Object, t.now) {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = appendCell(out, cell); err != nil {
			return err
		}
	}
	out = append(out, `],"object":`...)
	switch t.include {
	case metav1.IncludeNone:
		out = append(out, "null"...)
	case metav1.IncludeObject:
		bare, err := t.form.bare(item)
		if err != nil {
			return err
		}
		out = t.form.object(out, item.Object, bare)
	default:
		if out, err = appendPartial(out, item, t.metaVersion); err != nil {
			return err
		}
	}
	st.buf.b = append(out, '}')
	return nil
}

func appendCell(out []byte, cell any) ([]byte, error) {
	switch c := cell.(type) {
	case int:
		return strconv.AppendInt(out, int64(c), 10), nil
	case int32:
		return strconv.AppendInt(out, int64(c), 10), nil
	case int64:
		return strconv.AppendInt(out, c, 10), nil
	}
	j, err := json.Marshal(cell)
	return append(out, j...), err
}

// blankCells are the cells of a row about no object.
func blankCells(columns []metav1.TableColumnDefinition) func(kinds.Object, metav1.Time) []any {
	return func(kinds.Object, metav1.Time) []any { return make([]any, len(columns)) }
}
