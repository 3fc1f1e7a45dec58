package autoscale

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	. "github.com/kebernetes/kebernetes/controller/controllertest"
	"github.com/kebernetes/kebernetes/kinds"
)

// One pod uses as much as a test says; the rest is as the API keeps it.
func TestAutoscalerLooksEveryFifteenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deployments := Row[appsv1.Deployment, appsv1.DeploymentList]("apps", "v1", "deployments", true)
		deployments.Scale = &kinds.Scale{
			Get: func(o kinds.Object) *autoscalingv1.Scale {
				return &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: *o.(*appsv1.Deployment).Spec.Replicas}, Status: autoscalingv1.ScaleStatus{Selector: "app=web"}}
			},
			SetReplicas: func(o kinds.Object, n int32) { o.(*appsv1.Deployment).Spec.Replicas = &n },
		}
		api := New(deployments,
			Row[corev1.Pod, corev1.PodList]("", "v1", "pods", true),
			Row[corev1.Event, corev1.EventList]("", "v1", "events", true),
			Row[autoscalingv2.HorizontalPodAutoscaler, autoscalingv2.HorizontalPodAutoscalerList]("autoscaling", "v2", "horizontalpodautoscalers", true))
		var asked atomic.Int32
		use := "ready 100"
		Start(t, Controller(api.Env(t), func(_ context.Context, namespace string, sel labels.Selector) ([]*metricsv1beta1.PodMetrics, error) {
			asked.Add(1)
			if namespace != "ns" || sel.String() != "app=web" {
				t.Errorf("asked for %s in %s", sel, namespace)
			}
			_, usage := pods(use)
			usage[0].Timestamp = metav1.Now()
			return usage, nil
		}))
		after := func(d time.Duration) (replicas int32, conditions []string) {
			time.Sleep(d)
			synctest.Wait()
			for _, c := range All[*autoscalingv2.HorizontalPodAutoscaler](api)[0].Status.Conditions {
				conditions = append(conditions, string(c.Type)+" "+string(c.Status)+" "+c.Reason)
			}
			if all := All[*appsv1.Deployment](api); len(all) > 0 {
				replicas = *all[0].Spec.Replicas
			}
			return replicas, conditions
		}
		want := func(when string, d time.Duration, replicas int32, conditions ...string) {
			t.Helper()
			if n, got := after(d); n != replicas || !slices.Equal(got, conditions) {
				t.Errorf("%s: %d replicas, %q", when, n, got)
			}
		}
		h := autoscaler(1, 3, percent(corev1.ResourceCPU, 50))
		Put(api, h)
		want("no target", time.Second, 0, "AbleToScale False FailedGetScale")
		Put(api, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d"}, Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](1)}})
		pod, _ := pods(use)
		pod[0].Status.StartTime.Time = time.Now().Add(-time.Hour)
		pod[0].Status.Conditions[0].LastTransitionTime.Time = time.Now().Add(-time.Hour)
		pod[0].Labels = map[string]string{"app": "web"}
		Put(api, pod[0])
		want("above", period, 2, "AbleToScale True SucceededRescale", "ScalingActive True ValidMetricFound", "ScalingLimited False DesiredWithinRange")

		use = "ready 50"
		want("on target", period, 2, "AbleToScale True ReadyForNewScale", "ScalingActive True ValidMetricFound", "ScalingLimited False DesiredWithinRange")
		if s := All[*autoscalingv2.HorizontalPodAutoscaler](api)[0].Status; *s.ObservedGeneration != 7 || s.CurrentReplicas != 2 || s.DesiredReplicas != 2 ||
			*s.CurrentMetrics[0].Resource.Current.AverageUtilization != 50 || s.LastScaleTime.IsZero() {
			t.Errorf("status: %+v", s)
		}

		use = "ready 160"
		api.Refuse = func(verb string, k *kinds.Kind, _ client.Object) error {
			if k == deployments {
				return errors.New("it is frozen")
			}
			return nil
		}
		want("refused", period, 2, "AbleToScale False FailedUpdateScale", "ScalingActive True ValidMetricFound", "ScalingLimited True TooManyReplicas")
		api.Refuse = nil

		other := autoscaler(1, 3, percent(corev1.ResourceCPU, 50))
		other.Name = "i"
		Put(api, other)
		want("two of them", period, 2, "AbleToScale True SucceededGetScale", "ScalingActive False AmbiguousSelector", "ScalingLimited True TooManyReplicas")
		Drop[*autoscalingv2.HorizontalPodAutoscaler](api, "ns", "i")
		Drop[*autoscalingv2.HorizontalPodAutoscaler](api, "ns", "h")
		synctest.Wait()
		before := asked.Load()
		time.Sleep(time.Hour)
		if asked.Load() != before {
			t.Error("metrics are read without an autoscaler")
		}
		var events []string
		for _, e := range All[*corev1.Event](api) {
			events = append(events, e.Reason+": "+e.Message)
		}
		for _, e := range []string{
			`FailedGetScale: deployments.apps "d" not found`,
			"SuccessfulRescale: New size: 2; reason: cpu resource utilization (percentage of request) above target",
			"FailedRescale: New size: 3; reason: cpu resource utilization (percentage of request) above target; error: it is frozen",
			"AmbiguousSelector: pods by selector app=web are controlled by multiple HPAs: [ns/h ns/i]",
		} {
			if !slices.Contains(events, e) {
				t.Errorf("no event %q in %q", e, events)
			}
		}
	})
}
