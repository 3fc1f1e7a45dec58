package scheduler

import (
	"math"

	"k8s.io/apimachinery/pkg/types"
)

// subject are pods that are placed one after the other as a run: nothing tells them apart but their names.
type subject struct {
	class *class
	kin   *kin
	// rules are those by which they are spread: the class's, or those for pods that have none, with loose set.
	rules []spreadRule
	loose bool
	// storage is what their volumes ask of a node; nil without any.
	storage *storage
}

// run is the decision on a subject while it lasts: what the pods of the cluster mean to it, counted by domain at the
// beginning and followed from then on. It must be ended.
type run struct {
	subject
	// here are the filters that ask about the node alone, afar those that ask about pods on other nodes too. Only those
	// that concern the subject are asked, and of the scores likewise.
	here, afar     []*filter
	scores, ranked []*score

	together, apart, repelled, near []dim
	// opens tells that a pod of the run is one of those that its affinity asks for.
	opens      bool
	hard, soft []spread
	holds      []*rule
	// dims are all of the first four, spreads those of the fifth.
	dims    []*dim
	spreads []*spread
	// reserved are pods that are to come to a node, and count as if they were there.
	reserved []*placed

	rows  []*row
	byKey map[uint64]*row
	// recent are rows of byKey by the low bits of their keys: they are asked for once for each node, and are few as a rule.
	recent [16]struct {
		key uint64
		row *row
	}
	varied bool
	// alone tells that only one pod is to be placed.
	alone bool
	// Scratch of weigh.
	seen []uint32
	pass uint32
}

// candidate is a node that can take the next pod, with the part of its score that depends on itself alone.
type candidate struct {
	score float64
	order int32 // place in the queue of those with an equal score
	slot  int32
}

func (a candidate) before(b candidate) bool {
	return a.score > b.score || a.score == b.score && a.order < b.order
}

// row is a heap of candidates that the scores that compare nodes with each other, and the filters from afar, do not tell
// apart: asking about one of them is asking about all.
type row struct {
	list []candidate
	// raw is what they have by each of run.ranked.
	raw [maxRanked]float64
	// closed tells that a filter from afar refuses them, and that this stays so, as the pod is the only one of its run.
	closed bool
}

// picker is the decision of where pods go, over the columns and two tables. It does no I/O and reads no clock.
type picker struct {
	columns *columns
	filters []filter
	scores  []score
	// Scratch: rows that no run uses, and those that can take the next pod.
	spare, open []*row
}

func newPicker(c *columns) *picker {
	return &picker{columns: c, filters: filters(), scores: scores()}
}

// begin counts what a run has to know.
func (p *picker) begin(s subject) *run {
	n := p.columns
	if len(n.peers) >= mostPeers {
		n.forgetPeers()
	}
	s.kin = n.adopt(s.kin)
	s.class.prepare(n)
	r := &run{subject: s, holds: n.hold(s.class.holds)}
	r.beside(n)
	r.scatter(n, s.rules)
	for _, dims := range [][]dim{r.together, r.apart, r.repelled, r.near} {
		for d := range dims {
			r.dims = append(r.dims, &dims[d])
		}
	}
	for _, spreads := range [][]spread{r.hard, r.soft} {
		for s := range spreads {
			r.spreads = append(r.spreads, &spreads[s])
		}
	}
	for _, d := range r.dims {
		d.own = d.worth(r.kin, r.holds)
	}
	for _, s := range r.spreads {
		s.own = s.worth(r.kin, nil)
	}
	for f := range p.filters {
		switch filter := &p.filters[f]; {
		case filter.concerns != nil && !filter.concerns(r):
		case filter.afar:
			r.afar = append(r.afar, filter)
		default:
			r.here = append(r.here, filter)
		}
	}
	for i := range p.scores {
		switch score := &p.scores[i]; {
		case score.concerns != nil && !score.concerns(r):
		case score.rank != nil:
			r.ranked = append(r.ranked, score)
		default:
			r.scores = append(r.scores, score)
		}
	}
	r.varied = len(r.dims)+len(r.spreads)+len(r.ranked) > 0
	return r
}

// end gives back what a run had.
func (p *picker) end(r *run) {
	for len(r.reserved) > 0 {
		p.release(r, r.reserved[0].uid)
	}
	p.columns.release(r.holds)
	p.spare = append(p.spare, r.rows...)
	r.rows = nil
}

