// Package fields keeps metadata.managedFields: who owns which field of an object, so that server-side apply can merge what
// several managers want. Only apiserver imports it.
package fields

import (
	"bytes"
	"compress/gzip"
	_ "embed" // the merge schema
	"encoding/gob"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

//go:generate go run ./genschema mergeschema.gob.gz

//go:embed mergeschema.gob.gz
var mergeSchema []byte

// loadMergeSchema unpacks the schema that says how lists and maps merge. It takes 3 ms and half a megabyte.
func loadMergeSchema() (*smdschema.Schema, error) {
	z, err := gzip.NewReader(bytes.NewReader(mergeSchema))
	if err != nil {
		return nil, fmt.Errorf("open the merge schema: %w", err)
	}
	gob.Register(map[string]any{})
	gob.Register([]any{})
	s := &smdschema.Schema{}
	if err := gob.NewDecoder(z).Decode(s); err != nil {
		return nil, fmt.Errorf("decode the merge schema: %w", err)
	}
	return s, nil
}

// Managers hold a manager of fields for each kind, version and subresource that was written to.
type Managers struct {
	schema func() (*smdschema.Schema, error)
	shapes func() (*shapes, error)

	mu       sync.RWMutex
	managers map[managerKey]*managedfields.FieldManager
	// created holds the sets of fields of new objects, by version and shape.
	created map[*kinds.Version]map[string]metav1.FieldsV1
	sets    int // in created
	// updated holds the outcomes of updates.
	updated map[updateKey]outcome
}

type managerKey struct {
	version     *kinds.Version
	subresource string
}

// New returns managers that know no kind yet.
func New() *Managers {
	f := &Managers{
		schema: sync.OnceValues(loadMergeSchema), managers: map[managerKey]*managedfields.FieldManager{},
		created: map[*kinds.Version]map[string]metav1.FieldsV1{}, updated: map[updateKey]outcome{},
	}
	f.shapes = sync.OnceValues(func() (*shapes, error) {
		s, err := f.schema()
		if err != nil {
			return nil, err
		}
		return newShapes(s), nil
	})
	return f
}

// For returns the manager for writes to a kind in a version, or to a subresource of it.
func (f *Managers) For(k *kinds.Kind, v *kinds.Version, sub *kinds.Subresource) (*managedfields.FieldManager, error) {
	mk := managerKey{version: v}
	reset := k.ResetFields
	if sub != nil {
		mk.subresource, reset = sub.Name, sub.ResetFields
	}
	f.mu.RLock()
	m := f.managers[mk]
	f.mu.RUnlock()
	if m != nil {
		return m, nil
	}
	s, err := f.schema()
	if err != nil {
		return nil, err
	}
	row := newFieldsOfRow(k, s)
	gvk := schema.GroupVersionKind{Group: k.Group, Version: v.Name, Kind: k.Kind}
	hub := StorageVersion(k)
	if _, free := v.New().(runtime.Unstructured); free {
		m, err = managedfields.NewDefaultCRDFieldManager(managedfields.NewDeducedTypeConverter(), row, row, row, gvk, hub, mk.subresource, resetFilters(k, reset))
	} else {
		m, err = managedfields.NewDefaultFieldManager(row, row, row, row, gvk, hub, mk.subresource, resetFilters(k, reset))
	}
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.managers[mk] = m
	return m, nil
}

// StorageVersion is the group and version of the kind's objects in memory.
func StorageVersion(k *kinds.Kind) schema.GroupVersion {
	group := k.Group
	if k.StoredAs != nil {
		group = k.StoredAs.Group
	}
	return schema.GroupVersion{Group: group, Version: k.Storage().Name}
}

// resetFilters leave out, per API version, the fields that a write cannot change.
func resetFilters(k *kinds.Kind, reset map[string][]string) map[fieldpath.APIVersion]fieldpath.Filter {
	if len(reset) == 0 {
		return nil
	}
	out := map[fieldpath.APIVersion]fieldpath.Filter{}
	for version, paths := range reset {
		set := fieldpath.NewSet()
		for _, p := range paths {
			var parts []any
			for part := range strings.SplitSeq(p, ".") {
				parts = append(parts, part)
			}
			set.Insert(fieldpath.MakePathOrDie(parts...))
		}
		gv := schema.GroupVersion{Group: k.Group, Version: version}
		out[fieldpath.APIVersion(gv.String())] = fieldpath.NewExcludeSetFilter(set)
	}
	return out
}

// fieldsOfRow gives the library of managed fields what it needs to know of one kind: the shape of its types, and its
// conversions and defaults.
type fieldsOfRow struct {
	kind   *kinds.Kind
	schema *smdschema.Schema
	// types are the Go types of the kind's versions and of its storage, with what the merge schema says of them.
	types map[reflect.Type]rowType
}

// rowType is one Go type of a row; version is nil for the storage type of another row.
type rowType struct {
	version *kinds.Version
	merge   typed.ParseableType
}

func newFieldsOfRow(k *kinds.Kind, s *smdschema.Schema) *fieldsOfRow {
	f := &fieldsOfRow{kind: k, schema: s, types: map[reflect.Type]rowType{}}
	add := func(v, as *kinds.Version) {
		t := reflect.TypeOf(v.New())
		f.types[t] = rowType{as, typed.ParseableType{Schema: s, TypeRef: smdschema.TypeRef{NamedType: mergeName(t)}}}
	}
	add(k.Storage(), nil)
	for i := range k.Versions {
		add(&k.Versions[i], &k.Versions[i])
	}
	return f
}

// mergeName is what the merge schema calls a Go type: k8s.io/api/apps/v1.Deployment is io.k8s.api.apps.v1.Deployment there.
func mergeName(t reflect.Type) *string {
	t = t.Elem()
	name := "io." + strings.ReplaceAll(strings.Replace(t.PkgPath(), "k8s.io/", "k8s.", 1), "/", ".") + "." + t.Name()
	return &name
}

var (
	_ managedfields.TypeConverter = (*fieldsOfRow)(nil)
	_ runtime.ObjectConvertor     = (*fieldsOfRow)(nil)
)

// ObjectToTyped joins an object with the schema of its type.
func (f *fieldsOfRow) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	if u, free := obj.(*unstructured.Unstructured); free {
		v := f.kind.Version(u.GroupVersionKind().Version)
		if v == nil {
			return nil, fmt.Errorf("no type of %s", u.GroupVersionKind())
		}
		return f.types[reflect.TypeOf(v.New())].merge.FromUnstructured(u.UnstructuredContent(), opts...)
	}
	t, ok := f.types[reflect.TypeOf(obj)]
	if !ok {
		return nil, fmt.Errorf("no type of %T", obj)
	}
	if len(opts) == 0 {
		return t.merge.FromStructured(obj)
	}
	// Options only relax the check that the value fits the schema, and a Go object does by its type. The check would cost
	// as much as all the rest of keeping managed fields.
	v, err := value.NewValueReflect(obj)
	if err != nil {
		return nil, err
	}
	return typed.AsTypedUnvalidated(v, f.schema, t.merge.TypeRef), nil
}

