package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// spreadRule is one topologySpreadConstraint of a pod.
type spreadRule struct {
	key        string
	skew       int32
	minDomains int32
	hard       bool
	term       *term
	// Which nodes count: upstream's nodeAffinityPolicy and nodeTaintsPolicy.
	anyAffinity, honorTaints bool
}

// spreadRules reads a pod's constraints. matchLabelKeys are part of the selector already: the API merges them into it.
func spreadRules(p *corev1.Pod) []spreadRule {
	var out []spreadRule
	for i := range p.Spec.TopologySpreadConstraints {
		c := &p.Spec.TopologySpreadConstraints[i]
		r := spreadRule{
			key: c.TopologyKey, skew: c.MaxSkew, minDomains: 1,
			term:        termOf(p.Namespace, &corev1.PodAffinityTerm{LabelSelector: c.LabelSelector}),
			hard:        c.WhenUnsatisfiable == corev1.DoNotSchedule,
			anyAffinity: c.NodeAffinityPolicy != nil && *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyIgnore,
			honorTaints: c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
		}
		if c.MinDomains != nil {
			r.minDomains = *c.MinDomains
		}
		out = append(out, r)
	}
	return out
}

// defaultRules are how pods without constraints of their own are spread: those of one workload over zones and hosts, as well
// as can be. The keys and skews are upstream's system defaults.
func defaultRules(namespace string, selector labels.Selector) []spreadRule {
	t := &term{namespaces: []string{namespace}, selector: selector}
	t.key = string(appendText(appendText(nil, selector.String()), namespace))
	return []spreadRule{
		{key: corev1.LabelTopologyZone, skew: 3, minDomains: 1, term: t},
		{key: corev1.LabelHostname, skew: 5, minDomains: 1, term: t},
	}
}

// spread is how one rule counts pods, for one run.
type spread struct {
	dim
	rule *spreadRule
	// included tells which nodes count.
	included bitset
	// Of a hard rule: which domains have a node that counts, how many of those have each count, the smallest count there
	// is, and whether there are fewer than wanted.
	counting []bool
	have     []int32
	fewest   int64
	few      bool
	// heft is what a pod weighs in the score: more, the more domains there are to choose from.
	heft float64
}

// scatter counts, for a run, the pods that its rules spread.
func (r *run) scatter(n *columns, rules []spreadRule) {
	for i := range rules {
		s := spread{rule: &rules[i]}
		s.included = r.counted(n, rules, s.rule)
		s.dim = dim{topology: n.topology(s.rule.key)}
		s.count = make([]int64, s.domains)
		p := n.peersOf([]*term{s.rule.term}, true)
		s.sources = []source{{peers: p, weight: 1}}
		for _, on := range p.on {
			if domain := s.of[on.slot]; domain >= 0 && s.included.has(on.slot) {
				s.count[domain] += int64(on.count)
			}
		}
		if s.rule.hard {
			s.compare()
			r.hard = append(r.hard, s)
		} else {
			r.soft = append(r.soft, s)
		}
	}
}

// counted tells which nodes count for a rule: those that the pod might go to, as the rule says, and that have the labels of
// all rules of its kind. (The rules that nobody wrote are content with the labels that there are.)
func (r *run) counted(n *columns, rules []spreadRule, rule *spreadRule) bitset {
	c := r.class
	out := newBitset(len(n.nodes))
	if c.admitted != nil && !rule.anyAffinity {
		copy(out, c.admitted)
	} else {
		out.invert()
	}
	for i := range rules {
		if rules[i].hard != rule.hard || r.loose {
			continue
		}
		for slot, domain := range n.topology(rules[i].key).of {
			if domain < 0 {
				out.clear(int32(slot))
			}
		}
	}
	if rule.honorTaints {
		for slot := range n.nodes {
			if c.verdicts[n.taint[slot]].untolerated {
				out.clear(int32(slot))
			}
		}
	}
	return out
}

