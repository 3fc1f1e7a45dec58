package scheduler

import "slices"

// run is a number of pods of one class and one group that are placed together: nodes are looked at once, and after each
// pod only the node that took it is looked at again.
type run struct {
	class *class
	group groupKey

	mostPreferred, mostTaints float64
	// count is how many pods of the group each slot has, zoneCount each zone; step and zoneStep what one of them costs.
	count          []int32
	zoneCount      []int32
	step, zoneStep float64
}

// candidate is a node that can take the next pod, with its score but for the zone's part.
type candidate struct {
	score float64
	order int32 // place in the row of those with an equal score
	slot  int32
}

func (a candidate) before(b candidate) bool {
	return a.score > b.score || a.score == b.score && a.order < b.order
}

// picker is the decision of where pods go, over the columns and two tables. It does no I/O and reads no clock.
type picker struct {
	columns *columns
	filters []filter
	scores  []score
	// Scratch: run.count, all zero between picks; what fits; and the rows.
	count, slots []int32
	heaps        [][]candidate
}

func newPicker(c *columns) *picker {
	return &picker{columns: c, filters: filters(), scores: scores()}
}

// pick chooses a node for each of n pods of a class and group, as if it placed them one after the other; took is called
// with each slot in turn and places the pod there, before the next is chosen. It returns how many found a node: the rest find none.
func (p *picker) pick(c *class, group groupKey, n int, took func(slot int32)) int {
	c.prepare(p.columns)
	fitting := p.fitting(c)
	if len(fitting) == 0 {
		return 0
	}
	r := p.begin(c, group, fitting)
	defer p.end(r)
	if n == 1 || len(c.rules) > 0 {
		return p.pickEach(r, p.considered(c, fitting), n, took)
	}
	rows := p.rows(r, fitting)
	for done := range n {
		zone := r.bestZone(rows)
		if zone < 0 {
			return done
		}
		row := rows[zone]
		top := &row[0]
		took(top.slot)
		p.columns.next = top.slot + 1
		r.zoneCount[zone]++
		if group.owner != "" {
			r.count[top.slot]++
		}
		if c.refused(p.filters, p.columns, top.slot) != 0 {
			row[0] = row[len(row)-1]
			row = row[:len(row)-1]
			rows[zone] = row
		} else {
			top.score = p.score(r, top.slot)
		}
		sink(row, 0)
	}
	return n
}

// considered returns the slots that may take a pod of a run sooner or later: with rules, a node that is full of its like now
// fits again once others have caught up.
func (p *picker) considered(c *class, fitting []int32) []int32 {
	if len(c.rules) == 0 {
		return fitting
	}
	var out []int32
	for i, node := range p.columns.nodes {
		if node != nil {
			out = append(out, int32(i))
		}
	}
	return out
}

// pickEach looks at all fitting nodes anew for each pod, as it must where one placement changes many nodes.
func (p *picker) pickEach(r *run, slots []int32, n int, took func(slot int32)) int {
	for done := range n {
		slot, ok := p.best(r, slots)
		if !ok {
			return done
		}
		took(slot)
		r.class.spreadTo(slot)
		p.columns.next = slot + 1
	}
	return n
}

// fits tells whether one node takes a pod of the class.
func (p *picker) fits(c *class, slot int32) bool {
	c.prepare(p.columns)
	return c.refused(p.filters, p.columns, slot) == 0
}

// fitting returns the slots of all nodes that can take a pod of the class now.
func (p *picker) fitting(c *class) []int32 {
	out := p.slots[:0]
	consider := func(i int32) {
		if c.refused(p.filters, p.columns, i) == 0 {
			out = append(out, i)
		}
	}
	if c.only != nil {
		for _, name := range c.only {
			if i, ok := p.columns.slots[name]; ok {
				consider(i)
			}
		}
		return out
	}
	for i, node := range p.columns.nodes {
		if node != nil {
			consider(int32(i))
		}
	}
	p.slots = out
	return out
}

