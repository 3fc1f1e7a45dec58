package fields

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

const (
	// maxUpdates is how many outcomes of updates are remembered, maxUpdate how many bytes of fields each has at most: together
	// 8 MiB at worst, some 100 KiB in most clusters.
	maxUpdates = 1024
	maxUpdate  = 8 << 10
	// fewManagers is how many updating managers an object may have for the time of their updates not to matter: the library
	// puts the oldest of more than ten together.
	fewManagers = 9
)

// updateKey is all that decides on the fields after an update, but for the times of the managers.
type updateKey struct {
	managerKey
	digest [sha256.Size]byte
}

// outcome is who manages which fields after an update.
type outcome []outcomeEntry

// outcomeEntry is a manager. from is the position of the manager before the update whose time it keeps, -1 for the time of the
// update.
type outcomeEntry struct {
	metav1.ManagedFieldsEntry
	from int
}

// Updated records what a manager changed from live to obj, at a time. sub is nil for the main resource. It may change obj,
// and returns it or another to take its place. Where an update of the same difference was seen before, it costs a walk
// through both objects; else some ten times as much. What the library refuses to compare keeps the managers it had.
func (f *Managers) Updated(k *kinds.Kind, v *kinds.Version, sub *kinds.Subresource, live, obj kinds.Object, manager string, now time.Time) (kinds.Object, error) {
	before := managersBefore(sub, live, obj)
	key, known := f.updateKey(k, v, sub, live, obj, before, manager)
	if known {
		f.mu.RLock()
		o, seen := f.updated[key]
		f.mu.RUnlock()
		if seen {
			obj.SetManagedFields(o.at(before, now))
			return obj, nil
		}
	}
	m, err := f.For(k, v, sub)
	if err != nil {
		return nil, err
	}
	out, err := m.Update(live, obj, manager)
	if err != nil {
		obj.SetManagedFields(live.GetManagedFields())
		return obj, nil
	}
	updated, ok := out.(kinds.Object)
	if !ok {
		return nil, fmt.Errorf("record the fields of %T: got %T", obj, out)
	}
	if known {
		f.rememberUpdate(key, outcomeOf(before, updated.GetManagedFields()))
	}
	return updated, nil
}

// managersBefore are the managers that an update starts from: those that the client sent, if it did and may.
func managersBefore(sub *kinds.Subresource, live, obj kinds.Object) []metav1.ManagedFieldsEntry {
	if sent := obj.GetManagedFields(); sub == nil && sent != nil {
		return sent
	}
	return live.GetManagedFields()
}

// updateKey returns what decides on the outcome of an update, unless it is more than managers that only the present version
// has, the fields of the objects, and which values differ.
func (f *Managers) updateKey(k *kinds.Kind, v *kinds.Version, sub *kinds.Subresource, live, obj kinds.Object, before []metav1.ManagedFieldsEntry, manager string) (key updateKey, ok bool) {
	if _, free := obj.(runtime.Unstructured); free || v.FromStorage != nil || v.ToStorage != nil {
		return key, false
	}
	stored := live.GetManagedFields()
	if len(before) != len(stored) {
		return key, false
	}
	s, err := f.shapes()
	if err != nil {
		return key, false // the manager of the fields meets the same error, and tells it
	}
	var room [4 << 10]byte
	out := appendText(room[:0], manager)
	updates, version := 0, apiVersion(k, v)
	for i := range before {
		e := &before[i]
		if e.APIVersion != version || !sameEntry(e, &stored[i]) || position(before[:i], e) >= 0 {
			return key, false
		}
		if e.Operation != metav1.ManagedFieldsOperationApply {
			updates++
		}
		out = appendEntry(out, e)
	}
	if updates > fewManagers {
		return key, false
	}
	if out, ok = betweenBare(s, append(out, 0), live, obj); !ok {
		return key, false
	}
	key = updateKey{managerKey{version: v}, sha256.Sum256(out)}
	if sub != nil {
		key.subresource = sub.Name
	}
	return key, true
}

