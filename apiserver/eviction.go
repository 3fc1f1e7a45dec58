package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kebernetes/kebernetes/admission"
	"github.com/kebernetes/kebernetes/apiserver/wire"
	"github.com/kebernetes/kebernetes/store"
)

const (
	// budgetResource is where disruption budgets are kept, when the table has them.
	budgetResource = "poddisruptionbudgets.policy"
	// disruptedMost is how many disrupted pods a budget remembers before it lets no more go; upstream's limit.
	disruptedMost = 2000
	// budgetRetry is when to ask again while a budget's controller has not caught up, in seconds.
	budgetRetry = 10
)

// evict deletes a pod if its disruption budget allows
// (https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/).
func (rq *request) evict() error {
	e := &policyv1.Eviction{}
	m, o, err := rq.posted(e, policyv1.SchemeGroupVersion.WithKind("Eviction"), "policy/v1beta1") // which old clients send
	if err != nil {
		return err
	}
	e.TypeMeta = metav1.TypeMeta{}
	if e.Name == "" {
		e.Name = rq.name
	}
	w := rq.writeOf("", o.DryRun)
	if err := w.place(e); err != nil {
		return err
	}
	if e.Name != rq.name {
		return apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	if err := rq.s.evict(rq.ctx, w, e); err != nil {
		return err
	}
	return rq.answerObject(http.StatusCreated, createdStatus(), wire.StatusKind, m)
}

// evict deletes a pod if admission and its budget allow.
func (s *Server) evict(ctx context.Context, w *write, e *policyv1.Eviction) error {
	ar := w.admissionRequest(admission.Create, e, nil)
	if err := s.Admission.Mutate(ctx, ar); err != nil {
		return err
	}
	if err := s.Admission.Validate(ctx, ar); err != nil {
		return err
	}
	opts := metav1.DeleteOptions{}
	if e.DeleteOptions != nil {
		opts = *e.DeleteOptions.DeepCopy()
	}
	w.dryRun = w.dryRun || dryRun(opts.DryRun)
	item := s.Store.Snapshot().Get(store.Key{Resource: "pods", Namespace: w.namespace, Name: w.name})
	if item == nil {
		return notFound(w.kind, w.name)
	}
	pod := item.Object.(*corev1.Pod)
	if err := preconditions(w.kind, pod, opts.Preconditions); err != nil {
		return err
	}
	if !beyondBudget(pod) {
		if err := s.takeFromBudget(ctx, w, pod); err != nil {
			return err
		}
		if err := s.markDisrupted(ctx, w, opts.Preconditions); err != nil {
			return err
		}
	}
	w.sub = nil
	_, _, err := s.delete(ctx, w, &opts)
	return err
}

// beyondBudget says whether a pod does not count for any budget: it has not started, has ended or is ending.
func beyondBudget(pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodPending, corev1.PodSucceeded, corev1.PodFailed:
		return true
	}
	return pod.DeletionTimestamp != nil
}

// markDisrupted says in the pod's status why it ends. Preconditions hold for the pod before that, and are brought up to its
// new version.
func (s *Server) markDisrupted(ctx context.Context, w *write, p *metav1.Preconditions) error {
	key := store.Key{Resource: "pods", Namespace: w.namespace, Name: w.name}
	for !w.dryRun {
		item := s.Store.Snapshot().Get(key)
		if item == nil {
			return notFound(w.kind, w.name)
		}
		if err := preconditions(w.kind, item.Object, p); err != nil {
			return err
		}
		pod := item.Object.(*corev1.Pod).DeepCopy()
		setCondition(pod, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
		}, s.now())
		res := s.Store.Commit(ctx, store.Write{Key: key, Object: pod, Expect: item.Revision})[0]
		switch {
		case res.Err == nil && p != nil && p.ResourceVersion != nil:
			p.ResourceVersion = new(res.Item.Object.GetResourceVersion())
			return nil
		case errors.Is(res.Err, store.ErrNotFound):
			return notFound(w.kind, w.name)
		case !errors.Is(res.Err, store.ErrConflict) || ctx.Err() != nil:
			return res.Err
		}
	}
	return nil
}

// takeFromBudget counts the disruption of a pod in its budget, or refuses it.
func (s *Server) takeFromBudget(ctx context.Context, w *write, pod *corev1.Pod) error {
	for {
		item, err := s.budgetOf(pod)
		if item == nil || err != nil {
			return err
		}
		out, err := disrupt(item.Object.(*policyv1.PodDisruptionBudget), pod, s.now())
		if out == nil || err != nil || w.dryRun {
			return err
		}
		err = s.Store.Commit(ctx, store.Write{Key: item.Key, Object: out, Expect: item.Revision})[0].Err
		if again := errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound); !again || ctx.Err() != nil {
			return err
		}
	}
}

// budgetOf finds the one budget that covers a pod, or nil.
func (s *Server) budgetOf(pod *corev1.Pod) (*store.Item, error) {
	var found *store.Item
	for item := range s.Store.Snapshot().List(budgetResource, pod.Namespace) {
		b := item.Object.(*policyv1.PodDisruptionBudget)
		sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil || !sel.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if found != nil {
			return nil, apierrors.NewInternalError(text("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."))
		}
		found = item
	}
	return found, nil
}

// disrupt returns the budget with one disruption less, nil when the budget has nothing to say about the pod, or why the
// pod must stay.
func disrupt(b *policyv1.PodDisruptionBudget, pod *corev1.Pod, now time.Time) (*policyv1.PodDisruptionBudget, error) {
	if !podReady(pod) && unhealthyMayGo(b) {
		return nil, nil
	}
	refuse := func(text string, retry int) error {
		err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retry)
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: text}}
		return err
	}
	st := &b.Status
	switch {
	case st.ObservedGeneration < b.Generation:
		return nil, refuse(fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name), budgetRetry)
	case st.DisruptionsAllowed < 0:
		return nil, apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New("pdb disruptions allowed is negative"))
	case len(st.DisruptedPods) > disruptedMost:
		return nil, apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case st.DisruptionsAllowed == 0 && st.CurrentHealthy <= st.DesiredHealthy:
		return nil, refuse(fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, st.DesiredHealthy, st.CurrentHealthy), 0)
	case st.DisruptionsAllowed == 0:
		return nil, refuse(fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", b.Name), 0)
	}
	out := b.DeepCopy()
	out.Status.DisruptionsAllowed--
	if out.Status.DisruptedPods == nil {
		out.Status.DisruptedPods = map[string]metav1.Time{}
	}
	out.Status.DisruptedPods[pod.Name] = metav1.NewTime(now)
	return out, nil
}

// unhealthyMayGo says whether a budget lets pods go that are not ready, without counting them.
func unhealthyMayGo(b *policyv1.PodDisruptionBudget) bool {
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true
	}
	return b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
}

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
