// Package client is what every component uses to read and write the cluster. Reads come from the shared snapshot of the
// process; writes go through a Transport: in-process (the API server's own functions, as an authenticated user, with every check and
// without a socket or a codec) or remote (HTTPS). Both pass the contract test in clienttest.
// Every component may import it; it imports only kinds and store.
package client

import (
	"context"
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// Object is any API object with metadata.
type Object = kinds.Object

// Snapshot and the event types are the store's own, named here so that components need not import store.
type (
	Key       = store.Key
	Item      = store.Item
	Snapshot  = store.Snapshot
	Event     = store.Event
	Watch     = store.Watch
	EventType = store.EventType
)

// What an Event can be.
const (
	Put    = store.Put
	Delete = store.Delete
)

// ErrCompacted is what Watch and Watch.Next return when events are gone and the caller must start again from a snapshot.
var ErrCompacted = store.ErrCompacted

// ErrClosed is what they return at shutdown.
var ErrClosed = store.ErrClosed

// Transport carries one user's requests to the API. Objects handed in are owned by the transport from then on; objects
// returned are shared and must not be changed. Errors are API Status errors (k8s.io/apimachinery/pkg/api/errors).
// A write returns once the shared copy, where there is one of its resource, shows it: who wrote reads what they wrote.
type Transport interface {
	// Snapshot and Watch read the shared copy. A remote transport mirrors only the resources it was told to;
	// Mirrors says which.
	Snapshot() store.Snapshot
	Watch(resource string, after int64) (*store.Watch, error)
	Mirrors(resource string) bool

	// Get reads one object from the server itself, authorised as the user.
	Get(ctx context.Context, k *kinds.Kind, namespace, name string) (Object, error)
	Create(ctx context.Context, k *kinds.Kind, obj Object, opts metav1.CreateOptions) (Object, error)
	// Update replaces the object, or with a subresource ("status") that part of it. For "scale" obj is an autoscaling/v1 Scale, and so is
	// the answer.
	Update(ctx context.Context, k *kinds.Kind, subresource string, obj Object, opts metav1.UpdateOptions) (Object, error)
	// Patch patches an object or subresource; pt is any of the API's patch types, apply included.
	Patch(ctx context.Context, k *kinds.Kind, namespace, name, subresource string, pt types.PatchType, patch []byte, opts metav1.PatchOptions) (Object, error)
	// Delete returns nil once the server accepted the deletion; finalizers and grace may keep the object for a while.
	Delete(ctx context.Context, k *kinds.Kind, namespace, name string, opts metav1.DeleteOptions) error
	// Post sends a body to a subresource of an object (eviction, token) and returns the answer.
	Post(ctx context.Context, k *kinds.Kind, namespace, name, subresource string, body Object) (Object, error)
	// Bind binds pods to nodes, in one commit where it can; it returns one error, or nil, for each binding.
	Bind(ctx context.Context, bindings []*corev1.Binding) []error
}

// Client is one user's view of the cluster. Safe for concurrent use.
type Client struct {
	Transport
	table *kinds.Table
}

// New returns a client over t for the kinds of the table.
func New(t Transport, table *kinds.Table) *Client { return &Client{Transport: t, table: table} }

// Table is the set of kinds that the client knows.
func (c *Client) Table() *kinds.Table { return c.table }

// KindOf returns the row of T, and panics when T is in no table: a programmer's mistake, found by the first test.
func KindOf[T Object](c *Client) *kinds.Kind {
	typ := reflect.TypeFor[T]()
	k := c.table.Type(typ)
	if k == nil {
		panic(fmt.Sprintf("client: no kind of type %s", typ))
	}
	return k
}

// ResourceOf returns the resource name of T as the store spells it: "deployments.apps".
func ResourceOf[T Object](c *Client) string { return KindOf[T](c).GroupResource().String() }

// Get returns an object from the shared snapshot, or from the server when the process does not mirror the resource.
// It must not be changed. The error is NotFound, or what the server said.
func Get[T Object](ctx context.Context, c *Client, namespace, name string) (T, error) {
	var none T
	k := KindOf[T](c)
	resource := k.GroupResource().String()
	if !c.Mirrors(resource) {
		obj, err := c.Transport.Get(ctx, k, namespace, name)
		if err != nil {
			return none, err
		}
		return obj.(T), nil
	}
	item := c.Snapshot().Get(store.Key{Resource: resource, Namespace: namespace, Name: name})
	if item == nil {
		return none, apierrors.NewNotFound(k.GroupResource(), name)
	}
	return item.Object.(T), nil
}

// From returns an object of a snapshot, and whether it is there. It must not be changed.
func From[T Object](c *Client, s Snapshot, namespace, name string) (T, bool) {
	item := s.Get(store.Key{Resource: ResourceOf[T](c), Namespace: namespace, Name: name})
	if item == nil {
		var none T
		return none, false
	}
	return item.Object.(T), true
}

// List returns the objects of a namespace ("" for all) whose labels match, ordered by namespace and name.
// A nil selector matches all. They must not be changed.
func List[T Object](c *Client, s Snapshot, namespace string, sel labels.Selector) []T {
	var out []T
	for item := range s.List(ResourceOf[T](c), namespace) {
		obj := item.Object.(T)
		if sel == nil || sel.Matches(labels.Set(obj.GetLabels())) {
			out = append(out, obj)
		}
	}
	return out
}

// Create creates obj and returns what was stored.
func Create[T Object](ctx context.Context, c *Client, obj T) (T, error) {
	out, err := c.Transport.Create(ctx, KindOf[T](c), obj, metav1.CreateOptions{})
	return typed[T](out, err)
}

// Update replaces the object at the resourceVersion that obj carries.
func Update[T Object](ctx context.Context, c *Client, obj T) (T, error) {
	out, err := c.Transport.Update(ctx, KindOf[T](c), "", obj, metav1.UpdateOptions{})
	return typed[T](out, err)
}

// UpdateStatus replaces the object's status at the resourceVersion that obj carries.
func UpdateStatus[T Object](ctx context.Context, c *Client, obj T) (T, error) {
	out, err := c.Transport.Update(ctx, KindOf[T](c), "status", obj, metav1.UpdateOptions{})
	return typed[T](out, err)
}

// Patch patches the object, or a subresource of it.
func Patch[T Object](ctx context.Context, c *Client, namespace, name, subresource string, pt types.PatchType, patch []byte) (T, error) {
	out, err := c.Transport.Patch(ctx, KindOf[T](c), namespace, name, subresource, pt, patch, metav1.PatchOptions{})
	return typed[T](out, err)
}

// Remove deletes an object of type T. (Delete is the name of an event.)
func Remove[T Object](ctx context.Context, c *Client, namespace, name string, opts metav1.DeleteOptions) error {
	return c.Transport.Delete(ctx, KindOf[T](c), namespace, name, opts)
}

func typed[T Object](obj Object, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return obj.(T), nil
}
