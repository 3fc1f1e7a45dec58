// Package autoscaling holds the kinds of the autoscaling group. Only kinds/builtin imports it.
package autoscaling

import (
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// defaultUtilization is the CPU utilisation in percent that an autoscaler without metrics aims at.
const defaultUtilization = 80

// shownMetrics is how many metrics kubectl's table shows of an autoscaler.
const shownMetrics = 2

// HorizontalPodAutoscaler is the row of horizontal pod autoscalers, stored as v2.
func HorizontalPodAutoscaler() *kinds.Kind {
	return &kinds.Kind{
		Group:      autoscalingv2.GroupName,
		Kind:       "HorizontalPodAutoscaler",
		Resource:   "horizontalpodautoscalers",
		ShortNames: []string{"hpa"},
		Categories: []string{"all"},
		Namespaced: true,
		Versions: []kinds.Version{
			kinds.V[autoscalingv2.HorizontalPodAutoscaler, autoscalingv2.HorizontalPodAutoscalerList]("v2"),
			{
				Name:        "v1",
				New:         func() kinds.Object { return new(autoscalingv1.HorizontalPodAutoscaler) },
				NewList:     func() runtime.Object { return new(autoscalingv1.HorizontalPodAutoscalerList) },
				ToStorage:   func(o kinds.Object) (kinds.Object, error) { return fromV1(o.(*autoscalingv1.HorizontalPodAutoscaler)) },
				FromStorage: func(o kinds.Object) (kinds.Object, error) { return toV1(o.(*autoscalingv2.HorizontalPodAutoscaler)) },
			},
		},
		Default: kinds.On(defaultAutoscaler),
		PrepareCreate: kinds.On(func(h *autoscalingv2.HorizontalPodAutoscaler) {
			h.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
		}),
		PrepareUpdate:       kinds.OnUpdate(func(h, old *autoscalingv2.HorizontalPodAutoscaler) { h.Status = old.Status }),
		Validate:            kinds.Check(validate),
		ValidateUpdate:      kinds.CheckUpdate(validateUpdate),
		HasGeneration:       true,
		UnconditionalUpdate: true,
		Columns:             columns(),
		Cells:               kinds.Print(cells),
		ResetFields:         map[string][]string{"v1": {"status"}, "v2": {"status"}},
		Subresources: []kinds.Subresource{{
			Name:           "status",
			Verbs:          kinds.ReadWrite(),
			PrepareUpdate:  kinds.OnUpdate(func(h, old *autoscalingv2.HorizontalPodAutoscaler) { h.Spec = old.Spec }),
			ValidateUpdate: kinds.CheckUpdate(validateStatus),
			ResetFields:    map[string][]string{"v1": {"spec"}, "v2": {"spec"}},
		}},
	}
}

func defaultAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	check.DefaultPointer(&h.Spec.MinReplicas, 1)
	if len(h.Spec.Metrics) == 0 {
		h.Spec.Metrics = []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{
				Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](defaultUtilization),
			}},
		}}
	}
	if h.Spec.Behavior == nil {
		return
	}
	policy := func(t autoscalingv2.HPAScalingPolicyType, value int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: t, Value: value, PeriodSeconds: 15}
	}
	up, down := &h.Spec.Behavior.ScaleUp, &h.Spec.Behavior.ScaleDown
	check.DefaultPointer(up, autoscalingv2.HPAScalingRules{})
	check.DefaultPointer(&(*up).StabilizationWindowSeconds, 0)
	check.DefaultPointer(&(*up).SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if (*up).Policies == nil {
		(*up).Policies = []autoscalingv2.HPAScalingPolicy{
			policy(autoscalingv2.PodsScalingPolicy, 4), policy(autoscalingv2.PercentScalingPolicy, 100),
		}
	}
	check.DefaultPointer(down, autoscalingv2.HPAScalingRules{})
	check.DefaultPointer(&(*down).SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if (*down).Policies == nil {
		(*down).Policies = []autoscalingv2.HPAScalingPolicy{policy(autoscalingv2.PercentScalingPolicy, 100)}
	}
}

func columns() []metav1.TableColumnDefinition {
	spec := autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Reference", "string", spec["scaleTargetRef"]),
		kinds.Column("Targets", "string", spec["metrics"]),
		kinds.Column("MinPods", "string", spec["minReplicas"]),
		kinds.Column("MaxPods", "string", spec["maxReplicas"]),
		kinds.Column("Replicas", "string", autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()["currentReplicas"]),
		kinds.AgeColumn(),
	}
}

