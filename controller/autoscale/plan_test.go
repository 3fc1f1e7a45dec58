package autoscale

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"k8s.io/utils/ptr"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// pod is one in words: a state, then what its containers use of a processor in thousandths ("-" for not known), as "ready 100" or
// "starting 50 50". Every container requests 100 thousandths.
func pods(words ...string) (out []*corev1.Pod, usage []*metricsv1beta1.PodMetrics) {
	for i, word := range words {
		fields := strings.Fields(word)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("p", i)}}
		started, ready, since := noon.Add(-time.Hour), corev1.ConditionTrue, noon.Add(-time.Hour)
		pod.Status.Phase = corev1.PodRunning
		switch fields[0] {
		case "pending":
			pod.Status.Phase = corev1.PodPending
		case "failed":
			pod.Status.Phase = corev1.PodFailed
		case "leaving":
			pod.DeletionTimestamp = &metav1.Time{Time: noon}
		case "never": // was ready
			ready, since = corev1.ConditionFalse, started.Add(time.Second)
		case "nolonger": // is ready
			ready, since = corev1.ConditionFalse, noon.Add(-time.Minute)
		case "starting":
			started, ready, since = noon.Add(-time.Minute), corev1.ConditionFalse, noon.Add(-time.Minute)
		case "fresh": // became ready within the window
			started, since = noon.Add(-time.Minute), noon.Add(-10*time.Second)
		}
		pod.Status.StartTime = &metav1.Time{Time: started}
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready, LastTransitionTime: metav1.NewTime(since)}}
		use := &metricsv1beta1.PodMetrics{ObjectMeta: pod.ObjectMeta, Timestamp: metav1.NewTime(noon), Window: metav1.Duration{Duration: 15 * time.Second}}
		for n, used := range fields[1:] {
			name := string(rune('a' + n))
			request := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("100")}
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: request}})
			if used != "-" {
				use.Containers = append(use.Containers, metricsv1beta1.ContainerMetrics{Name: name, Usage: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse(used + "m"), corev1.ResourceMemory: resource.MustParse(used),
				}})
			}
		}
		out = append(out, pod)
		if len(use.Containers) > 0 {
			usage = append(usage, use)
		}
	}
	return out, usage
}

func autoscaler(least, most int32, metrics ...autoscalingv2.MetricSpec) *autoscalingv2.HorizontalPodAutoscaler {
	h := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "h", Generation: 7}}
	h.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{
		MinReplicas: &least, MaxReplicas: most, Metrics: metrics,
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"},
	}
	return h
}

func percent(name corev1.ResourceName, n int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: name, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &n},
	}}
}

func average(name corev1.ResourceName, value string) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: name, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse(value))},
	}}
}

func ofContainer(container string, n int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{
		Name: corev1.ResourceCPU, Container: container, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &n},
	}}
}

func foreign(t autoscalingv2.MetricSourceType) autoscalingv2.MetricSpec {
	m := autoscalingv2.MetricSpec{Type: t}
	id := autoscalingv2.MetricIdentifier{Name: "hits"}
	switch t {
	case autoscalingv2.PodsMetricSourceType:
		m.Pods = &autoscalingv2.PodsMetricSource{Metric: id}
	case autoscalingv2.ObjectMetricSourceType:
		m.Object = &autoscalingv2.ObjectMetricSource{Metric: id, DescribedObject: autoscalingv2.CrossVersionObjectReference{Kind: "Ingress", Name: "main"}}
	case autoscalingv2.ExternalMetricSourceType:
		m.External = &autoscalingv2.ExternalMetricSource{Metric: id}
	}
	return m
}

func look(h *autoscalingv2.HorizontalPodAutoscaler, replicas int32, words ...string) *observed {
	o := &observed{hpa: h, now: noon, scale: &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: replicas}}}
	o.scale.Status.Selector = "app=web"
	o.pods, o.usage = pods(words...)
	return o
}