// compare finds the domains that count, and the smallest count.
func (s *spread) compare() {
	s.counting = make([]bool, s.domains)
	for slot, domain := range s.of {
		if domain >= 0 && s.included.has(int32(slot)) {
			s.counting[domain] = true
		}
	}
	s.have = []int32{0}
	counting := int32(0)
	for domain, counts := range s.counting {
		if counts {
			s.note(s.count[domain], 1)
			counting++
		}
	}
	s.few = counting == 0 || counting < s.rule.minDomains
	s.settle()
}

func (s *spread) note(count int64, by int32) {
	for int64(len(s.have)) <= count {
		s.have = append(s.have, 0)
	}
	s.have[count] += by
}

// settle moves fewest up to a count that a domain has.
func (s *spread) settle() {
	for s.fewest < int64(len(s.have))-1 && s.have[s.fewest] == 0 {
		s.fewest++
	}
}

// shift adds to the count of a slot's domain.
func (s *spread) shift(slot int32, by int64) {
	domain := s.of[slot]
	if domain < 0 || by == 0 || !s.included.has(slot) {
		return
	}
	before := s.count[domain]
	s.count[domain] += by
	if s.counting == nil || !s.counting[domain] {
		return
	}
	s.note(before, -1)
	s.note(before+by, 1)
	s.fewest = min(s.fewest, before+by)
	s.settle()
}

// least is the count that the emptiest domain has, or would have if there were as many as wanted.
func (s *spread) least() int64 {
	if s.few {
		return 0
	}
	return s.fewest
}

// crowded: a node without the key of a hard rule, or in a domain that has too many more pods than the emptiest.
func crowded(r *run, _ *columns, i int32) bool {
	for h := range r.hard {
		if s := &r.hard[h]; s.of[i] < 0 || s.exceeds(i) {
			return true
		}
	}
	return false
}

func (s *spread) exceeds(i int32) bool {
	return s.at(i)+s.own-s.least() > int64(s.rule.skew)
}

func explainCrowded(r *run, _ *columns, i int32) []string {
	const text = "node(s) didn't match pod topology spread constraints"
	if r.lacksKey(i) {
		return []string{text + " (missing required label)"}
	}
	return []string{text}
}

// lacksKey tells that a node is refused for a label that it lacks, and not for pods.
func (r *run) lacksKey(i int32) bool {
	for h := range r.hard {
		switch s := &r.hard[h]; {
		case s.of[i] < 0:
			return true
		case s.exceeds(i):
			return false
		}
	}
	return false
}

// weigh sets what pods weigh in the score of each soft rule: by how many domains the nodes lie in that fit, of which rows has
// examples; upstream's logarithm.
func (r *run) weigh(rows []*row) {
	for s := range r.soft {
		rule := &r.soft[s]
		r.pass++
		if len(r.seen) < rule.domains {
			r.seen = make([]uint32, rule.domains)
		}
		size := 0
		for _, row := range rows {
			slot := row.list[0].slot
			switch domain := rule.of[slot]; {
			case domain < 0 || r.ignored(slot):
			case rule.single:
				size += len(row.list)
			case r.seen[domain] != r.pass:
				r.seen[domain] = r.pass
				size++
			}
		}
		rule.heft = math.Log(float64(size) + 2)
	}
}

// ignored tells that a node lacks a label of the soft rules, which then leave it out.
func (r *run) ignored(i int32) bool {
	if r.loose {
		return false
	}
	for s := range r.soft {
		if r.soft[s].of[i] < 0 {
			return true
		}
	}
	return false
}

// crowdedness is what the pods in a node's domains weigh, over the soft rules; NaN where these leave it out.
func crowdedness(r *run, _ *columns, i int32) float64 {
	if r.ignored(i) {
		return math.NaN()
	}
	var sum float64
	for s := range r.soft {
		if rule := &r.soft[s]; rule.of[i] >= 0 {
			sum += float64(rule.at(i))*rule.heft + float64(rule.rule.skew-1)
		}
	}
	return math.Round(sum)
}

// fewer turns what nodes have into 0 to best, with the best for the least.
func fewer(raw, least, most float64) float64 {
	if most == 0 {
		return best
	}
	return best * (most + least - raw) / most
}
