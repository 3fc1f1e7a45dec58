package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
	"github.com/kebernetes/kebernetes/kinds"
)

// GarbageCollector deletes objects all of whose owners are gone, and carries out deletions that wait for dependents
// (foreground) or let them go (orphan). It holds no graph: the owners of an object are read from the snapshot by name and UID,
// its dependents from one index per resource that holds only objects with owners.
func GarbageCollector(env controller.Env) *controller.Loop {
	c := env.Client("generic-garbage-collector")
	g := &collector{
		client:  c,
		events:  client.NewRecorder(c, "garbage-collector-controller", env.Logger),
		indexes: map[*kinds.Kind]*controller.Index{},
	}
	return env.NewLoop(c, controller.Controller{
		Name:      "garbage-collector-controller",
		Workers:   20,
		Every:     g.follow,
		Reconcile: g.reconcile,
	})
}

type collector struct {
	client *client.Client
	events *client.Recorder

	mu      sync.RWMutex
	indexes map[*kinds.Kind]*controller.Index // by the UIDs of owners
}

// follow watches every kind whose objects can be deleted, but for events, which come and go too fast to own anything.
func (g *collector) follow(k *kinds.Kind) (controller.Watch, bool) {
	if !deletable(k) || k.Resource == "events" {
		return controller.Watch{}, false
	}
	index := controller.NewIndex(func(obj client.Object, add func(controller.Group)) {
		for _, ref := range obj.GetOwnerReferences() {
			add(controller.OwnedBy(ref.UID))
		}
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	for known := range g.indexes {
		if g.client.Table().Resource(known.GroupResource()) != known {
			delete(g.indexes, known)
		}
	}
	g.indexes[k] = index
	return controller.Watch{Resource: k.GroupResource().String(), Index: index, Keys: g.changed}, true
}

// changed adds the objects whose fate an event may decide.
func (g *collector) changed(ev client.Event, add func(controller.Key)) {
	obj := ev.Item.Object
	refs := obj.GetOwnerReferences()
	if ev.Type == client.Delete {
		for _, dep := range g.dependents(obj.GetUID()) {
			add(dep.key)
		}
		g.addWaiting(obj.GetNamespace(), refs, add)
		return
	}
	if waiting(obj) {
		add(ev.Item.Key)
		if ev.Prev == nil || !waiting(ev.Prev.Object) {
			for _, dep := range g.dependents(obj.GetUID()) {
				add(dep.key)
			}
		}
	}
	switch {
	case ev.Prev == nil:
		if len(refs) > 0 {
			add(ev.Item.Key)
		}
	case !sameRefs(refs, ev.Prev.Object.GetOwnerReferences()):
		if len(refs) > 0 {
			add(ev.Item.Key)
		}
		g.addWaiting(obj.GetNamespace(), ev.Prev.Object.GetOwnerReferences(), add)
	}
}

// sameRefs compares owner references; most events change none, so equal slices are told apart cheaply.
func sameRefs(a, b []metav1.OwnerReference) bool {
	if len(a) != len(b) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0] || apiequality.Semantic.DeepEqual(a, b)
}

// addWaiting adds the owners that wait for their dependents.
func (g *collector) addWaiting(namespace string, refs []metav1.OwnerReference, add func(controller.Key)) {
	snap := g.client.Snapshot()
	for i := range refs {
		if owner, state := g.owner(snap, namespace, &refs[i]); state == ownerWaiting {
			add(owner)
		}
	}
}

// waiting says that an object's deletion waits for the collector.
func waiting(obj client.Object) bool {
	return obj.GetDeletionTimestamp() != nil && (foreground(obj) || orphaning(obj))
}

func foreground(obj client.Object) bool {
	return slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents)
}

func orphaning(obj client.Object) bool {
	return slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents)
}

// dependent is an object with the owner that was asked for.
type dependent struct {
	kind *kinds.Kind
	key  controller.Key
	obj  client.Object
}

