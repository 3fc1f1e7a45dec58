package cluster

import (
	"slices"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
)

// The times and rates are the defaults of upstream's kube-controller-manager.
const (
	nodeGrace        = 40 * time.Second // without a sign of life until a node is Unknown
	nodeStartupGrace = 60 * time.Second // the same for a node that has posted no status yet

	evictions             rate.Limit = 0.1 // nodes per second and zone
	evictionsInLargeZone  rate.Limit = 0.01
	unhealthyZone                    = 0.55 // share of nodes in trouble from which a zone slows down
	largeZone                        = 50   // nodes; a smaller zone in such trouble stops
	unhealthyZoneMinNodes            = 2    // up to so many nodes in trouble never slow a zone down
)

func nodeCondition(conditions []corev1.NodeCondition, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range conditions {
		if conditions[i].Type == t {
			return &conditions[i]
		}
	}
	return nil
}

// nodeReady is the status of the node's Ready condition; "" when it has none yet.
func nodeReady(node *corev1.Node) corev1.ConditionStatus {
	if c := nodeCondition(node.Status.Conditions, corev1.NodeReady); c != nil {
		return c.Status
	}
	return ""
}

// planConditions returns the conditions that the node should have, given when it was last heard of, and when to look again.
func planConditions(node *corev1.Node, last, now time.Time) ([]corev1.NodeCondition, time.Duration) {
	grace := nodeGrace
	if nodeReady(node) == "" {
		grace = nodeStartupGrace
	}
	if left := last.Add(grace).Sub(now); left > 0 {
		return node.Status.Conditions, left
	}
	out := slices.Clone(node.Status.Conditions)
	for _, t := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		c := nodeCondition(out, t)
		switch {
		case c == nil:
			out = append(out, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
			})
		case c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.NewTime(now)
		}
	}
	return out, 0
}

// conditionTaints says which condition, in which status, makes which taint.
var conditionTaints = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	taint     string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
}

// planTaints returns the node's taints with those that tell of its state set or taken off. A taint that stays keeps its time.
// evict says whether the node may get a NoExecute taint now.
func planTaints(node *corev1.Node, evict bool, now time.Time) []corev1.Taint {
	wanted := map[corev1.Taint]bool{} // key and effect only
	for _, ct := range conditionTaints {
		c := nodeCondition(node.Status.Conditions, ct.condition)
		if c == nil || c.Status != ct.status {
			continue
		}
		wanted[corev1.Taint{Key: ct.taint, Effect: corev1.TaintEffectNoSchedule}] = true
		if ct.condition == corev1.NodeReady && evict {
			wanted[corev1.Taint{Key: ct.taint, Effect: corev1.TaintEffectNoExecute}] = true
		}
	}
	if node.Spec.Unschedulable {
		wanted[corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}] = true
	}
	var out []corev1.Taint
	for _, t := range node.Spec.Taints {
		id := corev1.Taint{Key: t.Key, Effect: t.Effect}
		if ours(id) && !wanted[id] {
			continue
		}
		delete(wanted, id)
		out = append(out, t)
	}
	for _, key := range taintOrder {
		for _, effect := range []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute} {
			if id := (corev1.Taint{Key: key, Effect: effect}); wanted[id] {
				id.TimeAdded = &metav1.Time{Time: now}
				out = append(out, id)
			}
		}
	}
	return out
}

var taintOrder = []string{
	corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure,
	corev1.TaintNodePIDPressure, corev1.TaintNodeNetworkUnavailable, corev1.TaintNodeUnschedulable,
}

// ours says whether a taint is set and taken off by this controller alone.
func ours(id corev1.Taint) bool {
	switch id.Effect {
	case corev1.TaintEffectNoSchedule:
		return slices.Contains(taintOrder, id.Key)
	case corev1.TaintEffectNoExecute:
		return id.Key == corev1.TaintNodeNotReady || id.Key == corev1.TaintNodeUnreachable
	}
	return false
}

// tainted says whether the node carries one of our taints of that effect for not being ready.
func tainted(node *corev1.Node, effect corev1.TaintEffect) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Effect == effect && (t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable)
	})
}

// evictionRate is how many nodes a second may start losing their pods in the zone of a node; disrupted says that no zone has a
// ready node left.
func evictionRate(node *corev1.Node, all []*corev1.Node) (limit rate.Limit, disrupted bool) {
	zone := zoneOf(node)
	anyReady := false
	ready, troubled := 0, 0
	for _, n := range all {
		ok := nodeReady(n) == corev1.ConditionTrue
		anyReady = anyReady || ok
		if zoneOf(n) != zone {
			continue
		}
		if ok {
			ready++
		} else {
			troubled++
		}
	}
	switch {
	case !anyReady:
		return 0, true
	case ready > 0 && troubled > unhealthyZoneMinNodes && float64(troubled)/float64(ready+troubled) >= unhealthyZone:
		if ready+troubled > largeZone {
			return evictionsInLargeZone, false
		}
		return 0, false
	}
	return evictions, false
}

func zoneOf(node client.Object) string {
	l := node.GetLabels()
	return l[corev1.LabelTopologyRegion] + "/" + l[corev1.LabelTopologyZone]
}

// oldLabels returns the labels of before 1.14 that are missing or differ from their successors.
func oldLabels(node *corev1.Node) map[string]string {
	out := map[string]string{}
	for now, before := range map[string]string{corev1.LabelOSStable: "beta.kubernetes.io/os", corev1.LabelArchStable: "beta.kubernetes.io/arch"} {
		if v, ok := node.Labels[now]; ok && node.Labels[before] != v {
			out[before] = v
		}
	}
	return out
}
