package scheduler

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// reaches remembers which nodes volumes can be reached from, as of an epoch of the nodes' labels.
type reaches struct {
	epoch uint64
	of    map[*corev1.VolumeNodeAffinity]bitset
}

// mostReaches bounds what is remembered.
const mostReaches = 16384

// reachOf returns the nodes that a volume can be reached from; nil for all.
func (c *columns) reachOf(v *corev1.PersistentVolume) bitset {
	affinity := v.Spec.NodeAffinity
	if affinity == nil || affinity.Required == nil {
		return nil
	}
	if c.reaches.epoch != c.labels.epoch || len(c.reaches.of) >= mostReaches {
		c.reaches = reaches{c.labels.epoch, map[*corev1.VolumeNodeAffinity]bitset{}}
	}
	known, ok := c.reaches.of[affinity]
	if !ok {
		known = c.admitted(nil, affinity.Required)
		c.reaches.of[affinity] = known
	}
	return known
}

// zoneOf returns the nodes with the zone and region that a volume's labels say; nil for all. A label may list several, "a__b".
func (c *columns) zoneOf(v *corev1.PersistentVolume) (out bitset) {
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion} {
		if value, ok := v.Labels[key]; ok {
			out = meet(out, c.matching(&corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpIn, Values: strings.Split(value, "__")}))
		}
	}
	return out
}

// reachable returns the nodes that a storage class can make volumes for; nil for all.
func (c *columns) reachable(terms []corev1.TopologySelectorTerm) bitset {
	if len(terms) == 0 {
		return nil
	}
	out := newBitset(len(c.nodes))
	for _, t := range terms {
		var all bitset
		for _, e := range t.MatchLabelExpressions {
			all = meet(all, c.matching(&corev1.NodeSelectorRequirement{Key: e.Key, Operator: corev1.NodeSelectorOpIn, Values: e.Values}))
		}
		if all == nil {
			return nil // a term that asks for nothing
		}
		out.or(all)
	}
	return out
}

// meet returns what is in both sets; nil is all.
func meet(a, b bitset) bitset {
	if a == nil || b == nil {
		if a == nil {
			return b
		}
		return a
	}
	out := append(bitset(nil), a...)
	out.and(b)
	return out
}