// dependents returns the objects that name an owner.
func (g *collector) dependents(uid types.UID) []dependent {
	g.mu.RLock()
	defer g.mu.RUnlock()
	var out []dependent
	for k, index := range g.indexes {
		for _, obj := range controller.Indexed[client.Object](index, controller.OwnedBy(uid)) {
			out = append(out, dependent{k, controller.Key{Resource: k.GroupResource().String(), Namespace: obj.GetNamespace(), Name: obj.GetName()}, obj})
		}
	}
	return out
}

// ownerState is what an owner reference points to.
type ownerState int

const (
	ownerSolid   ownerState = iota // it is there, or cannot be looked up
	ownerAbsent                    // it is gone
	ownerWaiting                   // it is being deleted and waits for its dependents
)

// owner looks an owner up: by kind and name, in the dependent's namespace or in none, with the UID as the proof. A reference from
// a cluster-scoped object to a namespaced one leads nowhere and holds the object for ever, as does one to an unknown kind.
func (g *collector) owner(snap client.Snapshot, namespace string, ref *metav1.OwnerReference) (controller.Key, ownerState) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return controller.Key{}, ownerSolid
	}
	k := g.client.Table().Kind(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	if k == nil || k.Namespaced && namespace == "" {
		return controller.Key{}, ownerSolid
	}
	key := controller.Key{Resource: k.GroupResource().String(), Name: ref.Name}
	if k.Namespaced {
		key.Namespace = namespace
	}
	item := snap.Get(key)
	switch {
	case item == nil || item.Object.GetUID() != ref.UID:
		return key, ownerAbsent
	case item.Object.GetDeletionTimestamp() != nil && foreground(item.Object):
		return key, ownerWaiting
	}
	return key, ownerSolid
}

func (g *collector) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	k := g.client.Table().Resource(schema.ParseGroupResource(key.Resource))
	// One snapshot for the object and its owners: an owner that is gone only in a later one may have let this object go first.
	snap := g.client.Snapshot()
	item := snap.Get(key)
	if k == nil || item == nil {
		return 0, nil
	}
	obj := item.Object
	var err error
	switch {
	case obj.GetDeletionTimestamp() != nil && orphaning(obj):
		err = g.orphan(ctx, k, obj)
	case obj.GetDeletionTimestamp() != nil && foreground(obj):
		err = g.releaseWhenFree(ctx, k, obj)
	case obj.GetDeletionTimestamp() == nil && len(obj.GetOwnerReferences()) > 0:
		err = g.collect(ctx, snap, k, obj)
	}
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	return 0, err
}

// orphan takes the object out of its dependents' owner references, and then lets it go.
func (g *collector) orphan(ctx context.Context, k *kinds.Kind, obj client.Object) error {
	for _, err := range parallel(g.dependents(obj.GetUID()), func(dep dependent) error {
		return g.keepOwners(ctx, dep.kind, dep.obj, func(ref *metav1.OwnerReference) bool { return ref.UID != obj.GetUID() })
	}) {
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("orphan dependents of %s %s: %w", k.Resource, obj.GetName(), err)
		}
	}
	return g.dropFinalizer(ctx, k, obj, metav1.FinalizerOrphanDependents)
}

// releaseWhenFree lets the object go once no dependent is left that blocks it.
func (g *collector) releaseWhenFree(ctx context.Context, k *kinds.Kind, obj client.Object) error {
	for _, dep := range g.dependents(obj.GetUID()) {
		for _, ref := range dep.obj.GetOwnerReferences() {
			if ref.UID == obj.GetUID() && ptr.Deref(ref.BlockOwnerDeletion, false) {
				return nil
			}
		}
	}
	return g.dropFinalizer(ctx, k, obj, metav1.FinalizerDeleteDependents)
}

