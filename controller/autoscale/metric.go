package autoscale

import (
	"errors"
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// proposal is how many replicas one metric asks for.
type proposal struct {
	replicas int32
	name     string // as events call the metric
	status   autoscalingv2.MetricStatus
}

// metricFault says why a metric does not tell: reason and text for its event and condition, err for the sum of all.
type metricFault struct{ reason, text, err string }

// Neither API is served: both are add-ons that bring their own server.
const (
	noCustomAPI   = "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"
	noExternalAPI = "unable to fetch metrics from external metrics API: the server could not find the requested resource (get %s.external.metrics.k8s.io)"
)

// propose asks one metric.
func (o *observed) propose(m *autoscalingv2.MetricSpec) (proposal, *metricFault) {
	switch {
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		p, value, err := o.resource(m.Resource.Name, "", &m.Resource.Target)
		if err != nil {
			return p, &metricFault{"FailedGetResourceMetric", err.Error(), fmt.Sprintf("failed to get %s resource metric value: %v", m.Resource.Name, err)}
		}
		p.status = autoscalingv2.MetricStatus{Type: m.Type, Resource: &autoscalingv2.ResourceMetricStatus{Name: m.Resource.Name, Current: value}}
		return p, nil
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		c := m.ContainerResource
		p, value, err := o.resource(c.Name, c.Container, &c.Target)
		if err != nil {
			return p, &metricFault{"FailedGetContainerResourceMetric", err.Error(), fmt.Sprintf("failed to get %s container metric value: %v", c.Name, err)}
		}
		p.status = autoscalingv2.MetricStatus{Type: m.Type, ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{
			Name: c.Name, Container: c.Container, Current: value,
		}}
		return p, nil
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		text := fmt.Sprintf("unable to get metric %s: %s", m.Pods.Metric.Name, noCustomAPI)
		return proposal{}, &metricFault{"FailedGetPodsMetric", text, "failed to get pods metric value: " + text}
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		at := m.Object.DescribedObject
		text := fmt.Sprintf("unable to get metric %s: %s on %s %s/%s", m.Object.Metric.Name, at.Kind, o.hpa.Namespace, at.Name, noCustomAPI)
		return proposal{}, &metricFault{"FailedGetObjectMetric", text, "failed to get object metric value: " + text}
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		name := m.External.Metric.Name
		text := fmt.Sprintf("unable to get external metric %s/%s/%v: %s", o.hpa.Namespace, name, m.External.Metric.Selector, fmt.Sprintf(noExternalAPI, name))
		return proposal{}, &metricFault{"FailedGetExternalMetric", text, fmt.Sprintf("failed to get %s external metric value: failed to get %s external metric: %s", name, name, text)}
	}
	text := fmt.Sprintf("unknown metric source type %q", m.Type)
	return proposal{}, &metricFault{"InvalidMetricSourceType", text, text}
}

// resource asks for the use of a resource: by all containers, or by one.
func (o *observed) resource(name corev1.ResourceName, container string, target *autoscalingv2.MetricTarget) (proposal, autoscalingv2.MetricValueStatus, error) {
	var none autoscalingv2.MetricValueStatus
	switch {
	case target.AverageValue != nil:
		g, err := o.gather(name, container)
		if err != nil {
			return proposal{}, none, fmt.Errorf("failed to get %s usage: %w", name, err)
		}
		wanted := target.AverageValue.MilliValue()
		average := func(r map[string]reading) (float64, error) { return float64(mean(r)) / float64(wanted), nil }
		shown := mean(g.readings)
		replicas, err := g.replicas(o, average, func(string) int64 { return wanted })
		if err != nil {
			return proposal{}, none, fmt.Errorf("failed to get %s usage: %w", name, err)
		}
		return proposal{replicas: replicas, name: fmt.Sprintf("%s resource", name)},
			autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(shown, resource.DecimalSI)}, nil
	case target.AverageUtilization != nil:
		p, value, err := o.utilization(name, container, *target.AverageUtilization)
		if err != nil {
			return proposal{}, none, fmt.Errorf("failed to get %s utilization: %w", name, err)
		}
		return p, value, nil
	}
	return proposal{}, none, errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
}

// utilization asks for the use of a resource in percent of what the pods request.
func (o *observed) utilization(name corev1.ResourceName, container string, wanted int32) (proposal, autoscalingv2.MetricValueStatus, error) {
	var none autoscalingv2.MetricValueStatus
	g, err := o.gather(name, container)
	if err != nil {
		return proposal{}, none, err
	}
	requests, err := requestsOf(o.pods, name, container)
	if err != nil {
		return proposal{}, none, err
	}
	percent := func(r map[string]reading) (int32, error) {
		used, requested := int64(0), int64(0)
		for pod, reading := range r {
			if request, ok := requests[pod]; ok {
				used, requested = used+reading.value, requested+request
			}
		}
		if requested == 0 {
			return 0, errors.New("no metrics returned matched known pods")
		}
		whole := used/requested*100 + used%requested*100/requested // bytes in thousandths times 100 might not fit
		return int32(min(whole, math.MaxInt32)), nil
	}
	shown, err := percent(g.readings)
	if err != nil {
		return proposal{}, none, err
	}
	average := mean(g.readings)
	ratio := func(r map[string]reading) (float64, error) {
		p, err := percent(r)
		return float64(p) / float64(wanted), err
	}
	full := func(pod string) int64 { return requests[pod] * int64(max(100, wanted)) / 100 }
	replicas, err := g.replicas(o, ratio, full)
	if err != nil {
		return proposal{}, none, err
	}
	return proposal{replicas: replicas, name: fmt.Sprintf("%s resource utilization (percentage of request)", name)},
		autoscalingv2.MetricValueStatus{AverageUtilization: &shown, AverageValue: resource.NewMilliQuantity(average, resource.DecimalSI)}, nil
}

// reading is what a pod used.
type reading struct {
	value  int64 // thousandths
	at     time.Time
	window time.Duration
}

// readingsOf sums up what pods use of a resource: all their containers, or one. Pods of which not all is told are left out.
func readingsOf(usage []*metricsv1beta1.PodMetrics, name corev1.ResourceName, container string) map[string]reading {
	out := make(map[string]reading, len(usage))
	for _, u := range usage {
		r := reading{at: u.Timestamp.Time, window: u.Window.Duration}
		found := len(u.Containers) > 0 && container == ""
		for i := range u.Containers {
			c := &u.Containers[i]
			if container != "" && c.Name != container {
				continue
			}
			used, ok := c.Usage[name]
			if found = ok; !ok {
				break
			}
			r.value += used.MilliValue()
		}
		if found {
			out[u.Name] = r
		}
	}
	return out
}

// mean is the average of readings.
func mean(r map[string]reading) int64 {
	sum := int64(0)
	for _, one := range r {
		sum += one.value
	}
	return sum / int64(max(len(r), 1))
}
