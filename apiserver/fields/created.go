package fields

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kebernetes/kebernetes/kinds"
)

const (
	// maxSets is how many sets of fields of new objects are remembered, maxSet how many bytes each takes at most with its
	// shape: together 4 MiB at worst, some 100 KiB in most clusters.
	maxSets = 1024
	maxSet  = 4 << 10
)

// Created records that manager set all fields of a new object, at a time. It may change obj, and returns it or another to
// take its place. Objects of a shape that was seen before cost a walk through them; finding the fields of others takes some
// ten times as long.
func (f *Managers) Created(k *kinds.Kind, v *kinds.Version, obj kinds.Object, manager string, now time.Time) (kinds.Object, error) {
	var buf [1 << 10]byte
	shape, known := f.shapeOf(v, obj, buf[:0])
	if known {
		if set, ok := f.set(v, shape); ok {
			at := metav1.NewTime(now)
			obj.SetManagedFields([]metav1.ManagedFieldsEntry{{
				Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: apiVersion(k, v),
				Time: &at, FieldsType: "FieldsV1", FieldsV1: &set,
			}})
			return obj, nil
		}
	}
	m, err := f.For(k, v, nil)
	if err != nil {
		return nil, err
	}
	out := m.UpdateNoErrors(v.New(), obj, manager).(kinds.Object)
	if entries := out.GetManagedFields(); known && len(entries) == 1 && entries[0].FieldsV1 != nil {
		f.remember(v, shape, *entries[0].FieldsV1)
	}
	return out, nil
}

func apiVersion(k *kinds.Kind, v *kinds.Version) string {
	if k.Group == "" {
		return v.Name
	}
	return k.Group + "/" + v.Name
}

// shapeOf returns the shape of a new object, unless more than it decides on the fields: a conversion, fields that the client
// recorded itself, or a last applied configuration.
func (f *Managers) shapeOf(v *kinds.Version, obj kinds.Object, buf []byte) (shape []byte, ok bool) {
	if _, free := obj.(runtime.Unstructured); free || v.FromStorage != nil || v.ToStorage != nil || obj.GetManagedFields() != nil {
		return nil, false
	}
	if _, applied := obj.GetAnnotations()[corev1.LastAppliedConfigAnnotation]; applied {
		return nil, false
	}
	s, err := f.shapes()
	if err != nil {
		return nil, false // the manager of the fields meets the same error, and tells it
	}
	shape, ok = s.of(buf, obj)
	return shape, ok && len(shape) <= maxSet
}

func (f *Managers) set(v *kinds.Version, shape []byte) (metav1.FieldsV1, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	set, ok := f.created[v][string(shape)]
	return set, ok
}

// remember keeps a set of fields. When there are too many, all are forgotten: those in use soon come back.
func (f *Managers) remember(v *kinds.Version, shape []byte, set metav1.FieldsV1) {
	if len(shape)+len(set.GetRawString()) > maxSet {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sets >= maxSets {
		clear(f.created)
		f.sets = 0
	}
	of := f.created[v]
	if of == nil {
		of = map[string]metav1.FieldsV1{}
		f.created[v] = of
	}
	of[string(shape)] = set
	f.sets++
}
