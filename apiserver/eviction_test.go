package apiserver

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/admission"
	"github.com/kebernetes/kebernetes/store"
)

// An eviction passes admission whichever way it comes, and what it wants to be true of the pod is judged as it finds the pod,
// not as its own mark leaves it.
func TestEvict(t *testing.T) {
	s := newTestServer(t)
	refuse := false
	s.Admission = admission.Chain{{Name: "Refuse", Validate: func(context.Context, *admission.Request) error {
		if refuse {
			return apierrors.NewForbidden(corev1.Resource("pods"), "p", errors.New("refused"))
		}
		return nil
	}}}
	pods, api := s.Table.Resource(corev1.Resource("pods")), s.Client(&everyoneUser)
	key := store.Key{Resource: "pods", Namespace: "default", Name: "p"}
	run := func() *corev1.Pod {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		if res := s.Store.Commit(t.Context(), store.Write{Key: key, Object: pod, Expect: store.Any}); res[0].Err != nil {
			t.Fatal(res[0].Err)
		}
		return pod
	}
	evict := func(version string) error {
		e := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}}
		e.DeleteOptions = &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}}
		_, err := api.Post(t.Context(), pods, "default", "p", "eviction", e)
		return err
	}
	version := run().ResourceVersion
	if refuse = true; !apierrors.IsForbidden(evict(version)) {
		t.Error("admission was not asked")
	}
	if refuse = false; !apierrors.IsConflict(evict("1")) {
		t.Error("a pod that has changed was evicted")
	}
	if err := evict(version); err != nil {
		t.Errorf("evict the pod as it is: %v", err)
	}
}
