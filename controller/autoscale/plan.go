package autoscale

import (
	"errors"
	"fmt"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds"
)

// target is what an autoscaler scales.
type target struct {
	kind  *kinds.Kind
	scale *autoscalingv1.Scale
}

// observed is what a plan is made from.
type observed struct {
	hpa     *autoscalingv2.HorizontalPodAutoscaler
	scale   *autoscalingv1.Scale
	history history
	now     time.Time

	// What follows is filled in when wantsMetrics.
	selector   labels.Selector
	fault      *selectorFault // why there is no selector
	pods       []*corev1.Pod
	rivals     []string // the autoscalers of the same pods, when there are several
	usage      []*metricsv1beta1.PodMetrics
	usageFault error
}

// selectorFault says why the target's pods are not known: by an event with err, and a condition.
type selectorFault struct{ event, reason, message, err string }

// event is to be recorded about the autoscaler.
type event struct{ typ, reason, message string }

// decision is what a plan comes to. When rescale is set, scaled must be called with what became of it.
type decision struct {
	rescale  bool
	replicas int32
	reason   string // of the change
	status   autoscalingv2.HorizontalPodAutoscalerStatus
	history  history
	events   []event

	before autoscalingv2.HorizontalPodAutoscalerStatus // the numbers to show when scaling failed
}

func (o *observed) current() int32 { return o.scale.Spec.Replicas }
func (o *observed) least() int32   { return ptr.Deref(o.hpa.Spec.MinReplicas, 1) }

// disabled says that somebody has scaled the target to zero, which switches the autoscaler off.
func (o *observed) disabled() bool { return o.current() == 0 && o.least() != 0 }

// wantsMetrics says whether the number of replicas follows from metrics, not from the bounds alone.
func (o *observed) wantsMetrics() bool {
	return !o.disabled() && o.current() <= o.hpa.Spec.MaxReplicas && o.current() >= o.least()
}

// plan decides how many replicas the target should have, by the rules of
// https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/ with upstream's reasons and messages.
func plan(o *observed) *decision {
	d := &decision{status: *o.hpa.Status.DeepCopy(), history: o.history.since(o.current(), o.now), replicas: o.current()}
	d.status.ObservedGeneration = &o.hpa.Generation
	d.status.CurrentReplicas = o.current()
	d.condition(o, autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	d.before = *d.status.DeepCopy()
	switch {
	case o.disabled():
		d.replicas = 0
		d.condition(o, autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
	case o.current() > o.hpa.Spec.MaxReplicas:
		d.replicas, d.reason = o.hpa.Spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas"
	case o.current() < o.least():
		d.replicas, d.reason = o.least(), "Current number of replicas below Spec.MinReplicas"
	default:
		if !d.follow(o) {
			return d
		}
	}
	if !o.wantsMetrics() {
		d.status.CurrentMetrics = nil
	}
	d.rescale = d.replicas != o.current()
	d.status.DesiredReplicas = d.replicas
	return d
}

// follow decides by metrics. It returns false when they do not tell: then all stays as it is.
func (d *decision) follow(o *observed) bool {
	best, statuses, err := d.propose(o)
	if err != nil {
		d.warn("FailedComputeMetricsReplicas", err.Error())
		return false
	}
	d.status.CurrentMetrics = statuses
	wanted := best.replicas
	switch {
	case wanted > o.current():
		d.reason = best.name + " above target"
	case wanted < o.current():
		d.reason = "All metrics below target"
	}
	if o.hpa.Spec.Behavior == nil {
		d.replicas = d.limit(o, wanted)
	} else {
		d.replicas = d.behave(o, wanted)
	}
	return true
}

// propose asks every metric and returns the largest answer. When some do not answer, the others may still scale up.
func (d *decision) propose(o *observed) (best proposal, statuses []autoscalingv2.MetricStatus, err error) {
	if f := o.fault; f != nil {
		d.warn(f.event, f.err)
		d.condition(o, autoscalingv2.ScalingActive, corev1.ConditionFalse, f.reason, f.message)
		return best, nil, errors.New(f.err)
	}
	if len(o.rivals) > 0 {
		text := fmt.Sprintf("pods by selector %v are controlled by multiple HPAs: %v", o.scale.Status.Selector, o.rivals)
		d.warn("AmbiguousSelector", text)
		d.condition(o, autoscalingv2.ScalingActive, corev1.ConditionFalse, "AmbiguousSelector", text)
		return best, nil, errors.New(text)
	}
	statuses = make([]autoscalingv2.MetricStatus, len(o.hpa.Spec.Metrics))
	var first *metricFault
	invalid := 0
	for i := range o.hpa.Spec.Metrics {
		p, fault := o.propose(&o.hpa.Spec.Metrics[i])
		if fault != nil {
			d.warn(fault.reason, fault.text)
			invalid++
			if first == nil {
				first = fault
			}
			continue
		}
		statuses[i] = p.status
		if best.name == "" || p.replicas > best.replicas {
			best = p
		}
	}
	if invalid > 0 && (invalid == len(statuses) || best.replicas < o.current()) {
		d.condition(o, autoscalingv2.ScalingActive, corev1.ConditionFalse, first.reason, "the HPA was unable to compute the replica count: "+first.text)
		return best, nil, fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %s", invalid, len(statuses), first.err)
	}
	d.condition(o, autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound",
		"the HPA was able to successfully calculate a replica count from "+best.name)
	return best, statuses, nil
}

// scaled takes in what became of the change of the target's scale.
func (d *decision) scaled(o *observed, err error) {
	if err != nil {
		d.warn("FailedRescale", fmt.Sprintf("New size: %d; reason: %s; error: %v", d.replicas, d.reason, err))
		conditions := d.status.Conditions
		d.status = d.before
		d.status.Conditions = conditions
		d.condition(o, autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedUpdateScale",
			fmt.Sprintf("the HPA controller was unable to update the target scale: %v", err))
		return
	}
	d.condition(o, autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale",
		fmt.Sprintf("the HPA controller was able to update the target scale to %d", d.replicas))
	d.events = append(d.events, event{corev1.EventTypeNormal, "SuccessfulRescale", fmt.Sprintf("New size: %d; reason: %s", d.replicas, d.reason)})
	now := metav1.NewTime(o.now)
	d.status.LastScaleTime = &now
	if o.hpa.Spec.Behavior != nil { // rates are limited by rules of a behavior only
		d.history = d.history.changed(o.current(), d.replicas, o.now)
	}
}

func (d *decision) warn(reason, message string) {
	d.events = append(d.events, event{corev1.EventTypeWarning, reason, message})
}

func (d *decision) condition(o *observed, t autoscalingv2.HorizontalPodAutoscalerConditionType, s corev1.ConditionStatus, reason, message string) {
	setCondition(&d.status, t, s, reason, message, o.now)
}

// setCondition sets a condition; the time is that of the last change between true and false.
func setCondition(status *autoscalingv2.HorizontalPodAutoscalerStatus, t autoscalingv2.HorizontalPodAutoscalerConditionType, s corev1.ConditionStatus, reason, message string, now time.Time) {
	next := autoscalingv2.HorizontalPodAutoscalerCondition{Type: t, Status: s, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now)}
	for i := range status.Conditions {
		if c := &status.Conditions[i]; c.Type == t {
			if c.Status == s {
				next.LastTransitionTime = c.LastTransitionTime
			}
			*c = next
			return
		}
	}
	status.Conditions = append(status.Conditions, next)
}
