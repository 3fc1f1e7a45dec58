package daemon

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// The first byte of a stored object says how the rest is encoded.
const (
	protobufForm = 'p' // the storage version's message, without an envelope: the resource names its type
	jsonForm     = 'j' // kinds without Go types
)

// message is what the generated types of k8s.io/api can do.
type message interface {
	MarshalToSizedBuffer(buf []byte) (int, error)
	Size() int
	Unmarshal(data []byte) error
}

// codec turns objects into what the store writes to disk, and back.
type codec struct{ table *kinds.Table }

// Encode encodes an object of a resource.
func (c codec) Encode(resource string, obj store.Object) ([]byte, error) {
	if m, ok := obj.(message); ok {
		buf := make([]byte, 1+m.Size())
		buf[0] = protobufForm
		if _, err := m.MarshalToSizedBuffer(buf[1:]); err != nil {
			return nil, fmt.Errorf("encode %s: %w", resource, err)
		}
		return buf, nil
	}
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", resource, err)
	}
	return append([]byte{jsonForm}, data...), nil
}

// Decode is the reverse, with the defaults of this version filled in.
func (c codec) Decode(resource string, data []byte) (store.Object, error) {
	if len(data) == 0 {
		return nil, fmt.Errorf("decode %s: empty record", resource)
	}
	k := c.table.Resource(schema.ParseGroupResource(resource))
	var obj kinds.Object = &unstructured.Unstructured{}
	if k != nil {
		obj = k.Storage().New()
	}
	var err error
	switch m, ok := obj.(message); {
	case data[0] == protobufForm && ok:
		err = m.Unmarshal(data[1:])
	case data[0] == jsonForm:
		err = json.Unmarshal(data[1:], obj)
	case data[0] == protobufForm:
		err = fmt.Errorf("resource is unknown to this version of keb")
	default:
		err = fmt.Errorf("unknown form %q", data[0])
	}
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", resource, err)
	}
	if k != nil && k.Default != nil {
		k.Default(obj)
	}
	return obj, nil
}