// reserve counts a pod as if it were on the node that is kept for it. That others would be near it helps nobody, though: it may not come.
func (p *picker) reserve(r *run, pod *placed) {
	i, ok := p.columns.slots[pod.node]
	if !ok {
		return
	}
	pod.kin = p.columns.adopt(pod.kin)
	pod.rules = p.columns.hold(pod.class.holds)
	p.columns.load(i, pod, 1)
	r.shift(i, pod, 1, len(r.together))
	r.reserved = append(r.reserved, pod)
}

// release takes a reservation back.
func (p *picker) release(r *run, uid types.UID) {
	for at, pod := range r.reserved {
		if pod.uid != uid {
			continue
		}
		i := p.columns.slots[pod.node]
		r.shift(i, pod, -1, len(r.together))
		p.columns.load(i, pod, -1)
		p.columns.release(pod.rules)
		pod.rules = nil
		r.reserved = append(r.reserved[:at], r.reserved[at+1:]...)
		return
	}
}

// shift adds a pod to, or takes it off, what the run counts, but for the first dims.
func (r *run) shift(slot int32, pod *placed, sign int64, skip int) {
	for _, d := range r.dims[skip:] {
		d.shift(slot, sign*d.worth(pod.kin, pod.rules))
	}
	for _, s := range r.spreads {
		s.shift(slot, sign*s.worth(pod.kin, nil))
	}
}

// took counts a pod of the run.
func (r *run) took(slot int32) {
	for _, d := range r.dims {
		d.shift(slot, d.own)
	}
	for _, s := range r.spreads {
		s.shift(slot, s.own)
	}
}

// refused returns the filter that refuses a slot, the first that is asked; nil for none.
func (r *run) refused(n *columns, i int32) *filter {
	if f := ask(r.here, r, n, i); f != nil {
		return f
	}
	return ask(r.afar, r, n, i)
}

func ask(filters []*filter, r *run, n *columns, i int32) *filter {
	for _, f := range filters {
		if f.refuses(r, n, i) {
			return f
		}
	}
	return nil
}

// pick chooses a node for each of n pods of a run, as if it placed them one after the other; took is called with each slot
// in turn and places the pod there, before the next is chosen. It returns how many found a node: the rest find none.
//
// Only the node that took a pod is looked at again: what a pod changes for others, it changes for all nodes of a row alike.
func (p *picker) pick(r *run, pods int, took func(slot int32)) int {
	r.alone = pods == 1
	p.fill(r)
	for done := range pods {
		row := p.best(r)
		if row == nil {
			return done
		}
		top := row.list[0]
		p.columns.next = top.slot + 1
		took(top.slot)
		r.took(top.slot)
		if done == pods-1 {
			break
		}
		row.pop()
		if ask(r.here, r, p.columns, top.slot) == nil {
			// It goes behind those that are as good.
			c := candidate{p.score(r, top.slot), top.order + int32(len(p.columns.nodes)), top.slot}
			p.rowOf(r, top.slot).push(c)
		}
	}
	return pods
}

// fill puts the nodes that can take a pod, as far as they know by themselves, into rows. For one pod alone the rows are no heaps: only their first candidate is in its place.
func (p *picker) fill(r *run) {
	n := p.columns
	consider := func(i int32) {
		if ask(r.here, r, n, i) != nil {
			return
		}
		row := p.rowOf(r, i)
		if row.closed {
			return
		}
		order := i - n.next
		if order < 0 {
			order += int32(len(n.nodes))
		}
		row.list = append(row.list, candidate{p.score(r, i), order, i})
		if last := len(row.list) - 1; r.alone && row.list[last].before(row.list[0]) {
			row.list[0], row.list[last] = row.list[last], row.list[0]
		}
	}
	if r.class.only != nil {
		for _, name := range r.class.only {
			if i, ok := n.slots[name]; ok {
				consider(i)
			}
		}
	} else {
		for i, node := range n.nodes {
			if node != nil {
				consider(int32(i))
			}
		}
	}
	if !r.alone {
		for _, row := range r.rows {
			for i := len(row.list)/2 - 1; i >= 0; i-- {
				row.sink(i)
			}
		}
	}
}

// score is the part of a slot's score that depends on itself alone.
func (p *picker) score(r *run, i int32) float64 {
	var sum float64
	for _, s := range r.scores {
		sum += s.weight * s.of(r, p.columns, i)
	}
	return sum
}