func cells(h *autoscalingv2.HorizontalPodAutoscaler, now metav1.Time) []any {
	least := "<unset>"
	if h.Spec.MinReplicas != nil {
		least = fmt.Sprintf("%d", *h.Spec.MinReplicas)
	}
	return []any{
		h.Name, h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name, metricsCell(h.Spec.Metrics, h.Status.CurrentMetrics),
		least, int64(h.Spec.MaxReplicas), int64(h.Status.CurrentReplicas), kinds.Age(h.CreationTimestamp, now),
	}
}

func metricsCell(specs []autoscalingv2.MetricSpec, statuses []autoscalingv2.MetricStatus) string {
	if len(specs) == 0 {
		return kinds.None
	}
	var list []string
	for i := range specs {
		var status autoscalingv2.MetricStatus
		if i < len(statuses) {
			status = statuses[i]
		}
		list = append(list, metricCell(&specs[i], &status))
	}
	return kinds.FewCell(list, shownMetrics, ", ")
}

// metricCell prints what a metric is beside what it should be: "cpu: 55%/80%".
func metricCell(m *autoscalingv2.MetricSpec, s *autoscalingv2.MetricStatus) string {
	current := func(set bool, value *resource.Quantity) string {
		if !set || value == nil {
			return kinds.Unknown
		}
		return value.String()
	}
	switch {
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		status := ptr.Deref(s.External, autoscalingv2.ExternalMetricStatus{}).Current
		if m.External.Target.AverageValue != nil {
			return fmt.Sprintf("%s/%s (avg)", current(s.External != nil, status.AverageValue), m.External.Target.AverageValue)
		}
		return fmt.Sprintf("%s/%s", current(s.External != nil, status.Value), m.External.Target.Value)
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		status := ptr.Deref(s.Pods, autoscalingv2.PodsMetricStatus{}).Current
		return fmt.Sprintf("%s/%s", current(s.Pods != nil, status.AverageValue), m.Pods.Target.AverageValue)
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		status := ptr.Deref(s.Object, autoscalingv2.ObjectMetricStatus{}).Current
		if m.Object.Target.AverageValue != nil {
			return fmt.Sprintf("%s/%s (avg)", current(s.Object != nil, status.AverageValue), m.Object.Target.AverageValue)
		}
		return fmt.Sprintf("%s/%s", current(s.Object != nil, status.Value), m.Object.Target.Value)
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		status := ptr.Deref(s.Resource, autoscalingv2.ResourceMetricStatus{}).Current
		return resourceCell(m.Resource.Name, &m.Resource.Target, &status)
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		status := ptr.Deref(s.ContainerResource, autoscalingv2.ContainerResourceMetricStatus{}).Current
		return resourceCell(m.ContainerResource.Name, &m.ContainerResource.Target, &status)
	}
	return "<unknown type>"
}

func resourceCell(name corev1.ResourceName, target *autoscalingv2.MetricTarget, status *autoscalingv2.MetricValueStatus) string {
	current, wanted := kinds.Unknown, "<auto>"
	if target.AverageValue != nil {
		if status.AverageValue != nil {
			current = status.AverageValue.String()
		}
		return fmt.Sprintf("%s: %s/%s", name, current, target.AverageValue)
	}
	if status.AverageUtilization != nil {
		current = fmt.Sprintf("%d%%", *status.AverageUtilization)
	}
	if target.AverageUtilization != nil {
		wanted = fmt.Sprintf("%d%%", *target.AverageUtilization)
	}
	return fmt.Sprintf("%s: %s/%s", name, current, wanted)
}