// told is a decision in words: the replicas, the reason of a change, the reasons of the conditions that are not true, or whose
// truth is a limit, and the warnings.
func told(d *decision) string {
	out := fmt.Sprint(d.replicas)
	if d.rescale {
		out += " for " + d.reason
	}
	for _, c := range d.status.Conditions {
		if want := corev1.ConditionTrue; (c.Type == autoscalingv2.ScalingLimited) == (c.Status == want) {
			out += "; " + c.Reason
		}
	}
	for _, e := range d.events {
		out += "; " + e.reason + ": " + e.message
	}
	return out
}

func TestPlanFollowsMetrics(t *testing.T) {
	const cpu = corev1.ResourceCPU
	const above = " for cpu resource utilization (percentage of request) above target"
	for _, tc := range []struct {
		name string
		o    *observed
		want string
	}{
		{"on target", look(autoscaler(1, 9, percent(cpu, 50)), 2, "ready 50", "ready 50"), "2"},
		{"within the tolerance", look(autoscaler(1, 9, percent(cpu, 50)), 2, "ready 54", "ready 54"), "2"},
		{"above", look(autoscaler(1, 9, percent(cpu, 50)), 2, "ready 90", "ready 80"), "4" + above},
		{"containers add up", look(autoscaler(1, 9, percent(cpu, 50)), 1, "ready 150 50"), "2" + above},
		{"one container's", look(autoscaler(1, 9, ofContainer("b", 50)), 2, "ready 0 80", "ready 0 80"), "4" + above},
		{"the largest of two", look(autoscaler(1, 9, percent(cpu, 80), percent(corev1.ResourceMemory, 20)), 1, "ready 80"), "4 for memory resource utilization (percentage of request) above target"},
		{"an average", look(autoscaler(1, 9, average(cpu, "50m")), 2, "ready 90", "ready 110"), "4 for cpu resource above target"},
		{"of memory, in the pod's start", look(autoscaler(1, 9, average(corev1.ResourceMemory, "50")), 1, "starting 100"), "2 for memory resource above target"},
		{"no faster than twice", look(autoscaler(1, 9, percent(cpu, 10)), 3, "ready 90", "ready 90", "ready 90"), "6" + above + "; ScaleUpLimit"},
		{"no more than the maximum", look(autoscaler(1, 3, percent(cpu, 10)), 2, "ready 90", "ready 90"), "3" + above + "; TooManyReplicas"},
		{"shrinking waits", look(autoscaler(1, 9, percent(cpu, 50)), 2, "ready 10", "ready 10"), "2"},
		{"a pod that starts counts as idle", look(autoscaler(1, 9, percent(cpu, 50)), 2, "ready 190", "starting 500"), "4" + above},
		{"it may turn growth around", look(autoscaler(1, 9, percent(cpu, 50)), 4, "ready 80", "fresh 500", "pending 0", "never 900"), "4"},
		{"a pod that was ready counts", look(autoscaler(1, 9, percent(cpu, 50)), 2, "ready 100", "nolonger 100"), "4" + above},
		{"a missing pod counts as idle when growing", look(autoscaler(1, 9, percent(cpu, 50)), 3, "ready 200", "ready 200", "ready -"), "6" + above + "; ScaleUpLimit"},
		{"failed and leaving pods do not count", look(autoscaler(1, 9, percent(cpu, 50)), 1, "ready 100", "failed 900", "leaving 900"), "2" + above},
		{"pods are missing, the target is not reached", look(autoscaler(1, 9, percent(cpu, 50)), 8, "ready 90"), "8"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := told(plan(tc.o)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestPlanSaysWhyNot(t *testing.T) {
	const cpu = corev1.ResourceCPU
	bare := look(autoscaler(1, 9, percent(cpu, 50)), 1, "ready 50")
	bare.pods[0].Spec.Containers[0].Resources.Requests = nil
	down := look(autoscaler(1, 9, percent(cpu, 50)), 1, "ready 50")
	down.usage, down.usageFault = nil, errors.New("it is asleep")
	rivals := look(autoscaler(1, 9, percent(cpu, 50)), 1, "ready 50")
	rivals.rivals = []string{"ns/h", "ns/i"}
	unselected := look(autoscaler(1, 9, percent(cpu, 50)), 1)
	unselected.scale.Status.Selector = ""
	_, unselected.fault = selectorOf(unselected.scale)
	const failed = "FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: "
	const noCustom = "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"
	for _, tc := range []struct {
		name string
		o    *observed
		want string
	}{
		{"switched off", look(autoscaler(1, 9, percent(cpu, 50)), 0), "0; ScalingDisabled"},
		{"above the maximum", look(autoscaler(1, 3, percent(cpu, 50)), 5), "3 for Current number of replicas above Spec.MaxReplicas"},
		{"below the minimum", look(autoscaler(2, 3, percent(cpu, 50)), 1), "2 for Current number of replicas below Spec.MinReplicas"},
		{"no request", bare, "1; FailedGetResourceMetric; FailedGetResourceMetric: failed to get cpu utilization: missing request for cpu in container a of Pod p0; " +
			failed + "failed to get cpu resource metric value: failed to get cpu utilization: missing request for cpu in container a of Pod p0"},
		{"no pods ready", look(autoscaler(1, 9, average(cpu, "1")), 1, "starting 50"), "1; FailedGetResourceMetric; FailedGetResourceMetric: failed to get cpu usage: did not receive metrics for targeted pods (pods might be unready); " +
			failed + "failed to get cpu resource metric value: failed to get cpu usage: did not receive metrics for targeted pods (pods might be unready)"},
		{"no metrics", look(autoscaler(1, 9, percent(cpu, 50)), 1, "ready -"), "1; FailedGetResourceMetric; FailedGetResourceMetric: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API; " +
			failed + "failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API"},
		{"metrics refused", down, "1; FailedGetResourceMetric; FailedGetResourceMetric: failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: it is asleep; " +
			failed + "failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: it is asleep"},
		{"a container's", look(autoscaler(1, 9, ofContainer("z", 50)), 1, "ready 50"), "1; FailedGetContainerResourceMetric; FailedGetContainerResourceMetric: failed to get cpu utilization: did not receive metrics for targeted pods (pods might be unready); " +
			failed + "failed to get cpu container metric value: failed to get cpu utilization: did not receive metrics for targeted pods (pods might be unready)"},
		{"pods' own metrics", look(autoscaler(1, 9, foreign(autoscalingv2.PodsMetricSourceType)), 1, "ready 50"), "1; FailedGetPodsMetric; FailedGetPodsMetric: unable to get metric hits: " + noCustom + "; " +
			failed + "failed to get pods metric value: unable to get metric hits: " + noCustom},
		{"an object's", look(autoscaler(1, 9, foreign(autoscalingv2.ObjectMetricSourceType)), 1, "ready 50"), "1; FailedGetObjectMetric; FailedGetObjectMetric: unable to get metric hits: Ingress on ns main/" + noCustom + "; " +
			failed + "failed to get object metric value: unable to get metric hits: Ingress on ns main/" + noCustom},
		{"one of two may grow", look(autoscaler(1, 9, foreign(autoscalingv2.PodsMetricSourceType), percent(cpu, 50)), 1, "ready 100"),
			"2 for cpu resource utilization (percentage of request) above target; FailedGetPodsMetric: unable to get metric hits: " + noCustom},
		{"but not shrink", look(autoscaler(1, 9, foreign(autoscalingv2.PodsMetricSourceType), percent(cpu, 50)), 2, "ready 0", "ready 0"),
			"2; FailedGetPodsMetric; FailedGetPodsMetric: unable to get metric hits: " + noCustom + "; FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 2), first error is: failed to get pods metric value: unable to get metric hits: " + noCustom},
		{"rivals", rivals, "1; AmbiguousSelector; AmbiguousSelector: pods by selector app=web are controlled by multiple HPAs: [ns/h ns/i]; " +
			"FailedComputeMetricsReplicas: pods by selector app=web are controlled by multiple HPAs: [ns/h ns/i]"},
		{"no selector", unselected, "1; InvalidSelector; SelectorRequired: selector is required; FailedComputeMetricsReplicas: selector is required"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := told(plan(tc.o)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// behaved runs looks 15 s apart, each with what a pod uses in percent of its request, and returns the replicas after each.
func behaved(b *autoscalingv2.HorizontalPodAutoscalerBehavior, start int32, loads ...int) string {
	h := autoscaler(1, 100, percent(corev1.ResourceCPU, 100))
	h.Spec.Behavior = b
	var past history
	var out []string
	for i, load := range loads {
		var words []string
		for range start {
			words = append(words, fmt.Sprint("ready ", load))
		}
		o := look(h, start, words...)
		o.history, o.now = past, noon.Add(time.Duration(i)*period)
		d := plan(o)
		if d.rescale {
			d.scaled(o, nil)
		}
		past, start, h.Status = d.history, d.replicas, d.status
		out = append(out, fmt.Sprint(start))
	}
	return strings.Join(out, " ")
}

func TestPlanBehaves(t *testing.T) {
	rules := func(window int32, by autoscalingv2.ScalingPolicySelect, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
		return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, SelectPolicy: &by, Policies: policies}
	}
	count := func(n, seconds int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: n, PeriodSeconds: seconds}
	}
	share := func(n, seconds int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: n, PeriodSeconds: seconds}
	}
	const largest, smallest, never = autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect
	tolerant := rules(0, largest, share(100, 15))
	tolerant.Tolerance = ptr.To(resource.MustParse("0.5"))
	type behavior = autoscalingv2.HorizontalPodAutoscalerBehavior
	for _, tc := range []struct {
		name  string
		b     *behavior
		start int32
		loads []int
		want  string
	}{
		{"none: twice as many at a look, up to what was recommended", nil, 3, []int{300, 300, 100}, "6 12 18"},
		{"none: down after the window", nil, 4, append(slicesOf(50, 19), 50, 50), "4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 2"},
		{"up by two a minute", &behavior{ScaleUp: rules(0, largest, count(2, 60))}, 2, []int{500, 500, 500, 500, 500, 100}, "4 4 4 4 6 6"},
		{"the smaller of two", &behavior{ScaleUp: rules(0, smallest, count(2, 15), share(100, 15))}, 4, []int{500, 500}, "6 8"},
		{"the larger of two", &behavior{ScaleUp: rules(0, largest, count(2, 15), share(100, 15))}, 4, []int{500, 500}, "8 16"},
		{"never up", &behavior{ScaleUp: rules(0, never, share(100, 15))}, 4, []int{500}, "4"},
		{"up once it lasts", &behavior{ScaleUp: rules(30, largest, share(100, 15))}, 2, []int{150, 150, 150, 100}, "2 2 3 3"},
		{"down by a tenth", &behavior{ScaleDown: rules(0, largest, share(10, 60))}, 20, []int{10, 10, 10, 10, 10}, "18 18 18 18 16"},
		{"down by the lesser", &behavior{ScaleDown: rules(0, smallest, share(50, 15), count(1, 15))}, 10, []int{10, 10}, "9 8"},
		{"a spike holds for its window", &behavior{ScaleDown: rules(30, largest, share(100, 15))}, 4, []int{50, 100, 50, 50, 50}, "4 4 4 2 2"},
		{"its own tolerance", &behavior{ScaleUp: tolerant}, 2, []int{140, 160}, "2 4"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := behaved(tc.b, tc.start, tc.loads...); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func slicesOf(v, n int) (out []int) {
	for range n {
		out = append(out, v)
	}
	return out
}