// begin prepares what the scores compare nodes by.
func (p *picker) begin(c *class, key groupKey, fitting []int32) *run {
	n := p.columns
	if len(p.count) < len(n.nodes) {
		p.count = make([]int32, len(n.nodes))
	}
	r := &run{class: c, group: key, count: p.count, zoneCount: make([]int32, len(n.zones)), step: best, zoneStep: best}
	for _, i := range p.considered(c, fitting) {
		r.mostTaints = max(r.mostTaints, c.verdicts[n.taint[i]].soft)
		if c.prefer != nil {
			r.mostPreferred = max(r.mostPreferred, c.prefer[i])
		}
	}
	if g := n.groups[key]; g != nil && key.owner != "" {
		most, mostInZone := int32(1), int32(1)
		for _, on := range g.on {
			r.count[on.slot] = on.count
			z := n.zone[on.slot]
			r.zoneCount[z] += on.count
			most, mostInZone = max(most, on.count), max(mostInZone, r.zoneCount[z])
		}
		r.step, r.zoneStep = best/float64(most), best/float64(mostInZone)
	}
	if key.owner == "" || len(n.zones) == 1 || len(c.rules) > 0 {
		r.zoneStep = 0
	}
	return r
}

// end clears the scratch.
func (p *picker) end(r *run) { clear(r.count) }

// score sums up all scores of a slot.
func (p *picker) score(r *run, i int32) float64 {
	var sum float64
	for s := range p.scores {
		sum += p.scores[s].weight * p.scores[s].of(r, p.columns, i)
	}
	return sum
}

// candidate returns what a slot is worth now, but for its zone's part.
func (p *picker) candidate(r *run, slot int32) candidate {
	order := slot - p.columns.next
	if order < 0 {
		order += int32(len(p.columns.nodes))
	}
	return candidate{p.score(r, slot), order, slot}
}

// zonePart is what a zone's pods take off the score of its nodes.
func (r *run) zonePart(zone int32) float64 {
	return spreadWeight * r.zoneStep * float64(r.zoneCount[zone])
}

// best returns the best slot for a single pod, and whether there is one.
func (p *picker) best(r *run, slots []int32) (slot int32, ok bool) {
	var top candidate
	for _, i := range slots {
		if r.class.refused(p.filters, p.columns, i) != 0 {
			continue
		}
		c := p.candidate(r, i)
		c.score -= r.zonePart(p.columns.zone[i])
		if !ok || c.before(top) {
			top, ok = c, true
		}
	}
	return top.slot, ok
}

// rows returns a heap of candidates for each zone.
func (p *picker) rows(r *run, fitting []int32) [][]candidate {
	n := p.columns
	for len(p.heaps) < len(n.zones) {
		p.heaps = append(p.heaps, nil)
	}
	for z := range p.heaps {
		p.heaps[z] = p.heaps[z][:0]
	}
	for _, i := range fitting {
		z := n.zone[i]
		p.heaps[z] = append(p.heaps[z], p.candidate(r, i))
	}
	rows := slices.Clone(p.heaps)
	for _, row := range rows {
		for i := len(row)/2 - 1; i >= 0; i-- {
			sink(row, i)
		}
	}
	return rows
}

// bestZone returns the zone whose first candidate is the best of all, -1 when there is none.
func (r *run) bestZone(rows [][]candidate) int {
	found, top := -1, candidate{}
	for z, row := range rows {
		if len(row) == 0 {
			continue
		}
		c := row[0]
		c.score -= r.zonePart(int32(z))
		if found < 0 || c.before(top) {
			found, top = z, c
		}
	}
	return found
}

// sink restores the heap below i, where the score fell. (A score that rose can only be the first, which it stays.)
func sink(row []candidate, i int) {
	for {
		child := 2*i + 1
		if child >= len(row) {
			return
		}
		if child+1 < len(row) && row[child+1].before(row[child]) {
			child++
		}
		if !row[child].before(row[i]) {
			return
		}
		row[i], row[child] = row[child], row[i]
		i = child
	}
}