// betweenBare appends the difference of two objects but for their managed fields, which it leaves as they are.
func betweenBare(s *shapes, out []byte, live, obj kinds.Object) ([]byte, bool) {
	was := store.Copy(live)
	was.SetManagedFields(nil)
	sent := obj.GetManagedFields()
	obj.SetManagedFields(nil)
	defer obj.SetManagedFields(sent)
	return s.between(out, was, obj)
}

// sameEntry says whether two entries are the same but for their times.
func sameEntry(a, b *metav1.ManagedFieldsEntry) bool {
	return sameManager(a, b) && a.FieldsType == b.FieldsType && bytes.Equal(a.FieldsV1.GetRawBytes(), b.FieldsV1.GetRawBytes())
}

func sameManager(a, b *metav1.ManagedFieldsEntry) bool {
	return a.Manager == b.Manager && a.Operation == b.Operation && a.APIVersion == b.APIVersion && a.Subresource == b.Subresource
}

// position finds the entry of the manager that e is of, or returns -1.
func position(entries []metav1.ManagedFieldsEntry, e *metav1.ManagedFieldsEntry) int {
	for i := range entries {
		if sameManager(&entries[i], e) {
			return i
		}
	}
	return -1
}

// appendEntry appends an entry but for its time, and that another may follow.
func appendEntry(out []byte, e *metav1.ManagedFieldsEntry) []byte {
	out = appendText(append(out, 1), e.Manager)
	out = appendText(out, string(e.Operation))
	out = appendText(out, e.Subresource)
	out = appendText(out, e.FieldsType)
	out = appendFlag(out, e.FieldsV1 == nil)
	return appendText(out, e.FieldsV1.GetRawBytes())
}

// outcomeOf finds out where the times of the managers after an update come from: the library hands on those that it keeps.
// It returns nil when that cannot be told.
func outcomeOf(before, after []metav1.ManagedFieldsEntry) outcome {
	out := make(outcome, len(after))
	for i := range after {
		e := after[i]
		from := position(before, &e)
		switch {
		case from >= 0 && before[from].Time == e.Time:
		case e.Time == nil:
			return nil
		default:
			from = -1
		}
		e.Time = nil
		out[i] = outcomeEntry{e, from}
	}
	return out
}

// at returns the managers after an update at a time, in the order in which they stand in objects.
func (o outcome) at(before []metav1.ManagedFieldsEntry, now time.Time) []metav1.ManagedFieldsEntry {
	if len(o) == 0 {
		return nil
	}
	at := metav1.NewTime(now)
	out := make([]metav1.ManagedFieldsEntry, len(o))
	for i := range o {
		out[i] = o[i].ManagedFieldsEntry
		out[i].Time = &at
		if from := o[i].from; from >= 0 {
			out[i].Time = before[from].Time
		}
	}
	slices.SortFunc(out, compareEntries)
	return out
}

func compareEntries(a, b metav1.ManagedFieldsEntry) int {
	return cmp.Or(
		cmp.Compare(a.Operation, b.Operation), cmp.Compare(seconds(a.Time), seconds(b.Time)), cmp.Compare(a.Manager, b.Manager),
		cmp.Compare(a.APIVersion, b.APIVersion), cmp.Compare(a.Subresource, b.Subresource),
	)
}

func seconds(t *metav1.Time) int64 {
	if t == nil {
		return 0
	}
	return t.Unix()
}

// rememberUpdate keeps an outcome, unless it is nil. When there are too many, all are forgotten: those in use soon come back.
func (f *Managers) rememberUpdate(key updateKey, o outcome) {
	size := 0
	for i := range o {
		size += len(o[i].FieldsV1.GetRawBytes())
	}
	if o == nil || size > maxUpdate {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.updated) >= maxUpdates {
		clear(f.updated)
	}
	f.updated[key] = o
}
