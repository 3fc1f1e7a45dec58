// Package controllertest is a small API in memory for the tests of controllers: it stores what they write, with uid,
// generation, resourceVersion, finalizers and graceful deletion as the real one has them, and checks nothing else. Only
// tests below controller import it; whole clusters are tested in testcluster.
package controllertest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// API is the API in memory. It implements client.Transport for every user alike.
type API struct {
	*store.Memory
	Table *kinds.Table
	// Refuse, when set, may answer a request with an error: verb is "create", "update", "patch", "delete" or "post".
	Refuse func(verb string, k *kinds.Kind, obj client.Object) error

	mu       sync.Mutex
	revision int64
	writes   []string
}

var _ client.Transport = (*API)(nil)

// New returns an empty API of the kinds given.
func New(rows ...*kinds.Kind) *API {
	return &API{Memory: store.NewMemory(0), Table: kinds.NewTable(rows...)}
}

// Client returns a client of the API.
func (a *API) Client() *client.Client { return client.New(a, a.Table) }

// Env returns what controllers are built from; logs go to the test's log.
func (a *API) Env(t testing.TB) controller.Env {
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	return controller.Env{Client: func(string) *client.Client { return a.Client() }, Logger: logger}
}

// Start runs components until the test ends.
func Start[C interface{ Run(context.Context) error }](t testing.TB, components ...C) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, c := range components {
		wg.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Errorf("component: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// Writes returns what was written since the last call, one "verb resource name" each, events left out.
func (a *API) Writes() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.writes
	a.writes = nil
	return out
}

// Mirrors says that every resource is mirrored.
func (a *API) Mirrors(string) bool { return true }

func key(k *kinds.Kind, namespace, name string) store.Key {
	return store.Key{Resource: k.GroupResource().String(), Namespace: namespace, Name: name}
}

// commit publishes a new state; nil deletes. The caller holds mu.
func (a *API) commit(k store.Key, obj client.Object) client.Object {
	a.revision++
	prev := a.Snapshot().Get(k)
	ev := store.Event{Type: store.Put, Prev: prev}
	if obj == nil {
		ev.Type = store.Delete
		obj = prev.Object.DeepCopyObject().(client.Object)
	}
	obj.SetResourceVersion(strconv.FormatInt(a.revision, 10))
	ev.Item = &store.Item{Key: k, Object: obj, Created: a.revision, Revision: a.revision}
	if prev != nil {
		ev.Item.Created = prev.Created
	}
	a.Publish(a.revision, []store.Event{ev})
	return obj
}

// begin notes a write and asks Refuse. The caller holds mu.
func (a *API) begin(verb string, k *kinds.Kind, name, subresource string, obj client.Object) error {
	if k.Resource != "events" {
		entry := verb + " " + k.Resource
		if subresource != "" {
			entry += "/" + subresource
		}
		a.writes = append(a.writes, entry+" "+name)
	}
	if a.Refuse != nil {
		return a.Refuse(verb, k, obj)
	}
	return nil
}

// Get reads one object.
func (a *API) Get(_ context.Context, k *kinds.Kind, namespace, name string) (client.Object, error) {
	item := a.Snapshot().Get(key(k, namespace, name))
	if item == nil {
		return nil, apierrors.NewNotFound(k.GroupResource(), name)
	}
	return item.Object, nil
}

// Create stores a new object.
func (a *API) Create(_ context.Context, k *kinds.Kind, obj client.Object, _ metav1.CreateOptions) (client.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if obj.GetName() == "" {
		obj.SetName(fmt.Sprintf("%s%05d", obj.GetGenerateName(), a.revision+1))
	}
	if err := a.begin("create", k, obj.GetName(), "", obj); err != nil {
		return nil, err
	}
	at := key(k, obj.GetNamespace(), obj.GetName())
	if a.Snapshot().Get(at) != nil {
		return nil, apierrors.NewAlreadyExists(k.GroupResource(), obj.GetName())
	}
	obj.SetUID(types.UID(fmt.Sprintf("uid-%d", a.revision+1)))
	obj.SetGeneration(1)
	if obj.GetCreationTimestamp().Time.IsZero() {
		obj.SetCreationTimestamp(metav1.Now())
	}
	return a.commit(at, obj), nil
}

// Update replaces an object, or its status.
func (a *API) Update(_ context.Context, k *kinds.Kind, subresource string, obj client.Object, _ metav1.UpdateOptions) (client.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.begin("update", k, obj.GetName(), subresource, obj); err != nil {
		return nil, err
	}
	if sc, ok := obj.(*autoscalingv1.Scale); ok {
		return a.scale(k, sc)
	}
	return a.replace(k, subresource, obj)
}

// scale changes the replica count of an object. The caller holds mu.
func (a *API) scale(k *kinds.Kind, sc *autoscalingv1.Scale) (client.Object, error) {
	item := a.Snapshot().Get(key(k, sc.Namespace, sc.Name))
	if item == nil {
		return nil, apierrors.NewNotFound(k.GroupResource(), sc.Name)
	}
	obj := item.Object.DeepCopyObject().(client.Object)
	obj.SetResourceVersion(sc.ResourceVersion)
	k.Scale.SetReplicas(obj, sc.Spec.Replicas)
	if _, err := a.replace(k, "", obj); err != nil {
		return nil, err
	}
	return sc, nil
}

func (a *API) replace(k *kinds.Kind, subresource string, obj client.Object) (client.Object, error) {
	at := key(k, obj.GetNamespace(), obj.GetName())
	item := a.Snapshot().Get(at)
	if item == nil {
		return nil, apierrors.NewNotFound(k.GroupResource(), obj.GetName())
	}
	old := item.Object
	if rv := obj.GetResourceVersion(); rv != "" && rv != old.GetResourceVersion() {
		return nil, apierrors.NewConflict(k.GroupResource(), obj.GetName(), fmt.Errorf("object was modified"))
	}
	obj = obj.DeepCopyObject().(client.Object)
	now, before := reflect.ValueOf(obj).Elem(), reflect.ValueOf(old).Elem()
	if s := now.FieldByName("Status"); s.IsValid() {
		if subresource == "status" {
			now.FieldByName("Spec").Set(before.FieldByName("Spec"))
		} else if subresource == "" {
			s.Set(before.FieldByName("Status"))
		}
	}
	obj.SetUID(old.GetUID())
	obj.SetGeneration(old.GetGeneration())
	obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	if s := now.FieldByName("Spec"); s.IsValid() && !apiequality.Semantic.DeepEqual(s.Interface(), before.FieldByName("Spec").Interface()) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
	obj.SetResourceVersion(old.GetResourceVersion())
	if apiequality.Semantic.DeepEqual(obj, old) {
		return old, nil
	}
	if obj.GetDeletionTimestamp() != nil && len(obj.GetFinalizers()) == 0 && obj.GetDeletionGracePeriodSeconds() == nil && !hasSpecFinalizers(obj) {
		return a.commit(at, nil), nil
	}
	return a.commit(at, obj), nil
}

func hasSpecFinalizers(obj client.Object) bool {
	ns, ok := obj.(*corev1.Namespace)
	return ok && len(ns.Spec.Finalizers) > 0
}

// Patch applies a patch to an object or its status.
func (a *API) Patch(_ context.Context, k *kinds.Kind, namespace, name, subresource string, pt types.PatchType, patch []byte, _ metav1.PatchOptions) (client.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	item := a.Snapshot().Get(key(k, namespace, name))
	if item == nil {
		return nil, apierrors.NewNotFound(k.GroupResource(), name)
	}
	if err := a.begin("patch", k, name, subresource, item.Object); err != nil {
		return nil, err
	}
	old, err := json.Marshal(item.Object)
	if err != nil {
		return nil, err
	}
	obj := k.Storage().New()
	var merged []byte
	switch pt {
	case types.StrategicMergePatchType:
		merged, err = strategicpatch.StrategicMergePatch(old, patch, obj)
	case types.MergePatchType:
		merged, err = jsonpatch.MergePatch(old, patch)
	default:
		err = fmt.Errorf("patch type %s", pt)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(merged, obj); err != nil {
		return nil, err
	}
	if obj.GetUID() != item.Object.GetUID() {
		return nil, apierrors.NewConflict(k.GroupResource(), name, fmt.Errorf("uid mismatch"))
	}
	return a.replace(k, subresource, obj)
}

// Delete deletes an object, or marks it deleted when finalizers, a grace period or the propagation policy keep it.
func (a *API) Delete(_ context.Context, k *kinds.Kind, namespace, name string, opts metav1.DeleteOptions) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := key(k, namespace, name)
	item := a.Snapshot().Get(at)
	if item == nil {
		return apierrors.NewNotFound(k.GroupResource(), name)
	}
	if err := a.begin("delete", k, name, "", item.Object); err != nil {
		return err
	}
	if p := opts.Preconditions; p != nil && (p.UID != nil && *p.UID != item.Object.GetUID() || p.ResourceVersion != nil && *p.ResourceVersion != item.Object.GetResourceVersion()) {
		return apierrors.NewConflict(k.GroupResource(), name, fmt.Errorf("precondition failed"))
	}
	obj := item.Object.DeepCopyObject().(client.Object)
	for policy, finalizer := range map[metav1.DeletionPropagation]string{
		metav1.DeletePropagationForeground: metav1.FinalizerDeleteDependents,
		metav1.DeletePropagationOrphan:     metav1.FinalizerOrphanDependents,
	} {
		if opts.PropagationPolicy != nil && *opts.PropagationPolicy == policy && !slices.Contains(obj.GetFinalizers(), finalizer) {
			obj.SetFinalizers(append(obj.GetFinalizers(), finalizer))
		}
	}
	pod, isPod := obj.(*corev1.Pod)
	graceful := isPod && pod.Spec.NodeName != "" && !controller.PodFinished(pod) && (opts.GracePeriodSeconds == nil || *opts.GracePeriodSeconds > 0)
	if len(obj.GetFinalizers()) == 0 && !graceful && !hasSpecFinalizers(obj) {
		a.commit(at, nil)
		return nil
	}
	if obj.GetDeletionTimestamp() == nil {
		now := metav1.Now()
		if graceful {
			now = metav1.NewTime(time.Now().Add(30 * time.Second))
			grace := int64(30)
			obj.SetDeletionGracePeriodSeconds(&grace)
		}
		obj.SetDeletionTimestamp(&now)
	}
	if ns, ok := obj.(*corev1.Namespace); ok {
		ns.Status.Phase = corev1.NamespaceTerminating
	}
	if !apiequality.Semantic.DeepEqual(obj, item.Object) {
		a.commit(at, obj)
	}
	return nil
}

// Post deletes a pod for its eviction; there is no other subresource.
func (a *API) Post(ctx context.Context, k *kinds.Kind, namespace, name, subresource string, _ client.Object) (client.Object, error) {
	if subresource != "eviction" {
		return nil, apierrors.NewNotFound(k.GroupResource(), name)
	}
	return nil, a.Delete(ctx, k, namespace, name, metav1.DeleteOptions{})
}

// Bind is not asked for by controllers.
func (a *API) Bind(context.Context, []*corev1.Binding) []error { return nil }

// Put stores an object whatever is there, status included, and returns it as stored. Tests set the scene with it.
func Put[T client.Object](a *API, obj T) T {
	k := client.KindOf[T](a.Client())
	a.mu.Lock()
	defer a.mu.Unlock()
	at := key(k, obj.GetNamespace(), obj.GetName())
	if item := a.Snapshot().Get(at); item != nil {
		obj.SetUID(item.Object.GetUID())
	} else if obj.GetUID() == "" {
		obj.SetUID(types.UID(fmt.Sprintf("uid-%d", a.revision+1)))
	}
	if obj.GetGeneration() == 0 {
		obj.SetGeneration(1)
	}
	if obj.GetCreationTimestamp().Time.IsZero() {
		obj.SetCreationTimestamp(metav1.Now())
	}
	return a.commit(at, obj).(T)
}

// Change stores what edit makes of an object.
func Change[T client.Object](a *API, namespace, name string, edit func(T)) T {
	k := client.KindOf[T](a.Client())
	obj := a.Snapshot().Get(key(k, namespace, name)).Object.DeepCopyObject().(T)
	edit(obj)
	return Put(a, obj)
}

// Drop takes an object away at once.
func Drop[T client.Object](a *API, namespace, name string) {
	k := client.KindOf[T](a.Client())
	a.mu.Lock()
	defer a.mu.Unlock()
	a.commit(key(k, namespace, name), nil)
}

// All returns all objects of a type.
func All[T client.Object](a *API) []T { return client.List[T](a.Client(), a.Snapshot(), "", nil) }

// Row returns a bare row of the kinds table for a type.
func Row[T, L any, PT interface {
	*T
	client.Object
}, PL interface {
	*L
	runtime.Object
}](group, version, resource string, namespaced bool) *kinds.Kind {
	return &kinds.Kind{
		Group: group, Kind: reflect.TypeFor[T]().Name(), Resource: resource, Namespaced: namespaced,
		Versions: []kinds.Version{kinds.V[T, L, PT, PL](version)},
	}
}