// collect decides the fate of an object from the states of its owners.
func (g *collector) collect(ctx context.Context, snap client.Snapshot, k *kinds.Kind, obj client.Object) error {
	solid, waits := 0, 0
	states := map[types.UID]ownerState{}
	for _, ref := range obj.GetOwnerReferences() {
		key, state := g.owner(snap, obj.GetNamespace(), &ref)
		states[ref.UID] = state
		switch state {
		case ownerSolid:
			solid++
			if key == (controller.Key{}) && obj.GetNamespace() == "" && g.namespaced(&ref) {
				g.events.Event(obj, corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef %s does not exist in namespace %q", refText(&ref), "")
			}
		case ownerWaiting:
			waits++
		}
	}
	if solid > 0 {
		if solid == len(obj.GetOwnerReferences()) {
			return nil
		}
		return g.keepOwners(ctx, k, obj, func(ref *metav1.OwnerReference) bool { return states[ref.UID] == ownerSolid })
	}
	policy, unblocked := metav1.DeletePropagationBackground, false
	switch {
	case waits > 0 && len(g.dependents(obj.GetUID())) > 0:
		// An owner waits for this object, which has dependents of its own: they go first. When one of those is being deleted in
		// the same way, the references make a circle, which is cut here.
		policy = metav1.DeletePropagationForeground
		if slices.ContainsFunc(g.dependents(obj.GetUID()), func(d dependent) bool { return d.obj.GetDeletionTimestamp() != nil && foreground(d.obj) }) {
			if err := g.unblock(ctx, k, obj); err != nil {
				return err
			}
			unblocked = true
		}
	case orphaning(obj):
		policy = metav1.DeletePropagationOrphan
	case foreground(obj):
		policy = metav1.DeletePropagationForeground
	}
	opts := metav1.DeleteOptions{PropagationPolicy: &policy, Preconditions: &metav1.Preconditions{UID: ptr.To(obj.GetUID())}}
	if !unblocked {
		// As it was when its owners were looked at: it may have been given another since.
		opts.Preconditions.ResourceVersion = ptr.To(obj.GetResourceVersion())
	}
	return g.client.Delete(ctx, k, obj.GetNamespace(), obj.GetName(), opts)
}

func (g *collector) namespaced(ref *metav1.OwnerReference) bool {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return false
	}
	k := g.client.Table().Kind(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	return k != nil && k.Namespaced
}

func refText(ref *metav1.OwnerReference) string {
	return fmt.Sprintf("[%s/%s, namespace: , name: %s, uid: %s]", ref.APIVersion, ref.Kind, ref.Name, ref.UID)
}

// unblock takes the right to block from all owner references of an object.
func (g *collector) unblock(ctx context.Context, k *kinds.Kind, obj client.Object) error {
	refs := slices.Clone(obj.GetOwnerReferences())
	for i := range refs {
		refs[i].BlockOwnerDeletion = ptr.To(false)
	}
	return g.patch(ctx, k, obj, map[string]any{"ownerReferences": refs})
}

// keepOwners takes out all owner references but those that keep says.
func (g *collector) keepOwners(ctx context.Context, k *kinds.Kind, obj client.Object, keep func(*metav1.OwnerReference) bool) error {
	refs := []metav1.OwnerReference{}
	for _, ref := range obj.GetOwnerReferences() {
		if keep(&ref) {
			refs = append(refs, ref)
		}
	}
	return g.patch(ctx, k, obj, map[string]any{"ownerReferences": refs})
}

func (g *collector) dropFinalizer(ctx context.Context, k *kinds.Kind, obj client.Object, finalizer string) error {
	rest := slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool { return f == finalizer })
	return g.patch(ctx, k, obj, map[string]any{"finalizers": rest})
}

// patch changes metadata of the object as it was read: the lists in it are written whole, so the revision must not have moved.
func (g *collector) patch(ctx context.Context, k *kinds.Kind, obj client.Object, metadata map[string]any) error {
	metadata["uid"] = obj.GetUID()
	metadata["resourceVersion"] = obj.GetResourceVersion()
	body, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = g.client.Patch(ctx, k, obj.GetNamespace(), obj.GetName(), "", types.MergePatchType, body, metav1.PatchOptions{})
	return err
}
