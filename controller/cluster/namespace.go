package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
	"github.com/kebernetes/kebernetes/kinds"
)

// Namespaces empties namespaces that are being deleted, pods first, and then lets them go.
func Namespaces(env controller.Env) *controller.Loop {
	c := env.Client("namespace-controller")
	r := &namespaces{client: c}
	return env.NewLoop(c, controller.Controller{
		Name:    "namespace-controller",
		Workers: 10,
		Watches: []controller.Watch{{Resource: client.ResourceOf[*corev1.Namespace](c), Keys: controller.Itself}},
		// What leaves a namespace that is being deleted may be the last that it waits for.
		Every: func(k *kinds.Kind) (controller.Watch, bool) {
			return controller.Watch{Resource: k.GroupResource().String(), Keys: r.left}, k.Namespaced && deletable(k)
		},
		Reconcile: r.reconcile,
	})
}

type namespaces struct {
	client *client.Client
}

func (r *namespaces) left(ev client.Event, add func(controller.Key)) {
	if ev.Type != client.Delete {
		return
	}
	ns, ok := client.From[*corev1.Namespace](r.client, r.client.Snapshot(), "", ev.Item.Key.Namespace)
	if ok && ns.DeletionTimestamp != nil {
		add(controller.Key{Name: ns.Name})
	}
}

func (r *namespaces) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	ns, ok := client.From[*corev1.Namespace](r.client, r.client.Snapshot(), "", key.Name)
	if !ok || ns.DeletionTimestamp == nil || len(ns.Spec.Finalizers) == 0 {
		return 0, nil
	}
	failure := r.empty(ctx, ns.Name)
	rest := r.remaining(ns.Name)
	if failure == nil && len(rest) == 0 {
		return 0, r.finalize(ctx, ns)
	}
	if err := r.report(ctx, ns, rest, failure); err != nil {
		return 0, err
	}
	return 0, failure
}

// empty deletes what is in the namespace. While pods remain, nothing else is touched: they may need it to end well.
func (r *namespaces) empty(ctx context.Context, namespace string) error {
	pods := client.KindOf[*corev1.Pod](r.client)
	if err := r.deleteAll(ctx, pods, namespace); err != nil {
		return fmt.Errorf("failed to delete pods for namespace: %s, err: %w", namespace, err)
	}
	for range r.client.Snapshot().List(pods.GroupResource().String(), namespace) {
		return nil
	}
	var errs []error
	for _, k := range r.contentKinds() {
		if err := r.deleteAll(ctx, k, namespace); err != nil {
			errs = append(errs, err)
		}
	}
	return utilerrors.NewAggregate(errs)
}

func (r *namespaces) contentKinds() []*kinds.Kind {
	return slices.DeleteFunc(r.client.Table().All(), func(k *kinds.Kind) bool { return !k.Namespaced || !deletable(k) })
}

