package view

import (
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// Selection is what a list or watch shows of a kind. The zero Selection shows all.
type Selection struct {
	kind   *kinds.Kind
	labels labels.Selector // nil matches all
	fields fields.Selector // nil matches all
	// Name is the one name that the field selector allows, if it allows but one.
	Name string
}

// Select parses the selectors of a request for kind k.
func Select(k *kinds.Kind, labelSelector, fieldSelector string) (Selection, error) {
	sel := Selection{kind: k}
	if labelSelector != "" {
		l, err := labels.Parse(labelSelector)
		if err != nil {
			return sel, apierrors.NewBadRequest(err.Error())
		}
		if !l.Empty() {
			sel.labels = l
		}
	}
	if fieldSelector == "" {
		return sel, nil
	}
	f, err := fields.ParseSelector(fieldSelector)
	if err != nil {
		return sel, apierrors.NewBadRequest(err.Error())
	}
	for _, r := range f.Requirements() {
		if err := knownField(k, r.Field); err != nil {
			return sel, err
		}
	}
	if f.Empty() {
		return sel, nil
	}
	sel.fields = f
	if name, ok := f.RequiresExactMatch("metadata.name"); ok {
		sel.Name = name
		if len(f.Requirements()) == 1 {
			sel.fields = nil
		}
	}
	return sel, nil
}

func knownField(k *kinds.Kind, label string) error {
	switch {
	case label == "metadata.name" || label == "metadata.namespace" || slices.Contains(k.FieldLabels, label):
		return nil
	case len(k.FieldLabels) == 0:
		return apierrors.NewBadRequest(fmt.Sprintf(`%q is not a known field selector: only "metadata.name", "metadata.namespace"`, label))
	}
	return apierrors.NewBadRequest("field label not supported: " + label)
}

// All says whether the selection leaves nothing out.
func (sel *Selection) All() bool { return sel.labels == nil && sel.fields == nil && sel.Name == "" }

// Matches says whether an object is shown.
func (sel *Selection) Matches(obj store.Object) bool {
	if sel.Name != "" && obj.GetName() != sel.Name {
		return false
	}
	if sel.labels != nil && !sel.labels.Matches(labels.Set(obj.GetLabels())) {
		return false
	}
	return sel.fields == nil || sel.fields.Matches(&fieldsOf{kind: sel.kind, obj: obj})
}

// fieldsOf are the selectable fields of an object, computed only when one beyond its name is asked for.
type fieldsOf struct {
	kind *kinds.Kind
	obj  store.Object
	set  fields.Set
}

func (f *fieldsOf) Has(label string) bool {
	return label == "metadata.name" || label == "metadata.namespace" || slices.Contains(f.kind.FieldLabels, label)
}

func (f *fieldsOf) Get(label string) string {
	switch label {
	case "metadata.name":
		return f.obj.GetName()
	case "metadata.namespace":
		return f.obj.GetNamespace()
	}
	if f.set == nil {
		f.set = fields.Set{}
		if f.kind.Fields != nil {
			f.set = f.kind.Fields(f.obj)
		}
	}
	return f.set[label]
}
