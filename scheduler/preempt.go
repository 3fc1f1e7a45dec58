package scheduler

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// sacrifice is a node that can take a pod once some of lower priority are gone.
type sacrifice struct {
	slot int32
	// victims are the pods to go, most important first.
	victims []*placed
	// violations counts the victims that a disruption budget would keep.
	violations int
}

// budget is what a PodDisruptionBudget still allows.
type budget struct {
	namespace string
	selector  labels.Selector
	allowed   int32
	// disrupted pods are on their way out, and paid for.
	disrupted map[string]metav1.Time
}

func budgets(list []*policyv1.PodDisruptionBudget) []budget {
	var out []budget
	for _, b := range list {
		// An empty selector matches all pods of the namespace, none at all matches none; one that does not parse was refused.
		if selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil {
			out = append(out, budget{b.Namespace, selector, b.Status.DisruptionsAllowed, b.Status.DisruptedPods})
		}
	}
	return out
}

// How many nodes are compared at most, as upstream does: a tenth of all, but not fewer than a hundred.
func enoughCandidates(nodes int) int { return max(100, nodes/10) }

// preempt looks for the node where the least important pods would have to go for a pod of a run and a priority. Without one,
// reasons counts why the nodes do not help, in upstream's words.
func (p *picker) preempt(r *run, priority int32, limits []budget) (found *sacrifice, reasons map[string]int) {
	n := p.columns
	reasons = map[string]int{}
	candidates := 0
	for k := range n.nodes {
		i := (int32(k) + n.next) % int32(len(n.nodes))
		if n.nodes[i] == nil {
			continue
		}
		if f := r.refused(n, i); f == nil || f.mends == nil || !f.mends(r, n, i) {
			reasons[notHelpful]++
			continue
		}
		s, why := p.sacrifice(r, priority, i, limits)
		if s == nil {
			for _, text := range why {
				reasons[text]++
			}
			continue
		}
		if found == nil || s.better(found) {
			found = s
		}
		if candidates++; candidates >= enoughCandidates(n.len()) {
			break
		}
	}
	return found, reasons
}

// sacrifice finds the pods of a node that would have to go, or why it does not help that any go. Columns and run are left as
// they were.
func (p *picker) sacrifice(r *run, priority int32, i int32, limits []budget) (*sacrifice, []string) {
	n := p.columns
	var lower []*placed
	for _, pod := range n.byNode[n.nodes[i].Name] {
		if pod.priority < priority {
			lower = append(lower, pod)
		}
	}
	if len(lower) == 0 {
		return nil, []string{"No preemption victims found for incoming pod"}
	}
	shift := func(pod *placed, sign int64) {
		n.load(i, pod, sign)
		r.shift(i, pod, sign, 0)
	}
	slices.SortFunc(lower, moreImportant)
	for _, pod := range lower {
		shift(pod, -1)
	}
	if f := r.refused(n, i); f != nil {
		why := f.explain(r, n, i)
		for _, pod := range lower {
			shift(pod, 1)
		}
		return nil, why
	}
	// Each may stay that can; those that a budget protects are asked first.
	protected, others := protect(lower, limits)
	s := &sacrifice{slot: i}
	keep := func(pods []*placed) (gone int) {
		for _, pod := range pods {
			shift(pod, 1)
			if r.refused(n, i) != nil {
				shift(pod, -1)
				s.victims = append(s.victims, pod)
				gone++
			}
		}
		return gone
	}
	s.violations = keep(protected)
	keep(others)
	for _, pod := range s.victims {
		shift(pod, 1)
	}
	slices.SortFunc(s.victims, moreImportant)
	return s, nil
}

// moreImportant orders pods by priority, and those of one priority by how long they have run.
func moreImportant(a, b *placed) int {
	if d := cmp.Compare(b.priority, a.priority); d != 0 {
		return d
	}
	if d := started(a.pod).Compare(started(b.pod).Time); d != 0 {
		return d
	}
	return cmp.Compare(a.uid, b.uid)
}

func started(p *corev1.Pod) metav1.Time {
	if p.Status.StartTime != nil {
		return *p.Status.StartTime
	}
	return p.CreationTimestamp
}

// protect splits pods into those whose loss some budget does not allow and the others. Each takes from its budgets, in order.
func protect(pods []*placed, limits []budget) (protected, others []*placed) {
	left := make([]int32, len(limits))
	for i, b := range limits {
		left[i] = b.allowed
	}
	for _, p := range pods {
		violates := false
		for i, b := range limits {
			if b.namespace != p.pod.Namespace || len(p.pod.Labels) == 0 || !b.selector.Matches(labels.Set(p.pod.Labels)) {
				continue
			}
			if _, paid := b.disrupted[p.pod.Name]; paid {
				continue
			}
			left[i]--
			violates = violates || left[i] < 0
		}
		if violates {
			protected = append(protected, p)
		} else {
			others = append(others, p)
		}
	}
	return protected, others
}

// better compares two sacrifices by upstream's rules, one after the other.
func (s *sacrifice) better(o *sacrifice) bool {
	top := func(s *sacrifice) int64 { return int64(s.victims[0].priority) }
	sum := func(s *sacrifice) (out int64) {
		for _, v := range s.victims {
			// Made positive, so that more victims of a negative priority count for more.
			out += int64(v.priority) + 1<<31
		}
		return out
	}
	if len(s.victims) == 0 || len(o.victims) == 0 {
		return len(s.victims) < len(o.victims)
	}
	return cmp.Or(
		cmp.Compare(s.violations, o.violations),
		cmp.Compare(top(s), top(o)),
		cmp.Compare(sum(s), sum(o)),
		cmp.Compare(len(s.victims), len(o.victims)),
		// The most important victim that has run the shortest.
		started(o.victims[0].pod).Compare(started(s.victims[0].pod).Time),
	) < 0
}

// nominate keeps room on a node for a pod that others make way for; an empty name gives it up.
func (c *columns) nominate(e *entry, node string) {
	e.nominated = node
	if node == "" {
		delete(c.nominated, e.pod.UID)
		return
	}
	c.nominated[e.pod.UID] = &placed{uid: e.pod.UID, node: node, class: e.class, kin: e.kin, priority: e.priority, pod: e.pod}
}

// awaits tells whether a pod's victims are still on their way out.
func (c *columns) awaits(e *entry) bool {
	for _, p := range c.byNode[e.nominated] {
		if p.priority < e.priority && (p.victim || p.pod.DeletionTimestamp != nil) {
			return true
		}
	}
	return false
}
