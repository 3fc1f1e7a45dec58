package apiserver

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

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/kebernetes/kebernetes/kinds"
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

// fieldManagers keep metadata.managedFields, one manager for each kind, version and subresource that was written to.
type fieldManagers struct {
	table  *kinds.Table
	schema func() (*smdschema.Schema, error)

	mu       sync.RWMutex
	managers map[managerKey]*managedfields.FieldManager
}

type managerKey struct {
	version     *kinds.Version
	subresource string
}

func newFieldManagers(t *kinds.Table) *fieldManagers {
	return &fieldManagers{table: t, schema: sync.OnceValues(loadMergeSchema), managers: map[managerKey]*managedfields.FieldManager{}}
}

// manager returns the manager for writes to a kind in a version, or to a subresource of it.
func (f *fieldManagers) manager(k *kinds.Kind, v *kinds.Version, sub *kinds.Subresource) (*managedfields.FieldManager, error) {
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
	row := &fieldsOfRow{kind: k, schema: s}
	gvk := schema.GroupVersionKind{Group: k.Group, Version: v.Name, Kind: k.Kind}
	hub := storageVersion(k)
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

// storageVersion is the group and version of the kind's objects in memory.
func storageVersion(k *kinds.Kind) schema.GroupVersion {
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
		return f.parseable(v.New()).FromUnstructured(u.UnstructuredContent(), opts...)
	}
	return f.parseable(obj).FromStructured(obj, opts...)
}

// parseable finds the schema of a Go type: k8s.io/api/apps/v1.Deployment is io.k8s.api.apps.v1.Deployment there.
func (f *fieldsOfRow) parseable(obj runtime.Object) typed.ParseableType {
	t := reflect.TypeOf(obj).Elem()
	name := "io." + strings.ReplaceAll(strings.Replace(t.PkgPath(), "k8s.io/", "k8s.", 1), "/", ".") + "." + t.Name()
	return typed.ParseableType{Schema: f.schema, TypeRef: smdschema.TypeRef{NamedType: &name}}
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
	storage := storageVersion(f.kind).WithKind(f.kind.Kind)
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
	t := reflect.TypeOf(obj)
	for i := range f.kind.Versions {
		if reflect.TypeOf(f.kind.Versions[i].New()) == t {
			return &f.kind.Versions[i]
		}
	}
	return nil
}

func (f *fieldsOfRow) convert(obj kinds.Object, from, to *kinds.Version, gvk schema.GroupVersionKind) (runtime.Object, error) {
	if obj.GetObjectKind().GroupVersionKind() == gvk {
		return obj, nil
	}
	if from == to {
		out := shallowCopy(obj)
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

// shallowCopy copies an object, but not what it points to: enough to say its kind without changing the one that was given.
func shallowCopy(obj kinds.Object) kinds.Object {
	v := reflect.ValueOf(obj).Elem()
	out := reflect.New(v.Type())
	out.Elem().Set(v)
	return out.Interface().(kinds.Object)
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
