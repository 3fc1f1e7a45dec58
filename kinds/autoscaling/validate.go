package autoscaling

import (
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// Longest windows of scaling rules, in seconds.
const (
	maxStabilization = 3600
	maxPeriod        = 1800
)

func validate(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	return validateSpec(h, &autoscalingv2.HorizontalPodAutoscaler{})
}

func validateUpdate(h, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	return validateSpec(h, old)
}

// validateSpec checks an autoscaler; a target that old had already may stay. What stands below a bound alone is reported
// last, as upstream does.
func validateSpec(h, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	var r check.Report
	at, spec := field.NewPath("spec"), &h.Spec
	if spec.MinReplicas != nil && spec.MaxReplicas < *spec.MinReplicas {
		r.Invalid(at.Child("maxReplicas"), spec.MaxReplicas, "must be greater than or equal to `minReplicas`")
	}
	target(&r, at.Child("scaleTargetRef"), &spec.ScaleTargetRef, spec.ScaleTargetRef.APIVersion == old.Spec.ScaleTargetRef.APIVersion && old.Name != "")
	metrics(&r, at.Child("metrics"), spec)
	if b := spec.Behavior; b != nil {
		scalingRules(&r, at.Child("behavior", "scaleUp"), b.ScaleUp)
		scalingRules(&r, at.Child("behavior", "scaleDown"), b.ScaleDown)
	}
	if n := spec.MinReplicas; n != nil && *n < 0 {
		r.Invalid(at.Child("minReplicas"), *n, "must be greater than or equal to 0")
	}
	switch {
	case spec.MaxReplicas == 0:
		r.Required(at.Child("maxReplicas"), "")
	case spec.MaxReplicas < 1:
		r.Invalid(at.Child("maxReplicas"), spec.MaxReplicas, "must be greater than or equal to 1")
	}
	return r.Errs
}

// target checks the reference to what is scaled. Only replication controllers are in no API group.
func target(r *check.Report, at *field.Path, ref *autoscalingv2.CrossVersionObjectReference, kept bool) {
	r.Name(at.Child("kind"), ref.Kind, path.IsValidPathSegmentName)
	r.Name(at.Child("name"), ref.Name, path.IsValidPathSegmentName)
	if kept {
		return
	}
	switch gv, err := schema.ParseGroupVersion(ref.APIVersion); {
	case err != nil:
		r.Invalid(at.Child("apiVersion"), ref.APIVersion, err.Error())
	case gv.Group == "" && !(gv.Version == "v1" && ref.Kind == "ReplicationController"):
		r.Invalid(at.Child("apiVersion"), ref.APIVersion, "apiVersion must specify API group")
	}
}

func scalingRules(r *check.Report, at *field.Path, rules *autoscalingv2.HPAScalingRules) {
	if rules == nil {
		return
	}
	if w := rules.StabilizationWindowSeconds; w != nil {
		if *w < 0 {
			r.Invalid(at.Child("stabilizationWindowSeconds"), *w, "must be greater than or equal to zero")
		}
		if *w > maxStabilization {
			r.Invalid(at.Child("stabilizationWindowSeconds"), *w, fmt.Sprintf("must be less than or equal to %v", maxStabilization))
		}
	}
	if p := rules.SelectPolicy; p != nil {
		check.OneOf(r, at.Child("selectPolicy"), *p, autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)
	}
	if len(rules.Policies) == 0 {
		r.Required(at.Child("policies"), "must specify at least one Policy")
	}
	for i, p := range rules.Policies {
		at := at.Child("policies").Index(i)
		check.OneOf(r, at.Child("type"), p.Type, autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)
		if p.Value <= 0 {
			r.Invalid(at.Child("value"), p.Value, "must be greater than zero")
		}
		if p.PeriodSeconds <= 0 {
			r.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero")
		}
		if p.PeriodSeconds > maxPeriod {
			r.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %v", maxPeriod))
		}
	}
	if t := rules.Tolerance; t != nil && t.Sign() < 0 {
		r.Invalid(at.Child("tolerance"), t.String(), "must be greater than or equal to 0")
	}
}

func metrics(r *check.Report, at *field.Path, spec *autoscalingv2.HorizontalPodAutoscalerSpec) {
	outside := false
	for i := range spec.Metrics {
		m := &spec.Metrics[i]
		metric(r, at.Index(i), m)
		outside = outside || m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	}
	if ptr.Deref(spec.MinReplicas, 1) == 0 && !outside {
		r.Forbidden(at, "must specify at least one Object or External metric to support scaling to zero replicas")
	}
}

// metric wants exactly the source that the type names.
func metric(r *check.Report, at *field.Path, m *autoscalingv2.MetricSpec) {
	if m.Type == "" {
		r.Required(at.Child("type"), "must specify a metric source type")
	}
	sources := []struct {
		typ   autoscalingv2.MetricSourceType
		name  string
		set   bool
		check func(at *field.Path)
	}{
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func(at *field.Path) {
			if m.ContainerResource.Container == "" {
				r.Required(at.Child("container"), "must specify a container")
			}
			resourceSource(r, at, string(m.ContainerResource.Name), &m.ContainerResource.Target)
		}},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func(at *field.Path) { externalSource(r, at, m.External) }},
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func(at *field.Path) { objectSource(r, at, m.Object) }},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func(at *field.Path) { podsSource(r, at, m.Pods) }},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func(at *field.Path) {
			resourceSource(r, at, string(m.Resource.Name), &m.Resource.Target)
		}},
	}
	var known []autoscalingv2.MetricSourceType
	first := true
	for _, s := range sources {
		known = append(known, s.typ)
	}
	if !slices.Contains(known, m.Type) {
		r.Add(field.NotSupported(at.Child("type"), m.Type, known))
	}
	for _, s := range sources {
		if s.set && first {
			s.check(at.Child(s.name))
			first = false
		}
	}
	for _, s := range sources {
		if s.typ == m.Type && !s.set {
			r.Required(at.Child(s.name), "must populate information for the given metric source")
		}
	}
	for _, s := range sources {
		if s.typ != m.Type && s.set {
			r.Forbidden(at.Child(s.name), "must populate the given metric source only")
		}
	}
}

