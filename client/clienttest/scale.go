package clienttest

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
)

// testScale changes a replica count by a Scale, as autoscalers do with kinds that they know nothing of.
func testScale(t *testing.T, h Harness) {
	ctx, c := t.Context(), h.Admin
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "scaled"}}
	set.Spec.Replicas = ptr.To[int32](0)
	set.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "scaled"}}
	set.Spec.Template.Labels = set.Spec.Selector.MatchLabels
	set.Spec.Template.Spec = pod("").Spec
	made := must[*appsv1.ReplicaSet](t)(client.Create(ctx, c, set))
	sets := client.KindOf[*appsv1.ReplicaSet](c)
	scale := func(resourceVersion string, replicas int32) (*autoscalingv1.Scale, error) {
		sc := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "scaled", ResourceVersion: resourceVersion}}
		sc.Spec.Replicas = replicas
		out, err := c.Transport.Update(ctx, sets, "scale", sc, metav1.UpdateOptions{})
		if err != nil {
			return nil, err
		}
		return out.(*autoscalingv1.Scale), nil
	}
	sc := must[*autoscalingv1.Scale](t)(scale("", 2))
	if sc.Spec.Replicas != 2 || sc.Status.Selector != "app=scaled" || sc.UID != made.UID {
		t.Errorf("the answer: %+v", sc)
	}
	now, err := c.Transport.Get(ctx, sets, "default", "scaled")
	if err != nil || *now.(*appsv1.ReplicaSet).Spec.Replicas != 2 {
		t.Errorf("after it: %+v, %v", now, err)
	}
	if _, err := scale(made.ResourceVersion, 3); !apierrors.IsConflict(err) {
		t.Errorf("of a state that is old: %v", err)
	}
	if _, err := scale("", -1); !apierrors.IsInvalid(err) {
		t.Errorf("below zero: %v", err)
	}
}
