package wire

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

// partialBare is the cached encoding of an item's metadata alone.
func partialBare(item *store.Item, f Format) ([]byte, error) {
	if f == YAML {
		f = JSON
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
		if f == Protobuf {
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
	bare, err := partialBare(item, JSON)
	if err != nil {
		return out, err
	}
	return appendJSON(out, partialKind, metav1.GroupName, metaVersion, bare), nil
}

// PartialJSON appends a partial object.
func PartialJSON(out *Out, item *store.Item, m Media) (err error) {
	out.B, err = appendPartial(out.B, item, m.MetaVersion)
	return err
}

// PartialListJSON appends a list of partial objects.
func PartialListJSON(out *Out, items []*store.Item, meta metav1.ListMeta, m Media) (err error) {
	if err := openList(out, partialKind+"List", metav1.GroupName, m.MetaVersion, meta); err != nil {
		return err
	}
	for i, item := range items {
		if i > 0 {
			out.B = append(out.B, ',')
		}
		if out.B, err = appendPartial(out.B, item, m.MetaVersion); err != nil {
			return err
		}
		out.spill()
	}
	out.B = append(out.B, "]}"...)
	return nil
}

// PartialProtobuf appends a partial object as protobuf.
func PartialProtobuf(out *Out, item *store.Item, m Media) error {
	raw, err := partialBare(item, Protobuf)
	if err != nil {
		return err
	}
	out.B = appendEnvelope(out.B, metav1.GroupName+"/"+m.MetaVersion, partialKind, raw)
	return nil
}

// Table prints objects as the rows that kubectl shows.
type Table struct {
	// Now is the time that ages are counted to.
	Now         metav1.Time
	columns     []metav1.TableColumnDefinition
	cells       func(kinds.Object, metav1.Time) []any
	metaVersion string
	include     metav1.IncludeObjectPolicy
	form        Form
}

// NewTable returns the table of a kind. include says what of the objects stands in the rows: nothing, metadata, or all.
func NewTable(k *kinds.Kind, v *kinds.Version, m Media, include string) (*Table, error) {
	t := &Table{
		columns: k.Columns, cells: k.Cells, metaVersion: m.MetaVersion, form: NewForm(k, v, JSON),
		include: metav1.IncludeObjectPolicy(include),
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

// Write appends the table. The columns are described only when asked: a watch does so once.
func (t *Table) Write(out *Out, items []*store.Item, meta metav1.ListMeta, describe bool) error {
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
	out.B = appendJSON(out.B, "Table", metav1.GroupName, t.metaVersion, j)
	out.B = append(out.B[:len(out.B)-1], `,"rows":[`...)
	for i, item := range items {
		if i > 0 {
			out.B = append(out.B, ',')
		}
		if err := t.row(out, item); err != nil {
			return err
		}
		out.spill()
	}
	out.B = append(out.B, "]}"...)
	return nil
}

func (t *Table) row(dst *Out, item *store.Item) (err error) {
	out := append(dst.B, `{"cells":[`...)
	for i, cell := range t.cells(item.Object, t.Now) {
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
		bare, err := t.form.Bare(item)
		if err != nil {
			return err
		}
		out = t.form.Object(out, item.Object, bare)
	default:
		if out, err = appendPartial(out, item, t.metaVersion); err != nil {
			return err
		}
	}
	dst.B = append(out, '}')
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
	case string:
		if text, ok := appendASCII(out, c); ok {
			return text, nil
		}
	case nil:
		return append(out, "null"...), nil
	}
	j, err := json.Marshal(cell)
	return append(out, j...), err
}

// appendASCII appends a string as package json writes it, if it is of ASCII's printable characters, as nearly all cells are:
// package json takes some five times as long. "<none>" stands in every row of pods.
func appendASCII(out []byte, s string) (_ []byte, ok bool) {
	const hex = "0123456789abcdef"
	start := len(out)
	out = append(out, '"')
	done := 0
	for i := range len(s) {
		c := s[i]
		switch {
		case c < ' ' || c > '~':
			return out[:start], false
		case c == '"' || c == '\\':
			out = append(append(out, s[done:i]...), '\\', c)
			done = i + 1
		case c == '<' || c == '>' || c == '&':
			out = append(append(out, s[done:i]...), '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			done = i + 1
		}
	}
	return append(append(out, s[done:]...), '"'), true
}
