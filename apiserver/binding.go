package apiserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/admission"
	"github.com/kebernetes/kebernetes/apiserver/wire"
	"github.com/kebernetes/kebernetes/store"
)

var bindingKind = schema.GroupVersionKind{Version: "v1", Kind: "Binding"}

// bind assigns a pod to a node: POST to pods/NAME/binding, or to bindings.
func (rq *request) bind() error {
	b := &corev1.Binding{}
	m, o, err := rq.posted(b, bindingKind)
	if err != nil {
		return err
	}
	b.TypeMeta = metav1.TypeMeta{}
	w := rq.writeOf("", o.DryRun)
	if rq.subresource != "" && b.Name != rq.name {
		return apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	w.name = b.Name
	if err := w.place(b); err != nil {
		return err
	}
	if err := rq.s.bindAll(rq.ctx, w, []*corev1.Binding{b})[0]; err != nil {
		return err
	}
	return rq.answerObject(http.StatusCreated, createdStatus(), wire.StatusKind, m)
}

// bindAll binds pods in as few commits as other writers allow, and returns one error, or nil, for each binding. w names
// the user; the bindings name the pods.
func (s *Server) bindAll(ctx context.Context, w *write, bindings []*corev1.Binding) []error {
	errs := make([]error, len(bindings))
	var open []int
	for i, b := range bindings {
		if errs[i] = s.admitBinding(ctx, w, b); errs[i] == nil {
			open = append(open, i)
		}
	}
	for len(open) > 0 {
		var again []int
		var writes []store.Write
		var of []int
		snap := s.Store.Snapshot()
		for _, i := range open {
			wr, err := s.assignment(snap, bindings[i])
			if err != nil {
				errs[i] = err
				continue
			}
			writes, of = append(writes, wr), append(of, i)
		}
		if w.dryRun || len(writes) == 0 {
			break
		}
		for j, res := range s.Store.Commit(ctx, writes...) {
			switch i := of[j]; {
			case res.Err == nil:
			case errors.Is(res.Err, store.ErrConflict) && ctx.Err() == nil:
				again = append(again, i)
			case errors.Is(res.Err, store.ErrNotFound):
				errs[i] = apierrors.NewNotFound(corev1.Resource("pods"), bindings[i].Name)
			default:
				errs[i] = res.Err
			}
		}
		open = again
	}
	return errs
}

// admitBinding checks a binding and lets admission look at it.
func (s *Server) admitBinding(ctx context.Context, w *write, b *corev1.Binding) error {
	if row := s.Table.Resource(corev1.Resource("bindings")); row != nil && row.Validate != nil {
		if errs := row.Validate(b); len(errs) > 0 {
			return invalid(bindingKind.GroupKind(), b.Name, errs)
		}
	}
	one := *w
	one.namespace, one.name = b.Namespace, b.Name
	ar := one.admissionRequest(admission.Create, b, nil)
	if err := s.Admission.Mutate(ctx, ar); err != nil {
		return err
	}
	return s.Admission.Validate(ctx, ar)
}

// assignment is the write that a binding makes.
func (s *Server) assignment(snap store.Snapshot, b *corev1.Binding) (store.Write, error) {
	item := snap.Get(store.Key{Resource: "pods", Namespace: b.Namespace, Name: b.Name})
	if item == nil {
		return store.Write{}, apierrors.NewNotFound(corev1.Resource("pods"), b.Name)
	}
	pod := item.Object.(*corev1.Pod)
	switch {
	case b.UID != "" && b.UID != pod.UID:
		return store.Write{}, bindingConflict(b, text(fmt.Sprintf("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, pod.UID)))
	case b.ResourceVersion != "" && b.ResourceVersion != pod.ResourceVersion:
		return store.Write{}, bindingConflict(b, text(fmt.Sprintf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", b.ResourceVersion, pod.ResourceVersion)))
	}
	out, err := assign(pod, b, s.now())
	if err != nil {
		return store.Write{}, bindingConflict(b, err)
	}
	return store.Write{Key: item.Key, Object: out, Expect: item.Revision}, nil
}

func bindingConflict(b *corev1.Binding, err error) error {
	return apierrors.NewConflict(corev1.Resource("pods/binding"), b.Name, err)
}

// assign returns the pod as bound to a node.
func assign(pod *corev1.Pod, b *corev1.Binding, now time.Time) (*corev1.Pod, error) {
	switch {
	case pod.DeletionTimestamp != nil:
		return nil, fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return nil, fmt.Errorf("pod %s is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return nil, fmt.Errorf("pod %s has non-empty .spec.schedulingGates", pod.Name)
	}
	out := store.Copy(pod).(*corev1.Pod)
	out.Spec.NodeName = b.Target.Name
	out.Status.NominatedNodeName = "" // it was the way here
	out.Annotations = merged(pod.Annotations, b.Annotations)
	out.Status.Conditions = slices.Clone(pod.Status.Conditions)
	setCondition(out, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, now)
	return out, nil
}

// merged returns base with what over adds or replaces, changing neither.
func merged(base, over map[string]string) map[string]string {
	if len(over) == 0 {
		return base
	}
	out := maps.Clone(base)
	if out == nil {
		return maps.Clone(over)
	}
	maps.Copy(out, over)
	return out
}

// setCondition sets a condition of a pod; its time moves only when its status does.
func setCondition(pod *corev1.Pod, c corev1.PodCondition, now time.Time) {
	c.LastTransitionTime = metav1.NewTime(now)
	for i := range pod.Status.Conditions {
		was := &pod.Status.Conditions[i]
		if was.Type == c.Type {
			if was.Status == c.Status {
				c.LastTransitionTime = was.LastTransitionTime
			}
			*was = c
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, c)
}