// TypedToObject is the way back.
func (f *fieldsOfRow) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	content, ok := v.AsValue().Unstructured().(map[string]any)
	if !ok {
		return nil, errors.New("a merged value is not an object")
	}
	return &unstructured.Unstructured{Object: content}, nil
}

// ConvertToVersion returns an object in one of the kind's versions. Kinds with a single version need no conversion, and
// their objects come back as they are.
func (f *fieldsOfRow) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	obj, err := f.typed(in)
	if err != nil {
		return nil, err
	}
	from := f.versionOf(obj)
	for i := range f.kind.Versions {
		v := &f.kind.Versions[i]
		gvk := schema.GroupVersionKind{Group: f.kind.Group, Version: v.Name, Kind: f.kind.Kind}
		if _, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{gvk}); ok {
			return f.convert(obj, from, v, gvk)
		}
	}
	storage := StorageVersion(f.kind).WithKind(f.kind.Kind)
	if _, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{storage}); ok {
		return f.convert(obj, from, f.kind.Storage(), storage)
	}
	return nil, runtime.NewNotRegisteredErrForTarget("kinds", reflect.TypeOf(in).Elem(), target)
}

// typed returns the Go object of an unstructured one.
func (f *fieldsOfRow) typed(in runtime.Object) (kinds.Object, error) {
	u, free := in.(*unstructured.Unstructured)
	if !free {
		return in.(kinds.Object), nil
	}
	v := f.kind.Version(u.GroupVersionKind().Version)
	if v == nil {
		return nil, runtime.NewNotRegisteredErrForKind("kinds", u.GroupVersionKind())
	}
	obj := v.New()
	if _, free := obj.(runtime.Unstructured); free {
		return u, nil
	}
	return obj, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, obj)
}

// versionOf finds the version that an object's Go type is of; nil for the storage version of another row.
func (f *fieldsOfRow) versionOf(obj kinds.Object) *kinds.Version {
	return f.types[reflect.TypeOf(obj)].version
}

func (f *fieldsOfRow) convert(obj kinds.Object, from, to *kinds.Version, gvk schema.GroupVersionKind) (runtime.Object, error) {
	if obj.GetObjectKind().GroupVersionKind() == gvk {
		return obj, nil
	}
	if from == to {
		out := store.Copy(obj)
		out.GetObjectKind().SetGroupVersionKind(gvk)
		return out, nil
	}
	out := obj.DeepCopyObject().(kinds.Object)
	var err error
	if from != nil && from.ToStorage != nil {
		if out, err = from.ToStorage(out); err != nil {
			return nil, err
		}
	}
	if to.FromStorage != nil {
		if out, err = to.FromStorage(out); err != nil {
			return nil, err
		}
	}
	out.GetObjectKind().SetGroupVersionKind(gvk)
	return out, nil
}

// Convert and ConvertFieldLabel belong to the interface; managed fields do not use them.
func (f *fieldsOfRow) Convert(in, out, _ any) error {
	return fmt.Errorf("convert %T to %T: no such conversion", in, out)
}

// ConvertFieldLabel answers that no label is known.
func (f *fieldsOfRow) ConvertFieldLabel(_ schema.GroupVersionKind, label, _ string) (string, string, error) {
	return "", "", fmt.Errorf("field label not supported: %s", label)
}

// Default fills in the defaults of a merged object.
func (f *fieldsOfRow) Default(in runtime.Object) {
	obj, ok := in.(kinds.Object)
	if ok && f.kind.Default != nil && f.versionOf(obj) == f.kind.Storage() {
		f.kind.Default(obj)
	}
}

// New returns an empty object.
func (f *fieldsOfRow) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	v := f.kind.Version(gvk.Version)
	if v == nil {
		return nil, runtime.NewNotRegisteredErrForKind("kinds", gvk)
	}
	return v.New(), nil
}
