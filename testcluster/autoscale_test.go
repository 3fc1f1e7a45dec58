package testcluster

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/cri/fake"
)

// Pods use twice what they request. A Deployment that should be at half of it grows to its maximum, and shrinks to one pod, after five
// minutes, once it may use eight times as much. From the node's counters to the Deployment all is real but the runtime.
func TestAutoscalerFollowsTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := func(*rt.PodSandboxConfig, *rt.ContainerConfig) fake.Behaviour { return fake.Behaviour{MilliCores: 400} }
		c := Start(t, Options{Nodes: []string{"a"}, Runtime: fake.Options{Behave: busy}})
		ctx := within(t, time.Hour)
		c.AwaitReady(ctx)
		d := web(1)
		d.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m")}
		if _, err := client.Create(ctx, c.Client, d); err != nil {
			t.Fatal(err)
		}
		c.awaitAvailable(ctx, 1)
		hpa := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		hpa.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{
			MaxReplicas:    6,
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](50)},
			}}},
		}
		if _, err := client.Create(ctx, c.Client, hpa); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		c.awaitAvailable(ctx, 4) // no more than four at the first look
		c.awaitAvailable(ctx, 6)
		if took := time.Since(began); took > 10*time.Minute {
			t.Errorf("it took %s to grow", took)
		}
		c.awaitScaled(t, "New size: 6; reason: cpu resource utilization (percentage of request) above target")
		now, err := client.Get[*autoscalingv2.HorizontalPodAutoscaler](ctx, c.Client, "default", "web")
		if err != nil {
			t.Fatal(err)
		}
		now = now.DeepCopy()
		now.Spec.Metrics[0].Resource.Target.AverageUtilization = ptr.To[int32](1600)
		if _, err := client.Update(ctx, c.Client, now); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		c.awaitAvailable(ctx, 1)
		if took := time.Since(began); took < 4*time.Minute || took > 7*time.Minute {
			t.Errorf("it took %s to shrink, not five minutes", took)
		}
		c.awaitScaled(t, "New size: 1; reason: All metrics below target")
	})
}

func (c *Cluster) awaitScaled(t *testing.T, message string) {
	c.Await(within(t, time.Minute), "events", "the event "+message, func(s client.Snapshot) bool {
		for _, e := range client.List[*corev1.Event](c.Client, s, "default", nil) {
			if e.Reason == "SuccessfulRescale" && strings.Contains(e.Message, message) {
				return true
			}
		}
		return false
	})
}
