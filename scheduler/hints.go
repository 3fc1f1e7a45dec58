package scheduler

import (
	"maps"
	"slices"
)

// changes is what happened in the cluster since parked pods were last woken.
type changes struct {
	// slots are those of nodes that are new or became better, or that pods have left.
	slots map[int32]bool
	// came and went are the kinds of pods that got a node, or lost it.
	came, went map[sortOf]bool
	// domains: the nodes' labels, or which nodes there are, changed. namespaces: the labels of one did.
	domains, namespaces bool
	// claims are those that changed, or that a pod has let go, "namespace/name"; storage that volumes, classes or what drivers can do changed.
	claims  map[string]bool
	storage bool
}

// sortOf is what pods have in common as far as others care.
type sortOf struct {
	kin   *kin
	class *class
}

func newChanges() changes {
	return changes{slots: map[int32]bool{}, came: map[sortOf]bool{}, went: map[sortOf]bool{}, claims: map[string]bool{}}
}

func (c *changes) none() bool {
	return len(c.slots)+len(c.came)+len(c.went)+len(c.claims) == 0 && !c.domains && !c.namespaces && !c.storage
}

// left notes that a pod is off its node.
func (s *Scheduler) left(p *placed) {
	if p == nil {
		return
	}
	if i, ok := s.columns.slots[p.node]; ok {
		s.changed.slots[i] = true
	}
	s.changed.went[sortOf{p.kin, p.class}] = true
	for _, claim := range p.class.claims {
		s.changed.claims[claim] = true
	}
}

// wake lets those parked pods try again that what changed may help, once their back-off is over.
func (s *Scheduler) wake() {
	if s.changed.none() {
		return
	}
	h := hints{changes: &s.changed, picker: s.picker, slots: slices.Sorted(maps.Keys(s.changed.slots)), room: map[roomFor]bool{}, met: map[*class]bool{}}
	for f := range s.picker.filters {
		if s.picker.filters[f].afar {
			h.afar |= 1 << f
		}
		if s.picker.filters[f].volumes {
			h.volumes |= 1 << f
		}
	}
	for _, e := range s.queue.entries {
		if e.place == parked && h.help(e) {
			s.queue.unpark(e)
		}
	}
	s.changed = newChanges()
}

// hints answers which pods the changes may help. What holds for one pod of a class holds for all, and is found out once.
type hints struct {
	*changes
	picker        *picker
	slots         []int32
	afar, volumes uint32 // the filters of these kinds, by bit
	room          map[roomFor]bool
	met           map[*class]bool
}

type roomFor struct {
	class    *class
	priority int32
}

func (h *hints) help(e *entry) bool {
	if e.refusal.outright || e.refusal.by&h.volumes != 0 {
		if h.storage || slices.ContainsFunc(e.class.claims, func(claim string) bool { return h.claims[claim] }) {
			return true
		}
		if e.refusal.outright {
			return false
		}
	}
	if e.refusal.by&h.afar != 0 && (h.domains || h.namespaces || h.meets(e)) {
		return true
	}
	return h.roomFor(e)
}

// roomFor tells whether a node that changed takes a pod now, as far as the node alone is asked, or would if less important
// pods made way.
func (h *hints) roomFor(e *entry) bool {
	key := roomFor{e.class, e.priority}
	found, known := h.room[key]
	if known {
		return found
	}
	r := h.picker.probe(e.class)
	n := h.picker.columns
	found = slices.ContainsFunc(h.slots, func(i int32) bool {
		if n.nodes[i] == nil {
			return false
		}
		f := ask(r.here, r, n, i)
		return f == nil || f.mends != nil && f.mends(r, n, i) && n.hasLower(i, e.priority)
	})
	h.room[key] = found
	return found
}

// meets tells whether pods came that a pod's rules ask for, or went that stood against it.
func (h *hints) meets(e *entry) bool {
	c := e.class
	met, known := h.met[c]
	if !known {
		n := h.picker.columns
		evens := func(s sortOf) bool {
			return slices.ContainsFunc(c.rules, func(r spreadRule) bool { return r.hard && r.term.matches(n, s.kin) })
		}
		among := func(terms []podTerm, s sortOf) bool {
			return slices.ContainsFunc(terms, func(t podTerm) bool { return t.matches(n, s.kin) })
		}
		for s := range h.came {
			met = met || evens(s) || among(c.together, s)
		}
		for s := range h.went {
			// The last of those that it asks for being gone, it may be the first.
			met = met || evens(s) || among(c.apart, s) || among(c.together, s)
		}
		h.met[c] = met
	}
	if met {
		return true
	}
	for s := range h.went {
		for i := range s.class.holds {
			if s.class.holds[i].apart && s.class.holds[i].term.matches(h.picker.columns, e.kin) {
				return true
			}
		}
	}
	return false
}

// probe is a run that knows only the class: enough to ask about nodes by themselves.
func (p *picker) probe(c *class) *run {
	c.prepare(p.columns)
	r := &run{subject: subject{class: c}}
	for f := range p.filters {
		if filter := &p.filters[f]; !filter.afar && (filter.concerns == nil || filter.concerns(r)) {
			r.here = append(r.here, filter)
		}
	}
	return r
}

// hasLower tells whether a node has a pod of lower priority.
func (c *columns) hasLower(i, priority int32) bool {
	for _, p := range c.byNode[c.nodes[i].Name] {
		if p.priority < priority {
			return true
		}
	}
	return false
}
