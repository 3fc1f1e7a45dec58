package autoscale

import (
	"errors"
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/controller"
)

// Upstream's defaults.
const (
	// tolerance is how far from 1 a ratio may be before the target is scaled: --horizontal-pod-autoscaler-tolerance.
	tolerance = 0.1
	// starting is how long after its start a pod's use of processors counts only while it is ready, and only when all of it was
	// measured since it became so: --horizontal-pod-autoscaler-cpu-initialization-period.
	starting = 5 * time.Minute
	// settling is how long a pod that is not ready counts as one that never was: --horizontal-pod-autoscaler-initial-readiness-delay.
	settling = 30 * time.Second
)

// gathered is what is known of the use of one resource by the target's pods.
type gathered struct {
	readings map[string]reading // of pods that count
	ready    int32
	unready  []string // of which the use does not count
	missing  []string // of which the use is not known
}

// gather sorts the target's pods by what is known of them.
func (o *observed) gather(name corev1.ResourceName, container string) (*gathered, error) {
	if o.usageFault != nil {
		return nil, fmt.Errorf("unable to get metrics for resource %s: unable to fetch metrics from resource metrics API: %w", name, o.usageFault)
	}
	if len(o.usage) == 0 {
		return nil, fmt.Errorf("unable to get metrics for resource %s: no metrics returned from resource metrics API", name)
	}
	if len(o.pods) == 0 {
		return nil, errors.New("no pods returned by selector while calculating replica count")
	}
	all := readingsOf(o.usage, name, container)
	g := &gathered{readings: map[string]reading{}}
	for _, pod := range o.pods {
		r, known := all[pod.Name]
		switch {
		case pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed:
		case pod.Status.Phase == corev1.PodPending:
			g.unready = append(g.unready, pod.Name)
		case !known:
			g.missing = append(g.missing, pod.Name)
		case name == corev1.ResourceCPU && !steady(pod, r, o.now):
			g.unready = append(g.unready, pod.Name)
		default:
			g.ready++
			g.readings[pod.Name] = r
		}
	}
	if len(g.readings) == 0 {
		return nil, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	return g, nil
}

// steady says that a pod's use of processors is not that of its start.
func steady(pod *corev1.Pod, r reading, now time.Time) bool {
	c := controller.PodCondition(pod, corev1.PodReady)
	if c == nil || pod.Status.StartTime == nil {
		return false
	}
	ready := c.Status != corev1.ConditionFalse
	if pod.Status.StartTime.Add(starting).After(now) {
		return ready && !r.at.Before(c.LastTransitionTime.Add(r.window))
	}
	return ready || !pod.Status.StartTime.Add(settling).After(c.LastTransitionTime.Time)
}

// replicas is how many pods would bring the ratio of use to target to 1. full is the use, in thousandths, that a pod is taken to
// have when it is not known and the target would shrink. Pods that are unready, or not known when the target would grow, are
// taken to use nothing: what is not known only ever holds the target back.
func (g *gathered) replicas(o *observed, ratio func(map[string]reading) (float64, error), full func(pod string) int64) (int32, error) {
	current := o.current()
	first, err := ratio(g.readings)
	if err != nil {
		return 0, err
	}
	grow := len(g.unready) > 0 && first > 1
	if !grow && len(g.missing) == 0 {
		if o.tolerates(first) {
			return current, nil
		}
		return ceil(first * float64(g.ready)), nil
	}
	for _, pod := range g.missing {
		switch {
		case first < 1:
			g.readings[pod] = reading{value: full(pod)}
		case first > 1:
			g.readings[pod] = reading{}
		}
	}
	if grow {
		for _, pod := range g.unready {
			g.readings[pod] = reading{}
		}
	}
	second, err := ratio(g.readings)
	if err != nil {
		return 0, err
	}
	if o.tolerates(second) || first < 1 && second > 1 || first > 1 && second < 1 {
		return current, nil
	}
	wanted := ceil(second * float64(len(g.readings)))
	if second < 1 && wanted > current || second > 1 && wanted < current {
		return current, nil // what pods there are is not what the target wants yet
	}
	return wanted, nil
}

// tolerates says that a ratio is close enough to 1, by the autoscaler's own tolerances where it has some.
func (o *observed) tolerates(ratio float64) bool {
	up, down := tolerance, tolerance
	if b := o.hpa.Spec.Behavior; b != nil {
		up, down = toleranceOf(b.ScaleUp, up), toleranceOf(b.ScaleDown, down)
	}
	return ratio >= 1-down && ratio <= 1+up
}

func toleranceOf(rules *autoscalingv2.HPAScalingRules, otherwise float64) float64 {
	if rules == nil || rules.Tolerance == nil {
		return otherwise
	}
	return rules.Tolerance.AsApproximateFloat64()
}

// ceil rounds up to a number of replicas.
func ceil(n float64) int32 { return int32(min(math.Ceil(n), math.MaxInt32)) }

// requestsOf is what each pod requests of a resource, in thousandths: all its containers that run beside each other, or one of
// them. A request of the pod as a whole stands for all of its containers.
func requestsOf(pods []*corev1.Pod, name corev1.ResourceName, container string) (map[string]int64, error) {
	out := make(map[string]int64, len(pods))
	for _, pod := range pods {
		if r := pod.Spec.Resources; r != nil && container == "" {
			if request, ok := r.Requests[name]; ok {
				out[pod.Name] = request.MilliValue()
				continue
			}
		}
		sum := int64(0)
		for _, c := range lasting(pod) {
			if container != "" && c.Name != container {
				continue
			}
			request, ok := c.Resources.Requests[name]
			if !ok {
				return nil, fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, pod.Name)
			}
			sum += request.MilliValue()
		}
		out[pod.Name] = sum
	}
	return out, nil
}

// lasting lists the containers of a pod that run as long as it does.
func lasting(pod *corev1.Pod) []*corev1.Container {
	var out []*corev1.Container
	for i := range pod.Spec.Containers {
		out = append(out, &pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		if p := pod.Spec.InitContainers[i].RestartPolicy; p != nil && *p == corev1.ContainerRestartPolicyAlways {
			out = append(out, &pod.Spec.InitContainers[i])
		}
	}
	return out
}
