// Package autoscale scales workloads with what their pods use: HorizontalPodAutoscalers. What to do is decided by plan, which
// is pure; the rest of the package reads and writes. Only daemon imports it.
package autoscale

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// Identity is the service account that the controller acts as, and should read metrics as.
const Identity = "horizontal-pod-autoscaler"

// period is the time between two looks at an autoscaler: upstream's --horizontal-pod-autoscaler-sync-period.
const period = 15 * time.Second

// Usage says what the pods of a namespace use, of those whose labels match. Pods that cannot be told are left out. It is
// called concurrently, and may take some seconds.
type Usage func(ctx context.Context, namespace string, sel labels.Selector) ([]*metricsv1beta1.PodMetrics, error)

// Controller looks at each autoscaler when its spec changes and every 15 s from then on. It alone writes their status, and the
// scale of what they name. Where there are no autoscalers nothing runs.
func Controller(env controller.Env, usage Usage) *controller.Loop {
	c := env.Client(Identity)
	r := &runner{client: c, events: client.NewRecorder(c, Identity, env.Logger), usage: usage, histories: map[controller.Key]history{}}
	return env.NewLoop(c, controller.Controller{
		Name:      "horizontal-pod-autoscaler-controller",
		Watches:   []controller.Watch{{Resource: client.ResourceOf[*autoscalingv2.HorizontalPodAutoscaler](c), Keys: changed}},
		Reconcile: r.reconcile,
	})
}

// changed leaves out events of the status, which are the controller's own.
func changed(ev client.Event, add func(controller.Key)) {
	if ev.Type == client.Put && ev.Prev != nil && ev.Prev.Object.GetGeneration() == ev.Item.Object.GetGeneration() &&
		ev.Prev.Object.GetUID() == ev.Item.Object.GetUID() {
		return
	}
	controller.Itself(ev, add)
}

type runner struct {
	client *client.Client
	events *client.Recorder
	usage  Usage

	mu        sync.Mutex
	histories map[controller.Key]history
}

// reconcile looks at one autoscaler. What goes wrong with the target or its metrics is told by conditions and events, and tried
// again with the next look; only writes that somebody else's came before are tried again at once.
func (r *runner) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	snap := r.client.Snapshot()
	hpa, ok := client.From[*autoscalingv2.HorizontalPodAutoscaler](r.client, snap, key.Namespace, key.Name)
	if !ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.histories, key)
		return 0, nil
	}
	t, err := r.target(snap, hpa)
	if err != nil {
		r.events.Event(hpa, corev1.EventTypeWarning, "FailedGetScale", "%v", err)
		status := *hpa.Status.DeepCopy()
		setCondition(&status, autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale",
			fmt.Sprintf("the HPA controller was unable to get the target's current scale: %v", err), time.Now())
		return r.writeStatus(ctx, hpa, status)
	}
	o := observed{hpa: hpa, scale: t.scale, now: time.Now()}
	r.mu.Lock()
	o.history = r.histories[key]
	r.mu.Unlock()
	if o.wantsMetrics() {
		r.measure(ctx, snap, &o)
		o.now = time.Now()
	}
	d := plan(&o)
	if d.rescale {
		sc := t.scale.DeepCopy()
		sc.Spec.Replicas = d.replicas
		_, err := r.client.Update(ctx, t.kind, "scale", sc, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) || ctx.Err() != nil {
			return 0, err
		}
		d.scaled(&o, err)
	}
	r.mu.Lock()
	r.histories[key] = d.history
	r.mu.Unlock()
	for _, e := range d.events {
		r.events.Event(hpa, e.typ, e.reason, "%s", e.message)
	}
	return r.writeStatus(ctx, hpa, d.status)
}

