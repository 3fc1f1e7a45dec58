package cluster

import (
	"context"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/quota"
)

// ResourceQuotas counts what each quota's namespace uses. Admission charges the quota for what it lets in; the count takes
// off what is gone, and what was charged and then not stored.
func ResourceQuotas(env controller.Env) *controller.Loop {
	c := env.Client("resourcequota-controller")
	r := &resourceQuotas{client: c, written: map[controller.Key]time.Time{}}
	return env.NewLoop(c, controller.Controller{
		Name:    "resourcequota-controller",
		Watches: []controller.Watch{{Resource: client.ResourceOf[*corev1.ResourceQuota](c), Keys: r.quotaChanged}},
		Every: func(k *kinds.Kind) (controller.Watch, bool) {
			w := controller.Watch{Resource: k.GroupResource().String(), Keys: func(ev client.Event, add func(controller.Key)) { r.changed(k, ev, add) }}
			return w, k.Namespaced && deletable(k) && k.Resource != "events"
		},
		Reconcile: r.reconcile,
	})
}

// chargeSettles is how long after its last change a quota's usage is not lowered. Admission charges a quota before it stores
// what it charged for; a count in between would give that back, and let in more than is allowed.
const chargeSettles = 200 * time.Millisecond

type resourceQuotas struct {
	client *client.Client

	mu      sync.Mutex
	written map[controller.Key]time.Time // when each quota last changed
}

// quotaChanged notes the change and adds the quota.
func (r *resourceQuotas) quotaChanged(ev client.Event, add func(controller.Key)) {
	key := controller.Key{Namespace: ev.Item.Key.Namespace, Name: ev.Item.Key.Name}
	r.mu.Lock()
	defer r.mu.Unlock()
	if ev.Type == client.Delete {
		delete(r.written, key)
		return
	}
	r.written[key] = time.Now()
	add(key)
}

// settles returns how long the usage of a quota must not be lowered yet.
func (r *resourceQuotas) settles(key controller.Key, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(0, r.written[key].Add(chargeSettles).Sub(now))
}

// lowered returns usage with what the count finds less of kept as it was charged, and whether there is such.
func lowered(counted, charged corev1.ResourceList) (kept corev1.ResourceList, any bool) {
	kept = counted.DeepCopy()
	for name, n := range charged {
		if c, ok := kept[name]; ok && c.Cmp(n) < 0 {
			kept[name], any = n, true
		}
	}
	return kept, any
}

// changed adds the quotas of a namespace in which something came, went or grew.
func (r *resourceQuotas) changed(k *kinds.Kind, ev client.Event, add func(controller.Key)) {
	quotas := client.List[*corev1.ResourceQuota](r.client, r.client.Snapshot(), ev.Item.Key.Namespace, nil)
	if len(quotas) == 0 {
		return
	}
	if ev.Type == client.Put && ev.Prev != nil && sameUsage(k, ev.Item.Object, ev.Prev.Object) {
		return
	}
	for _, q := range quotas {
		add(controller.KeyOf(q))
	}
}

// sameUsage says that an update changed nothing that any quota counts. Only these kinds use amounts; of others only the number counts.
func sameUsage(k *kinds.Kind, obj, before client.Object) bool {
	switch obj.(type) {
	case *corev1.Pod, *corev1.Service, *corev1.PersistentVolumeClaim:
		return apiequality.Semantic.DeepEqual(quota.Usage(k.GroupResource(), obj), quota.Usage(k.GroupResource(), before))
	}
	return true
}

func (r *resourceQuotas) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	snap := r.client.Snapshot()
	q, ok := client.From[*corev1.ResourceQuota](r.client, snap, key.Namespace, key.Name)
	if !ok || q.DeletionTimestamp != nil {
		return 0, nil
	}
	status := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: r.count(snap, q)}
	var again time.Duration
	if kept, any := lowered(status.Used, q.Status.Used); any {
		if again = r.settles(key, time.Now()); again > 0 {
			status.Used = kept
		}
	}
	if apiequality.Semantic.DeepEqual(status, q.Status) {
		return again, nil
	}
	update := q.DeepCopy()
	update.Status = *status.DeepCopy()
	_, err := client.UpdateStatus(ctx, r.client, update)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	return again, err
}

// count sums what the objects of the quota's namespace use of each of its resources.
func (r *resourceQuotas) count(snap client.Snapshot, q *corev1.ResourceQuota) corev1.ResourceList {
	used := corev1.ResourceList{}
	counted := map[schema.GroupResource]bool{}
	for name := range q.Spec.Hard {
		used[name] = resource.Quantity{Format: resource.DecimalSI}
		counted[countedKind(name)] = true
	}
	for gr := range counted {
		k := r.client.Table().Resource(gr)
		if k == nil || !k.Namespaced {
			continue
		}
		for item := range snap.List(gr.String(), q.Namespace) {
			if !quota.InScope(q, item.Object) {
				continue
			}
			for name, n := range quota.Usage(gr, item.Object) {
				if sum, wanted := used[name]; wanted {
					sum.Add(n)
					used[name] = sum
				}
			}
		}
	}
	return used
}

// countedKind is the resource whose objects a quota resource is about.
func countedKind(name corev1.ResourceName) schema.GroupResource {
	s := string(name)
	if rest, ok := strings.CutPrefix(s, "count/"); ok {
		return schema.ParseGroupResource(rest)
	}
	switch {
	case name == corev1.ResourceConfigMaps, name == corev1.ResourceSecrets, name == corev1.ResourceServices,
		name == corev1.ResourceReplicationControllers, name == corev1.ResourceQuotas, name == corev1.ResourcePersistentVolumeClaims:
		return schema.GroupResource{Resource: s}
	case name == corev1.ResourceServicesNodePorts, name == corev1.ResourceServicesLoadBalancers:
		return schema.GroupResource{Resource: "services"}
	case name == corev1.ResourceRequestsStorage, strings.Contains(s, ".storageclass.storage.k8s.io/"):
		return schema.GroupResource{Resource: "persistentvolumeclaims"}
	}
	return schema.GroupResource{Resource: "pods"}
}
