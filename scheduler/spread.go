package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// spreadRule is one topologySpreadConstraint of a pod.
type spreadRule struct {
	key        string
	skew       int32
	minDomains int32
	hard       bool
	selector   labels.Selector
	// self is 1 when the pod counts among those that it is spread with.
	self int32
	// Which nodes count: upstream's nodeAffinityPolicy and nodeTaintsPolicy.
	anyAffinity, honorTaints bool
}

// spreadRules reads a pod's constraints. matchLabelKeys are part of the selector already: the API merges them into it.
func spreadRules(p *corev1.Pod) []spreadRule {
	var out []spreadRule
	for i := range p.Spec.TopologySpreadConstraints {
		c := &p.Spec.TopologySpreadConstraints[i]
		selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			continue // refused by validation
		}
		r := spreadRule{
			key: c.TopologyKey, skew: c.MaxSkew, minDomains: 1, selector: selector,
			hard:        c.WhenUnsatisfiable == corev1.DoNotSchedule,
			anyAffinity: c.NodeAffinityPolicy != nil && *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyIgnore,
			honorTaints: c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
		}
		if c.MinDomains != nil {
			r.minDomains = *c.MinDomains
		}
		if selector.Matches(labels.Set(p.Labels)) {
			r.self = 1
		}
		out = append(out, r)
	}
	return out
}

// domains is how the pods that a rule speaks of lie over the values of its topology key, while a decision lasts.
type domains struct {
	of    []int32 // number of each slot's domain; -1 for none
	count []int32
	// counts tells which domains have a node that counts; fewest is the smallest count of those, 0 while they are fewer than wanted.
	counts []bool
	fewest int32
	most   int32
}

// spread counts the pods of a rule in each domain.
func (c *class) spread(n *columns, rule *spreadRule) *domains {
	d := &domains{of: make([]int32, len(n.nodes))}
	for i := range d.of {
		d.of[i] = -1
	}
	included := make([]bool, len(n.nodes))
	for _, slots := range n.labels.slots[rule.key] {
		number := int32(len(d.count))
		d.count, d.counts = append(d.count, 0), append(d.counts, false)
		for _, i := range slots {
			d.of[i] = number
			included[i] = (rule.anyAffinity || c.admitted == nil || c.admitted.has(i)) && !(rule.honorTaints && (c.verdicts[n.taint[i]].untolerated || c.verdicts[n.taint[i]].unschedulable))
			d.counts[number] = d.counts[number] || included[i]
		}
	}
	for _, p := range n.placed {
		if p.pod.Namespace != c.namespace || p.pod.DeletionTimestamp != nil || !rule.selector.Matches(labels.Set(p.pod.Labels)) {
			continue
		}
		if i, ok := n.slots[p.node]; ok && included[i] {
			d.count[d.of[i]]++
		}
	}
	d.compare(rule)
	return d
}

// compare finds the extremes.
func (d *domains) compare(rule *spreadRule) {
	d.fewest, d.most = -1, 0
	counting := int32(0)
	for number, counts := range d.counts {
		if !counts {
			continue
		}
		counting++
		d.most = max(d.most, d.count[number])
		if d.fewest < 0 || d.count[number] < d.fewest {
			d.fewest = d.count[number]
		}
	}
	if d.fewest < 0 || counting < rule.minDomains {
		d.fewest = 0
	}
}

// spreadTo counts a pod of the class that was just placed.
func (c *class) spreadTo(i int32) {
	for r, d := range c.domains {
		if d.of[i] >= 0 {
			d.count[d.of[i]] += c.rules[r].self
			d.compare(&c.rules[r])
		}
	}
}

// crowded: a node without the key of a hard rule, or in a domain that has too many more pods than the emptiest.
func crowded(c *class, _ *columns, i int32) bool {
	for r, d := range c.domains {
		rule := &c.rules[r]
		if rule.hard && (d.of[i] < 0 || d.count[d.of[i]]+rule.self-d.fewest > rule.skew) {
			return true
		}
	}
	return false
}

func explainCrowded(c *class, _ *columns, i int32) []reason {
	for r, d := range c.domains {
		if c.rules[r].hard && d.of[i] < 0 {
			return []reason{{"node(s) didn't match pod topology spread constraints (missing required label)", true}}
		}
	}
	return []reason{{text: "node(s) didn't match pod topology spread constraints"}}
}

// spreadByRules is lower the more pods the node's domains have, over all rules that are not hard.
func spreadByRules(c *class, i int32) float64 {
	var sum, rules float64
	for r, d := range c.domains {
		if c.rules[r].hard {
			continue
		}
		rules++
		if d.of[i] >= 0 {
			sum += best * (1 - float64(d.count[d.of[i]])/float64(max(1, d.most)))
		}
	}
	if rules == 0 {
		return best
	}
	return sum / rules
}
