package store

import (
	"reflect"
	"strconv"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
)

// Item is one state of one object. Immutable, but for the encodings that are cached in it.
type Item struct {
	Key    Key
	Object Object
	// Created is the revision that created the object, Revision the one of this state.
	Created  int64
	Revision int64
	// Size is about how many bytes the object takes when encoded. The rings of events are bounded by it; 0 counts as 1 KiB.
	Size int

	encodings atomic.Pointer[[]encoding]
}

// encoding is one cached wire form. An item has a handful at most (format times version), so a slice beats a map.
type encoding struct {
	key   uint8
	bytes []byte
}

// retired is the list of encodings of an item that is to keep none any more.
var retired = &[]encoding{}

// retire lets go of the cached encodings for good: the state is neither current nor news.
func (i *Item) retire() { i.encodings.Store(retired) }

// Encoding returns the cached bytes under key, or calls encode once and keeps what it returns, unless the item is retired.
// Keys are the caller's own small numbers (format and API version). Two callers at once may both encode; one result is kept.
// Errors are not kept.
func (i *Item) Encoding(key uint8, encode func() ([]byte, error)) ([]byte, error) {
	if b, ok := cached(i.encodings.Load(), key); ok {
		return b, nil
	}
	b, err := encode()
	if err != nil {
		return nil, err
	}
	for {
		old := i.encodings.Load()
		if old == retired {
			return b, nil
		}
		if first, ok := cached(old, key); ok {
			return first, nil
		}
		var grown []encoding
		if old != nil {
			grown = append(grown, *old...)
		}
		grown = append(grown, encoding{key, b})
		if i.encodings.CompareAndSwap(old, &grown) {
			return b, nil
		}
	}
}

// Cached returns the bytes that Encoding keeps under key, if it does.
func (i *Item) Cached(key uint8) ([]byte, bool) { return cached(i.encodings.Load(), key) }

func cached(list *[]encoding, key uint8) ([]byte, bool) {
	if list == nil {
		return nil, false
	}
	for _, e := range *list {
		if e.key == key {
			return e.bytes, true
		}
	}
	return nil, false
}

// size is what the item counts for in a ring.
func (i *Item) size() int {
	if i.Size <= 0 {
		return 1 << 10
	}
	return i.Size
}

// Tombstone returns the last state of an object as its deletion shows it: a copy with the deletion's revision as
// resourceVersion. It shares all else with last, which is as immutable as it is: deletions come in thousands, and stay in the
// history for minutes.
func Tombstone(last Object, revision int64) Object {
	gone := Copy(last)
	gone.SetResourceVersion(strconv.FormatInt(revision, 10))
	return gone
}

// Copy returns an object whose fields can be set without changing obj. What its fields refer to is shared, and must not
// be changed.
func Copy(obj Object) Object {
	if _, free := obj.(runtime.Unstructured); free {
		return obj.DeepCopyObject().(Object) // its metadata is a map
	}
	v := reflect.New(reflect.TypeOf(obj).Elem())
	v.Elem().Set(reflect.ValueOf(obj).Elem())
	return v.Interface().(Object)
}
