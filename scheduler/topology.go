package scheduler

// topology divides the nodes into domains: one for each value of a label.
type topology struct {
	epoch uint64
	// of is the number of each slot's domain; -1 for nodes without the label.
	of      []int32
	domains int
	// single tells that no two nodes share a domain, as with the label of the host's name.
	single bool
}

// mostTopologies bounds what is kept of them; all can be made again.
const mostTopologies = 256

// topology returns the domains of a label's values, up to date.
func (c *columns) topology(key string) *topology {
	t := c.topologies[key]
	if t != nil && t.epoch == c.labels.epoch {
		return t
	}
	if len(c.topologies) >= mostTopologies {
		clear(c.topologies)
	}
	t = &topology{epoch: c.labels.epoch, of: make([]int32, len(c.nodes)), single: true}
	for i := range t.of {
		t.of[i] = -1
	}
	for _, slots := range c.labels.slots[key] {
		t.single = t.single && len(slots) == 1
		for _, i := range slots {
			t.of[i] = int32(t.domains)
		}
		t.domains++
	}
	c.topologies[key] = t
	return t
}

// dim counts pods in the domains of a topology, for one decision.
type dim struct {
	*topology
	// What is counted: peers, or holders of rules, each with its weight.
	sources []source
	count   []int64 // by domain
	total   int64
	// own is what a pod of the run itself adds.
	own int64
}

type source struct {
	peers  *peers
	rule   *rule
	weight int64
}

// newDim counts what the sources have now.
func newDim(t *topology, sources ...source) dim {
	d := dim{topology: t, count: make([]int64, t.domains)}
	for _, s := range sources {
		d.include(s)
	}
	return d
}

// include adds a source and what it has on all nodes.
func (d *dim) include(s source) {
	d.sources = append(d.sources, s)
	for _, on := range s.spots().on {
		d.shift(on.slot, s.weight*int64(on.count))
	}
}

// shift adds to the count of a slot's domain.
func (d *dim) shift(slot int32, by int64) {
	if domain := d.of[slot]; domain >= 0 {
		d.count[domain] += by
		d.total += by
	}
}

func (s *source) spots() *spots {
	if s.peers != nil {
		return &s.peers.spots
	}
	return &s.rule.spots
}

// worth is what one pod of a kin with rules of its own adds to the domain that it is in.
func (d *dim) worth(k *kin, rules []*rule) (sum int64) {
	for i := range d.sources {
		s := &d.sources[i]
		if s.peers != nil && containsPointer(k.members, s.peers) || s.rule != nil && containsPointer(rules, s.rule) {
			sum += s.weight
		}
	}
	return sum
}

func containsPointer[T any](in []*T, p *T) bool {
	for _, x := range in {
		if x == p {
			return true
		}
	}
	return false
}

// at is the count in the domain of a slot; 0 without one.
func (d *dim) at(slot int32) int64 {
	if domain := d.of[slot]; domain >= 0 {
		return d.count[domain]
	}
	return 0
}

// sign is what tells the slot from others as far as d goes: its domain, or for domains of a single node, where it costs
// nothing to follow, only the count.
func (d *dim) sign(slot int32) uint64 {
	domain := d.of[slot]
	if domain < 0 || !d.single {
		return uint64(uint32(domain))
	}
	return uint64(d.count[domain])
}
