package workloads

import (
	"cmp"
	"context"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

var daemonSetKind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

const (
	// burstDaemons bounds the creations and the deletions of one reconcile, as upstream does.
	burstDaemons = 250
	// A pod that failed on a node is deleted after a pause that doubles with each failure.
	minDaemonPause = time.Second
	maxDaemonPause = 15 * time.Minute
	// templateGenerationLabel marks pods of DaemonSets that were made through an API older than apps/v1.
	templateGenerationLabel = "pod-template-generation"
)

// DaemonSets keeps one pod of each DaemonSet on every node that it fits, bound by the scheduler through a node affinity.
func DaemonSets(env controller.Env) *controller.Loop {
	c := env.Client("daemon-set-controller")
	r := &daemonSets{
		client:    c,
		events:    client.NewRecorder(c, "daemonset-controller", env.Logger),
		pods:      controller.NewIndex(controller.ByController(daemonSetKind.GroupKind())),
		revisions: controller.NewIndex(controller.ByController(daemonSetKind.GroupKind())),
		failures:  map[daemonSlot]*failure{},
	}
	return env.NewLoop(c, controller.Controller{
		Name:    "daemonset-controller",
		Workers: 2,
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*appsv1.DaemonSet](c), Keys: controller.Itself},
			{Resource: client.ResourceOf[*appsv1.ControllerRevision](c), Index: r.revisions, Keys: controller.Owner(daemonSetKind.GroupKind())},
			dependents[*appsv1.DaemonSet, *corev1.Pod](c, r.pods, daemonSetKind.GroupKind(), func(ds *appsv1.DaemonSet) *metav1.LabelSelector { return ds.Spec.Selector }),
			{Resource: client.ResourceOf[*corev1.Node](c), Keys: r.nodeChanged},
		},
		Reconcile: r.reconcile,
	})
}

type daemonSets struct {
	client    *client.Client
	events    *client.Recorder
	pods      *controller.Index // by controller
	revisions *controller.Index // by controller

	mu       sync.Mutex
	failures map[daemonSlot]*failure
}

type daemonSlot struct {
	set  types.UID
	node string
}

// failure is how a DaemonSet's pods have failed on a node.
type failure struct {
	pod   types.UID // the last that failed
	at    time.Time // when that was seen
	pause time.Duration
}

// nodeChanged adds all DaemonSets when something of a node changed that decides where they run.
func (r *daemonSets) nodeChanged(ev client.Event, add func(controller.Key)) {
	node := ev.Item.Object.(*corev1.Node)
	if ev.Type == client.Put && ev.Prev != nil {
		before := ev.Prev.Object.(*corev1.Node)
		if labels.Equals(node.Labels, before.Labels) && apiequality.Semantic.DeepEqual(node.Spec.Taints, before.Spec.Taints) {
			return
		}
	}
	for _, ds := range client.List[*appsv1.DaemonSet](r.client, r.client.Snapshot(), "", nil) {
		add(controller.KeyOf(ds))
	}
}

func (r *daemonSets) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	snap := r.client.Snapshot()
	ds, ok := client.From[*appsv1.DaemonSet](r.client, snap, key.Namespace, key.Name)
	if !ok {
		return 0, nil
	}
	sel, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		return 0, err
	}
	if sel.Empty() {
		r.events.Event(ds, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return 0, nil
	}
	h := &history{client: r.client, owner: ds, kind: daemonSetKind, labels: ds.Spec.Template.Labels,
		collisions: ds.Status.CollisionCount, hashLabel: appsv1.DefaultDaemonSetUniqueLabelKey}
	revisions := controller.Indexed[*appsv1.ControllerRevision](r.revisions, controller.OwnedBy(ds.UID))
	current, collided, err := h.sync(ctx, &ds.Spec.Template, revisions)
	if collided {
		status := *ds.Status.DeepCopy()
		status.CollisionCount = ptr.To(ptr.Deref(status.CollisionCount, 0) + 1)
		return 0, cmp.Or(r.writeStatus(ctx, ds, status), err)
	}
	if err != nil {
		return 0, err
	}
	pods, err := claimAll(ctx, r.client, ds, daemonSetKind, planClaim(ds, sel, candidates[*corev1.Pod](r.pods, ds), nil))
	if err != nil {
		return 0, err
	}
	hash := current.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
	nodes := client.List[*corev1.Node](r.client, snap, "", nil)
	plan := planDaemons(ds, hash, nodes, pods, func(node string, pod *corev1.Pod) time.Duration { return r.pause(ds, node, pod) }, time.Now())
	failed := r.carryOut(ctx, ds, hash, plan)
	if failed == nil && len(plan.create)+len(plan.remove) > 0 {
		// The events of these writes bring the next reconcile, and with it the status.
		return plan.again, nil
	}
	if err := r.writeStatus(ctx, ds, plan.status); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	return plan.again, h.prune(ctx, revisions, ds.Spec.RevisionHistoryLimit, func(rev *appsv1.ControllerRevision) bool {
		if rev.Name == current.Name {
			return true
		}
		for _, pod := range pods {
			if pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == rev.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] {
				return true
			}
		}
		return false
	})
}