const eitherValue = "must set either a target value for metric or a per-pod target"

func objectSource(r *check.Report, at *field.Path, s *autoscalingv2.ObjectMetricSource) {
	r.Name(at.Child("describedObject", "kind"), s.DescribedObject.Kind, path.IsValidPathSegmentName)
	r.Name(at.Child("describedObject", "name"), s.DescribedObject.Name, path.IsValidPathSegmentName)
	if _, err := schema.ParseGroupVersion(s.DescribedObject.APIVersion); err != nil {
		r.Invalid(at.Child("describedObject", "apiVersion"), s.DescribedObject.APIVersion, err.Error())
	}
	identifier(r, at.Child("metric"), &s.Metric)
	metricTarget(r, at.Child("target"), &s.Target)
	if s.Target.Value == nil && s.Target.AverageValue == nil {
		r.Required(at.Child("target", "averageValue"), eitherValue)
	}
}

func externalSource(r *check.Report, at *field.Path, s *autoscalingv2.ExternalMetricSource) {
	identifier(r, at.Child("metric"), &s.Metric)
	metricTarget(r, at.Child("target"), &s.Target)
	if s.Target.Value == nil && s.Target.AverageValue == nil {
		r.Required(at.Child("target", "averageValue"), eitherValue)
	}
	if s.Target.Value != nil && s.Target.AverageValue != nil {
		r.Forbidden(at.Child("target", "value"), "may not set both a target value for metric and a per-pod target")
	}
}

func podsSource(r *check.Report, at *field.Path, s *autoscalingv2.PodsMetricSource) {
	identifier(r, at.Child("metric"), &s.Metric)
	metricTarget(r, at.Child("target"), &s.Target)
	if s.Target.AverageValue == nil || s.Target.AverageValue.Sign() != 1 {
		r.Required(at.Child("target", "averageValue"), "must specify a positive target averageValue")
	}
}

func resourceSource(r *check.Report, at *field.Path, name string, t *autoscalingv2.MetricTarget) {
	if name == "" {
		r.Required(at.Child("name"), "must specify a resource name")
	}
	metricTarget(r, at.Child("target"), t)
	if t.AverageUtilization == nil && t.AverageValue == nil {
		r.Required(at.Child("target", "averageUtilization"), "must set either a target raw value or a target utilization")
	}
	if t.AverageUtilization != nil && t.AverageValue != nil {
		r.Forbidden(at.Child("target", "averageValue"), "may not set both a target raw value and a target utilization")
	}
}

func identifier(r *check.Report, at *field.Path, m *autoscalingv2.MetricIdentifier) {
	if m.Name == "" {
		r.Required(at.Child("name"), "must specify a metric name")
		return
	}
	r.Invalid(at.Child("name"), m.Name, path.IsValidPathSegmentName(m.Name)...)
}

func metricTarget(r *check.Report, at *field.Path, t *autoscalingv2.MetricTarget) {
	switch t.Type {
	case "":
		r.Required(at.Child("type"), "must specify a metric target type")
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		r.Invalid(at.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue")
	}
	positive := func(name string, q *resource.Quantity) {
		if q != nil && q.Sign() != 1 {
			r.Invalid(at.Child(name), q, "must be positive")
		}
	}
	positive("value", t.Value)
	positive("averageValue", t.AverageValue)
	if u := t.AverageUtilization; u != nil && *u < 1 {
		r.Invalid(at.Child("averageUtilization"), *u, "must be greater than 0")
	}
}

func validateStatus(h, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	var r check.Report
	check.NotNegative(&r, field.NewPath("status", "currentReplicas"), h.Status.CurrentReplicas)
	check.NotNegative(&r, field.NewPath("status", "desiredReplicas"), h.Status.DesiredReplicas)
	return r.Errs
}
