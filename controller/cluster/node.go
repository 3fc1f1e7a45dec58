package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// Nodes watches over the nodes: one that has not renewed its lease, nor posted its status, within the grace period is
// marked Unknown, its pods not ready, and tainted; so are nodes that report trouble themselves. The time of a renewal is when it was
// seen here, as clocks of nodes may be wrong.
func Nodes(env controller.Env) *controller.Loop {
	c := env.Client("node-controller")
	r := &nodes{
		client: c,
		events: client.NewRecorder(c, "node-controller", env.Logger),
		seen:   map[string]heartbeat{},
		zones:  map[string]*rate.Limiter{},
	}
	return env.NewLoop(c, controller.Controller{
		Name: "node-lifecycle-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*coordinationv1.Lease](c), Keys: r.renewed},
			{Resource: client.ResourceOf[*corev1.Node](c), Keys: r.changed},
		},
		Reconcile: r.reconcile,
	})
}

// podsOn returns the pods of a node. It looks at all pods: controllers ask only when something has happened to a node, which is
// so much rarer than things that happen to pods that an index would cost more than it spares.
func podsOn(c *client.Client, node string) []*corev1.Pod {
	return slices.DeleteFunc(client.List[*corev1.Pod](c, c.Snapshot(), "", nil), func(pod *corev1.Pod) bool { return pod.Spec.NodeName != node })
}

type nodes struct {
	client *client.Client
	events *client.Recorder

	mu    sync.Mutex
	seen  map[string]heartbeat     // by node
	zones map[string]*rate.Limiter // of evictions, by zone
}

// heartbeat is the last sign of life of a node.
type heartbeat struct {
	renewed    metav1.MicroTime // the lease's own word, to tell renewals from other changes
	posted     metav1.Time      // the Ready condition's
	at         time.Time        // when either last moved, by this process's clock
	registered types.UID        // the node that was announced in an event
}

// renewed notes a lease's renewal. It wakes nobody: a node that is well has a timer running, which will find it so.
func (r *nodes) renewed(ev client.Event, _ func(controller.Key)) {
	lease := ev.Item.Object.(*coordinationv1.Lease)
	if ev.Type == client.Delete || lease.Namespace != corev1.NamespaceNodeLease || lease.Spec.RenewTime == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.seen[lease.Name]
	if !h.renewed.Equal(lease.Spec.RenewTime) {
		h.renewed, h.at = *lease.Spec.RenewTime, time.Now()
		r.seen[lease.Name] = h
	}
}

// changed notes a posted status and adds the node. When a node becomes ready or ceases to be, all nodes in trouble are added,
// as evictions are paced by how many there are.
func (r *nodes) changed(ev client.Event, add func(controller.Key)) {
	node := ev.Item.Object.(*corev1.Node)
	add(controller.Key{Name: node.Name})
	if ev.Type == client.Put {
		r.posted(node)
	}
	if ev.Prev != nil && ev.Type == client.Put && nodeReady(node) == nodeReady(ev.Prev.Object.(*corev1.Node)) {
		return
	}
	for _, other := range client.List[*corev1.Node](r.client, r.client.Snapshot(), "", nil) {
		if nodeReady(other) != corev1.ConditionTrue {
			add(controller.Key{Name: other.Name})
		}
	}
}

func (r *nodes) posted(node *corev1.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.seen[node.Name]
	var posted metav1.Time
	if c := nodeCondition(node.Status.Conditions, corev1.NodeReady); c != nil {
		posted = c.LastHeartbeatTime
	}
	if h.at.IsZero() || !h.posted.Equal(&posted) {
		h.posted, h.at = posted, time.Now()
		r.seen[node.Name] = h
	}
}