// carryOut makes a plan true.
func (r *daemonSets) carryOut(ctx context.Context, ds *appsv1.DaemonSet, hash string, plan *daemonPlan) error {
	for _, pod := range plan.finished {
		if pod.Status.Phase == corev1.PodFailed {
			r.events.Event(ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, nodeOf(pod))
		} else {
			r.events.Event(ds, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, nodeOf(pod))
		}
	}
	_, err := createPods(ctx, r.client, r.events, ds, len(plan.create), func(i int) *corev1.Pod {
		return newDaemonPod(ds, hash, plan.create[i])
	})
	return cmp.Or(deletePods(ctx, r.client, r.events, ds, plan.remove), err)
}

// pause returns how long a failed pod stays on its node before it is deleted; 0 means no longer. Each failure in a row doubles it.
func (r *daemonSets) pause(ds *appsv1.DaemonSet, node string, pod *corev1.Pod) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	at := daemonSlot{ds.UID, node}
	f := r.failures[at]
	switch {
	case f == nil || now.Sub(f.at) > 2*maxDaemonPause:
		for old, g := range r.failures {
			if now.Sub(g.at) > 2*maxDaemonPause {
				delete(r.failures, old)
			}
		}
		r.failures[at] = &failure{pod: pod.UID, at: now, pause: 0}
		return 0
	case f.pod != pod.UID:
		f.pod, f.at, f.pause = pod.UID, now, min(max(minDaemonPause, 2*f.pause), maxDaemonPause)
	}
	return max(0, f.at.Add(f.pause).Sub(now))
}

func (r *daemonSets) writeStatus(ctx context.Context, ds *appsv1.DaemonSet, status appsv1.DaemonSetStatus) error {
	if apiequality.Semantic.DeepEqual(status, ds.Status) {
		return nil
	}
	update := ds.DeepCopy()
	update.Status = status
	_, err := client.UpdateStatus(ctx, r.client, update)
	if gone(err) && !stillThere(r.client, ds) {
		return nil
	}
	return err
}

// newDaemonPod returns the pod for a node: it tolerates what ails a node, and an affinity lets the scheduler put it
// there only.
func newDaemonPod(ds *appsv1.DaemonSet, hash, node string) *corev1.Pod {
	pod := newPod(ds, daemonSetKind, &ds.Spec.Template)
	pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
	if g := ds.Annotations[appsv1.DeprecatedTemplateGeneration]; g != "" {
		pod.Labels[templateGenerationLabel] = g
	}
	pod.Spec.Tolerations = daemonTolerations(&pod.Spec)
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	if pod.Spec.Affinity.NodeAffinity == nil {
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
			Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
		}}}},
	}
	return pod
}

// daemonTolerations adds to a pod's tolerations those that let daemons run on nodes in trouble.
func daemonTolerations(spec *corev1.PodSpec) []corev1.Toleration {
	out := spec.Tolerations
	add := func(key string, effect corev1.TaintEffect) {
		for i := range out {
			if out[i].Key == key && out[i].Effect == effect && out[i].Operator == corev1.TolerationOpExists {
				out[i].TolerationSeconds = nil
				return
			}
		}
		out = append(out, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect})
	}
	add(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	if spec.HostNetwork {
		add(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)
	}
	return out
}

// nodeOf is the node that a daemon pod is on or meant for.
func nodeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}
