// Package kinds describes every resource of the API: names, versions, defaulting, validation, subresources, selectable
// fields and printed columns. This package holds the vocabulary (Kind, Table); kinds/<group>/<kind>.go hold one kind each;
// kinds/podspec holds what all kinds with a pod template share; kinds/builtin is the one list of them all.
//
// The types of k8s.io/api are the only types: the storage version's Go type is the form in memory, other versions are
// converted at the edge. Nothing here does I/O or reads the clock. kinds imports nothing else of this module; anyone may
// import kinds, and only kinds/builtin imports the group packages.
package kinds

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Object is any API object with metadata.
type Object interface {
	metav1.Object
	runtime.Object
}

// Kind is one row of the table: all that the API server must know of a resource. Its functions are pure, may change only
// the object they are told to change, and are safe for concurrent use. A Kind is never changed once it is in a Table.
type Kind struct {
	Group string // "" for core
	Kind  string // "Deployment"
	// Resource is the plural, lower-case name in paths; Singular defaults to the lower-case Kind.
	Resource   string
	Singular   string
	ShortNames []string // kubectl's: "deploy"
	Categories []string // kubectl's: "all"
	Namespaced bool
	// Versions lists the served versions, the preferred one first. Exactly one of them has Storage set, none when StoredAs is.
	Versions []Version
	// StoredAs is the row whose objects this one serves under a second group (events.k8s.io shows the events of core): keys,
	// revisions and watches are those of StoredAs, all hooks take its storage type, and all versions convert to and from it.
	StoredAs *Kind
	// Verbs that discovery lists and the router serves; nil means the eight standard ones
	// (create delete deletecollection get list patch update watch).
	Verbs []string
	// Virtual kinds are answered by the API server and never stored (SubjectAccessReview, PodMetrics, …).
	Virtual bool
	// Volatile kinds (Event, Lease) are written without waiting for the disk.
	Volatile bool

	// ValidateName returns what is wrong with a name; prefix is set for a generateName. nil means DNS-1123 subdomain.
	ValidateName func(name string, prefix bool) []string
	// Default fills in what the user left out. It runs after decoding, after every admission step that changed the object,
	// and on reads from disk, so it must be idempotent, and write nothing where there is nothing left to fill in: objects
	// that have been through it may be shared.
	Default func(obj Object)
	// PrepareCreate drops what a client may not set on create (status), before validation. The server itself has set name,
	// uid, creationTimestamp and, when HasGeneration, generation 1 before: some kinds derive fields from them.
	PrepareCreate func(obj Object)
	// PrepareUpdate carries over from old what an update of the main resource may not change (status). The server bumps
	// generation itself: see Generation.
	PrepareUpdate func(obj, old Object)
	// Validate checks a new object, metadata apart: the server itself validates ObjectMeta with upstream's texts.
	Validate func(obj Object) field.ErrorList
	// ValidateUpdate checks an update, metadata apart; it calls Validate itself where upstream does.
	ValidateUpdate func(obj, old Object) field.ErrorList
	// Warnings are sent to the client in Warning headers, on create (old nil) and update.
	Warnings func(obj, old Object) []string
	// HasGeneration: metadata.generation starts at 1 and rises whenever SpecChanged says so.
	HasGeneration bool
	// SpecChanged compares what counts for generation; nil compares the field named Spec, where there is one.
	SpecChanged func(obj, old Object) bool

	// UnconditionalUpdate: an update without resourceVersion overwrites. CreateOnUpdate: a PUT of an absent name creates.
	UnconditionalUpdate bool
	CreateOnUpdate      bool
	// GraceOnDelete returns the grace period in seconds that a deletion starts with: 0 removes at once. nil means no
	// graceful deletion. opts holds what the client asked for and may be changed.
	GraceOnDelete func(obj Object, opts *metav1.DeleteOptions) int64
	// ReturnsDeleted: a deletion answers with the object that it removed, not with a Status.
	ReturnsDeleted bool
	// OrphanByDefault: dependents are orphaned when a deletion does not say otherwise (only where upstream does so).
	OrphanByDefault bool

	// FieldLabels lists the field selectors beyond metadata.name and metadata.namespace, and Fields computes them all.
	FieldLabels []string
	Fields      func(obj Object) fields.Set

	// Columns and Cells print kubectl's tables; nil gives Name and Age (upstream: "Created At").
	Columns []metav1.TableColumnDefinition
	// Cells returns one value per column, in order. now is the server's clock, for ages.
	Cells func(obj Object, now metav1.Time) []any

	// ResetFields lists, per version, the paths that the main resource's PrepareCreate and PrepareUpdate reset, so that
	// server-side apply does not record their owners: "status", "spec.something".
	ResetFields map[string][]string

	Subresources []Subresource
	// Scale makes the scale subresource work; nil for kinds without.
	Scale *Scale
}

// Version is one served version of a kind.
type Version struct {
	Name string // "v1"
	// New and NewList return empty objects of the version's Go types.
	New     func() Object
	NewList func() runtime.Object
	Storage bool
	// Warning is sent with every answer to a request for this version: deprecations. Empty means none.
	Warning string
	// ToStorage and FromStorage convert; both nil for the storage version. They take ownership of the argument.
	ToStorage   func(obj Object) (Object, error)
	FromStorage func(obj Object) (Object, error)
}