func (r *runner) writeStatus(ctx context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler, status autoscalingv2.HorizontalPodAutoscalerStatus) (time.Duration, error) {
	if apiequality.Semantic.DeepEqual(status, hpa.Status) {
		return period, nil
	}
	update := hpa.DeepCopy()
	update.Status = status
	// The spec may have changed meanwhile, which brings the next look; the status is of what was looked at all the same.
	update.ResourceVersion = ""
	if _, err := client.UpdateStatus(ctx, r.client, update); err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	return period, nil
}

// measure fills in the pods of the target and what they use.
func (r *runner) measure(ctx context.Context, snap client.Snapshot, o *observed) {
	if o.selector, o.fault = selectorOf(o.scale); o.fault != nil {
		return
	}
	o.pods = client.List[*corev1.Pod](r.client, snap, o.hpa.Namespace, o.selector)
	o.rivals = r.rivals(snap, o)
	if len(o.rivals) > 0 {
		return
	}
	for i := range o.hpa.Spec.Metrics {
		switch o.hpa.Spec.Metrics[i].Type {
		case autoscalingv2.ResourceMetricSourceType, autoscalingv2.ContainerResourceMetricSourceType:
			o.usage, o.usageFault = r.usage(ctx, o.hpa.Namespace, o.selector)
			return
		}
	}
}

// selectorOf reads the selector of a scale. fault says why there is none.
func selectorOf(sc *autoscalingv1.Scale) (sel labels.Selector, fault *selectorFault) {
	if sc.Status.Selector == "" {
		return nil, &selectorFault{event: "SelectorRequired", reason: "InvalidSelector", message: "the HPA target's scale is missing a selector", err: "selector is required"}
	}
	sel, err := labels.Parse(sc.Status.Selector)
	if err != nil {
		text := fmt.Sprintf("couldn't convert selector into a corresponding internal selector object: %v", err)
		return nil, &selectorFault{event: "InvalidSelector", reason: "InvalidSelector", message: text, err: text}
	}
	return sel, nil
}

// rivals names the autoscalers that scale the same pods, the one looked at included; none when it is alone.
func (r *runner) rivals(snap client.Snapshot, o *observed) []string {
	if len(o.pods) == 0 {
		return nil
	}
	var out []string
	for _, other := range client.List[*autoscalingv2.HorizontalPodAutoscaler](r.client, snap, o.hpa.Namespace, nil) {
		if other.Name == o.hpa.Name {
			out = append(out, o.hpa.Namespace+"/"+o.hpa.Name)
			continue
		}
		t, err := r.target(snap, other)
		if err != nil {
			continue
		}
		sel, fault := selectorOf(t.scale)
		if fault != nil {
			continue
		}
		for _, pod := range o.pods {
			if sel.Matches(labels.Set(pod.Labels)) {
				out = append(out, other.Namespace+"/"+other.Name)
				break
			}
		}
	}
	if len(out) < 2 {
		return nil
	}
	return out
}

// target finds what an autoscaler scales, as it is now.
func (r *runner) target(snap client.Snapshot, hpa *autoscalingv2.HorizontalPodAutoscaler) (*target, error) {
	ref := hpa.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, fmt.Errorf("invalid API version in scale target reference: %w", err)
	}
	k := r.client.Table().Kind(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	if k == nil {
		return nil, fmt.Errorf("unable to determine resource for scale target reference: no matches for kind %q in group %q", ref.Kind, gv.Group)
	}
	if k.Scale == nil || !k.Namespaced {
		return nil, errors.New("the server could not find the requested resource")
	}
	item := snap.Get(client.Key{Resource: k.GroupResource().String(), Namespace: hpa.Namespace, Name: ref.Name})
	if item == nil {
		return nil, apierrors.NewNotFound(k.GroupResource(), ref.Name)
	}
	sc := k.Scale.Get(item.Object)
	sc.ObjectMeta = metav1.ObjectMeta{
		Namespace: hpa.Namespace, Name: ref.Name, UID: item.Object.GetUID(), ResourceVersion: item.Object.GetResourceVersion(),
	}
	return &target{k, sc}, nil
}