func (r *nodes) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	node, ok := client.From[*corev1.Node](r.client, r.client.Snapshot(), "", key.Name)
	if !ok {
		r.forget(key.Name)
		return 0, nil
	}
	last := r.announce(node)
	now := time.Now()
	conditions, again := planConditions(node, last, now)
	if !apiequality.Semantic.DeepEqual(conditions, node.Status.Conditions) {
		// At the revision that was judged: should the node post its status meanwhile, it is not silent.
		update := node.DeepCopy()
		update.Status.Conditions = conditions
		was := nodeReady(node)
		updated, err := client.UpdateStatus(ctx, r.client, update)
		if err != nil {
			return 0, fmt.Errorf("update status of node %s: %w", node.Name, err)
		}
		if node = updated; was == corev1.ConditionTrue {
			r.events.Event(node, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: %s", node.Name, "NodeNotReady")
		}
	}
	if nodeReady(node) == corev1.ConditionUnknown {
		if err := r.markPods(ctx, node); err != nil {
			return 0, err
		}
	}
	evict, wait := r.mayEvict(node, now)
	if err := r.writeTaints(ctx, node, evict); err != nil {
		return 0, err
	}
	return controller.Sooner(again, wait), nil
}

// announce records the event of a node that is new here, and returns when it was last heard of.
func (r *nodes) announce(node *corev1.Node) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.seen[node.Name]
	if h.registered != node.UID {
		h.registered = node.UID
		r.seen[node.Name] = h
		r.events.Event(node, corev1.EventTypeNormal, "RegisteredNode", "Node %s event: Registered Node %s in Controller", node.Name, node.Name)
	}
	return h.at
}

// forget drops what is known of a node that is gone.
func (r *nodes) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, ok := r.seen[name]
	delete(r.seen, name)
	if ok && h.registered != "" {
		gone := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: h.registered}}
		r.events.Event(gone, corev1.EventTypeNormal, "RemovingNode", "Node %s event: Removing Node %s from Controller", name, name)
	}
}

// markPods makes the pods of a node that nobody hears of not ready, so that no traffic goes there.
func (r *nodes) markPods(ctx context.Context, node *corev1.Node) error {
	var ready []*corev1.Pod
	for _, pod := range podsOn(r.client, node.Name) {
		if controller.PodReady(pod) {
			ready = append(ready, pod)
		}
	}
	for _, err := range parallel(ready, func(pod *corev1.Pod) error {
		update := pod.DeepCopy()
		c := controller.PodCondition(update, corev1.PodReady)
		c.Status, c.LastTransitionTime = corev1.ConditionFalse, metav1.Now()
		err := patchPodStatus(ctx, r.client, pod, update)
		if err == nil {
			r.events.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		}
		return err
	}) {
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark pods of node %s: %w", node.Name, err)
		}
	}
	return nil
}

// mayEvict says whether the pods of a node in trouble may be evicted: within the pace of its zone, and not when no zone at all has a
// ready node, since then the fault lies more likely between the nodes and the server. wait is when to ask again.
func (r *nodes) mayEvict(node *corev1.Node, now time.Time) (ok bool, wait time.Duration) {
	if nodeReady(node) == corev1.ConditionTrue {
		return true, 0
	}
	limit, disrupted := evictionRate(node, client.List[*corev1.Node](r.client, r.client.Snapshot(), "", nil))
	if disrupted {
		return false, 0
	}
	if tainted(node, corev1.TaintEffectNoExecute) {
		return true, 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	limiter := r.zones[zoneOf(node)]
	if limiter == nil {
		limiter = rate.NewLimiter(limit, 1)
		r.zones[zoneOf(node)] = limiter
	}
	if limiter.Limit() != limit {
		limiter.SetLimitAt(now, limit)
	}
	if limiter.AllowN(now, 1) {
		return true, 0
	}
	if limit == 0 {
		return false, 0
	}
	return false, time.Duration((1 - limiter.TokensAt(now)) / float64(limit) * float64(time.Second))
}

// writeTaints brings the taints that tell of the node's state, and its old label names, in step.
func (r *nodes) writeTaints(ctx context.Context, node *corev1.Node, evict bool) error {
	taints := planTaints(node, evict, time.Now())
	labels := oldLabels(node)
	if apiequality.Semantic.DeepEqual(taints, node.Spec.Taints) && len(labels) == 0 {
		return nil
	}
	// At the revision that was read: the list of taints is written whole, and others write it too.
	update := node.DeepCopy()
	update.Spec.Taints = taints
	for k, v := range labels {
		metav1.SetMetaDataLabel(&update.ObjectMeta, k, v)
	}
	if _, err := client.Update(ctx, r.client, update); err != nil {
		return fmt.Errorf("update taints of node %s: %w", node.Name, err)
	}
	return nil
}