// Subresource is a path below an object. Those that read and write the object itself (status, ephemeralcontainers, resize,
// approval, finalize) carry their own strategy; those with behaviour of their own (binding, eviction, log, exec, proxy, …) are only
// listed here, for discovery, and handled by apiserver.
type Subresource struct {
	Name string // "status"
	// Body is the kind that its requests and answers carry; empty means the parent's.
	Body  schema.GroupVersionKind
	Verbs []string
	// NewBody returns an empty Body for subresources with a body of their own; nil otherwise.
	NewBody func() Object
	// DefaultBody and ValidateBody are Default and Validate for a body of its own; nil means nothing to do.
	DefaultBody  func(obj Object)
	ValidateBody func(obj Object) field.ErrorList
	// PrepareUpdate carries over from old all that this subresource may not change. nil marks a subresource with
	// behaviour of its own.
	PrepareUpdate func(obj, old Object)
	// Stamp sets the times that the change itself calls for, after PrepareUpdate; nil means none. now is the server's clock.
	Stamp          func(obj, old Object, now metav1.Time)
	ValidateUpdate func(obj, old Object) field.ErrorList
	Warnings       func(obj, old Object) []string
	ResetFields    map[string][]string
}

// Scale reads and writes the replica count of a kind.
type Scale struct {
	// Get returns the autoscaling/v1 Scale without metadata, which the server fills in.
	Get func(obj Object) *autoscalingv1.Scale
	// SetReplicas changes obj's wanted replica count.
	SetReplicas func(obj Object, replicas int32)
	// ReplicasPath is the field that an apply through scale owns, per version: ".spec.replicas".
	ReplicasPath map[string]string
}

// GroupResource names the kind's resource: "deployments.apps".
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}

// GroupKind names the kind: "Deployment.apps".
func (k *Kind) GroupKind() schema.GroupKind {
	return schema.GroupKind{Group: k.Group, Kind: k.Kind}
}

// StorageResource names the resource that the objects are kept under: the row's own unless StoredAs says otherwise.
func (k *Kind) StorageResource() schema.GroupResource {
	if k.StoredAs != nil {
		return k.StoredAs.GroupResource()
	}
	return k.GroupResource()
}

// Storage is the version whose Go type is held in memory.
func (k *Kind) Storage() *Version {
	if k.StoredAs != nil {
		return k.StoredAs.Storage()
	}
	for i := range k.Versions {
		if k.Versions[i].Storage {
			return &k.Versions[i]
		}
	}
	return nil
}

// Version returns the served version of that name, or nil.
func (k *Kind) Version(name string) *Version {
	for i := range k.Versions {
		if k.Versions[i].Name == name {
			return &k.Versions[i]
		}
	}
	return nil
}

// Subresource returns the subresource of that name, or nil.
func (k *Kind) Subresource(name string) *Subresource {
	for i := range k.Subresources {
		if k.Subresources[i].Name == name {
			return &k.Subresources[i]
		}
	}
	return nil
}

// V returns the storage Version of Go type T, with its list type L, as most kinds have only that one:
//
//	Versions: []kinds.Version{kinds.V[corev1.ConfigMap, corev1.ConfigMapList]("v1")}
func V[T, L any, PT interface {
	*T
	Object
}, PL interface {
	*L
	runtime.Object
}](name string) Version {
	return Version{
		Name:    name,
		New:     func() Object { return PT(new(T)) },
		NewList: func() runtime.Object { return PL(new(L)) },
		Storage: true,
	}
}

// On adapts a typed hook with one object: Default: kinds.On(defaultPod).
func On[T Object](f func(T)) func(Object) {
	return func(o Object) { f(o.(T)) }
}

// OnUpdate adapts a typed hook with the new and the old object.
func OnUpdate[T Object](f func(obj, old T)) func(Object, Object) {
	return func(o, old Object) { f(o.(T), old.(T)) }
}

// Check adapts a typed validation.
func Check[T Object](f func(T) field.ErrorList) func(Object) field.ErrorList {
	return func(o Object) field.ErrorList { return f(o.(T)) }
}

// CheckUpdate adapts a typed validation of an update.
func CheckUpdate[T Object](f func(obj, old T) field.ErrorList) func(Object, Object) field.ErrorList {
	return func(o, old Object) field.ErrorList { return f(o.(T), old.(T)) }
}

// Warn adapts typed warnings; old is the zero T (nil) on create.
func Warn[T Object](f func(obj, old T) []string) func(Object, Object) []string {
	return func(o, old Object) []string {
		var before T
		if old != nil {
			before = old.(T)
		}
		return f(o.(T), before)
	}
}

// Print adapts a typed row of table cells.
func Print[T Object](f func(obj T, now metav1.Time) []any) func(Object, metav1.Time) []any {
	return func(o Object, now metav1.Time) []any { return f(o.(T), now) }
}

// Select adapts typed selectable fields.
func Select[T Object](f func(T) fields.Set) func(Object) fields.Set {
	return func(o Object) fields.Set { return f(o.(T)) }
}