// deleteAll deletes every object of a kind in the namespace that is not being deleted already.
func (r *namespaces) deleteAll(ctx context.Context, k *kinds.Kind, namespace string) error {
	var items []*client.Item
	for item := range r.client.Snapshot().List(k.GroupResource().String(), namespace) {
		if item.Object.GetDeletionTimestamp() == nil {
			items = append(items, item)
		}
	}
	return utilerrors.NewAggregate(parallel(items, func(item *client.Item) error {
		err := r.client.Delete(ctx, k, namespace, item.Key.Name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}))
}

// leftover is how many objects of a kind are still in a namespace, and which finalizers hold how many of them.
type leftover struct {
	resource, group string
	count           int
	finalizers      map[string]int
}

func (r *namespaces) remaining(namespace string) []leftover {
	snap := r.client.Snapshot()
	var out []leftover
	for _, k := range r.contentKinds() {
		l := leftover{resource: k.Resource, group: k.Group, finalizers: map[string]int{}}
		for item := range snap.List(k.GroupResource().String(), namespace) {
			l.count++
			for _, f := range item.Object.GetFinalizers() {
				l.finalizers[f]++
			}
		}
		if l.count > 0 {
			out = append(out, l)
		}
	}
	return out
}

// report writes what still holds the namespace into its conditions.
func (r *namespaces) report(ctx context.Context, ns *corev1.Namespace, rest []leftover, failure error) error {
	update := ns.DeepCopy()
	update.Status.Conditions = namespaceConditions(ns.Status.Conditions, rest, failure, time.Now())
	update.Status.Phase = corev1.NamespaceTerminating
	if apiequality.Semantic.DeepEqual(update.Status, ns.Status) {
		return nil
	}
	if _, err := client.UpdateStatus(ctx, r.client, update); err != nil {
		return errors.Join(failure, fmt.Errorf("update status of namespace %s: %w", ns.Name, err))
	}
	return nil
}

// finalize takes the finalizer of Kubernetes itself off the spec; the server removes the namespace when it was the last.
func (r *namespaces) finalize(ctx context.Context, ns *corev1.Namespace) error {
	update := ns.DeepCopy()
	update.Spec.Finalizers = slices.DeleteFunc(update.Spec.Finalizers, func(f corev1.FinalizerName) bool {
		return f == corev1.FinalizerKubernetes
	})
	if len(update.Spec.Finalizers) == len(ns.Spec.Finalizers) {
		return nil
	}
	_, err := r.client.Update(ctx, client.KindOf[*corev1.Namespace](r.client), "finalize", update, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// namespaceConditions returns all five conditions of a namespace that is being deleted. A condition keeps its time while
// status, reason and message stay.
func namespaceConditions(before []corev1.NamespaceCondition, rest []leftover, failure error, now time.Time) []corev1.NamespaceCondition {
	next := []corev1.NamespaceCondition{
		{Type: corev1.NamespaceDeletionDiscoveryFailure, Status: corev1.ConditionFalse, Reason: "ResourcesDiscovered",
			Message: "All resources successfully discovered"},
		{Type: corev1.NamespaceDeletionGVParsingFailure, Status: corev1.ConditionFalse, Reason: "ParsedGroupVersions",
			Message: "All legacy kube types successfully parsed"},
		{Type: corev1.NamespaceDeletionContentFailure, Status: corev1.ConditionFalse, Reason: "ContentDeleted",
			Message: "All content successfully deleted, may be waiting on finalization"},
		{Type: corev1.NamespaceContentRemaining, Status: corev1.ConditionFalse, Reason: "ContentRemoved",
			Message: "All content successfully removed"},
		{Type: corev1.NamespaceFinalizersRemaining, Status: corev1.ConditionFalse, Reason: "ContentHasNoFinalizers",
			Message: "All content-preserving finalizers finished"},
	}
	if failure != nil {
		next[2].Status, next[2].Reason = corev1.ConditionTrue, "ContentDeletionFailed"
		next[2].Message = fmt.Sprintf("Failed to delete all resource types, %d remaining: %v", countErrors(failure), failure)
	}
	var content, finalizers []string
	held := map[string]int{}
	for _, l := range rest {
		content = append(content, fmt.Sprintf("%s.%s has %d resource instances", l.resource, l.group, l.count))
		for f, n := range l.finalizers {
			held[f] += n
		}
	}
	for f, n := range held {
		finalizers = append(finalizers, fmt.Sprintf("%s in %d resource instances", f, n))
	}
	slices.Sort(content)
	slices.Sort(finalizers)
	if len(content) > 0 {
		next[3].Status, next[3].Reason = corev1.ConditionTrue, "SomeResourcesRemain"
		next[3].Message = "Some resources are remaining: " + strings.Join(content, ", ")
	}
	if len(finalizers) > 0 {
		next[4].Status, next[4].Reason = corev1.ConditionTrue, "SomeFinalizersRemain"
		next[4].Message = "Some content in the namespace has finalizers remaining: " + strings.Join(finalizers, ", ")
	}
	for i := range next {
		next[i].LastTransitionTime = metav1.NewTime(now)
		for _, old := range before {
			if old.Type == next[i].Type && old.Status == next[i].Status && old.Reason == next[i].Reason && old.Message == next[i].Message {
				next[i].LastTransitionTime = old.LastTransitionTime
			}
		}
	}
	return next
}

func countErrors(err error) int {
	var all utilerrors.Aggregate
	if errors.As(err, &all) {
		return len(all.Errors())
	}
	return 1
}