// rowOf returns the row that a slot belongs to.
func (p *picker) rowOf(r *run, i int32) *row {
	if !r.varied && len(r.rows) > 0 {
		return r.rows[0]
	}
	var key uint64
	if r.varied {
		key = r.key(p.columns, i)
	}
	recent := &r.recent[key%uint64(len(r.recent))]
	if recent.key == key && recent.row != nil {
		return recent.row
	}
	recent.key, recent.row = key, p.rowFor(r, key, i)
	return recent.row
}

// rowFor returns the row of a slot's key, which may be a new one.
func (p *picker) rowFor(r *run, key uint64, i int32) *row {
	if row := r.byKey[key]; row != nil {
		return row
	}
	var fresh *row
	if last := len(p.spare) - 1; last >= 0 {
		fresh = p.spare[last]
		p.spare = p.spare[:last]
		fresh.list = fresh.list[:0]
	} else {
		fresh = &row{}
	}
	if r.byKey == nil {
		r.byKey = map[uint64]*row{}
	}
	fresh.closed = r.alone && ask(r.afar, r, p.columns, i) != nil
	r.byKey[key] = fresh
	r.rows = append(r.rows, fresh)
	return fresh
}

// key mixes all that tells the slots of one row from those of others. (64 bits: that two of at most some thousand rows
// fall together does not happen.)
func (r *run) key(n *columns, i int32) uint64 {
	key := mix(math.Float64bits(r.class.verdicts[n.taint[i]].soft))
	if r.class.prefer != nil {
		key = mix(key ^ math.Float64bits(r.class.prefer[i]))
	}
	for _, d := range r.dims {
		key = mix(key ^ d.sign(i))
	}
	for _, s := range r.spreads {
		key = mix(key ^ s.sign(i))
	}
	return key
}

// mix scatters a number over 64 bits; the constants are those of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// best returns the row whose first candidate is the best node for the next pod, nil when no node takes it.
func (p *picker) best(r *run) *row {
	n := p.columns
	open := p.open[:0]
	for _, row := range r.rows {
		if len(row.list) > 0 && ask(r.afar, r, n, row.list[0].slot) == nil {
			open = append(open, row)
		}
	}
	p.open = open
	if len(open) < 2 || len(r.ranked) == 0 {
		return first(open)
	}
	if len(r.soft) > 0 {
		r.weigh(open)
	}
	var least, most [maxRanked]float64
	for s, score := range r.ranked {
		least[s], most[s] = math.Inf(1), math.Inf(-1)
		for _, row := range open {
			raw := score.of(r, n, row.list[0].slot)
			if row.raw[s] = raw; !math.IsNaN(raw) {
				least[s], most[s] = min(least[s], raw), max(most[s], raw)
			}
		}
	}
	var found *row
	var top candidate
	for _, row := range open {
		c := row.list[0]
		for s, score := range r.ranked {
			if !math.IsNaN(row.raw[s]) {
				c.score += score.weight * score.rank(row.raw[s], least[s], most[s])
			}
		}
		if found == nil || c.before(top) {
			found, top = row, c
		}
	}
	return found
}

// first returns the row with the best candidate, where nothing else is to be compared.
func first(rows []*row) (found *row) {
	for _, row := range rows {
		if found == nil || row.list[0].before(found.list[0]) {
			found = row
		}
	}
	return found
}

func (w *row) pop() {
	last := len(w.list) - 1
	w.list[0] = w.list[last]
	w.list = w.list[:last]
	w.sink(0)
}

func (w *row) push(c candidate) {
	w.list = append(w.list, c)
	for i := len(w.list) - 1; i > 0; {
		parent := (i - 1) / 2
		if !w.list[i].before(w.list[parent]) {
			return
		}
		w.list[i], w.list[parent] = w.list[parent], w.list[i]
		i = parent
	}
}

// sink restores the heap below i.
func (w *row) sink(i int) {
	for {
		child := 2*i + 1
		if child >= len(w.list) {
			return
		}
		if child+1 < len(w.list) && w.list[child+1].before(w.list[child]) {
			child++
		}
		if !w.list[child].before(w.list[i]) {
			return
		}
		w.list[i], w.list[child] = w.list[child], w.list[i]
		i = child
	}
}
