package scheduler

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// bitset has a bit for each slot.
type bitset []uint64

func newBitset(slots int) bitset { return make(bitset, (slots+63)/64) }

func (b bitset) set(i int32)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) clear(i int32)    { b[i/64] &^= 1 << (i % 64) }
func (b bitset) has(i int32) bool { return b[i/64]&(1<<(i%64)) != 0 }

func (b bitset) invert() {
	for w := range b {
		b[w] = ^b[w]
	}
}

func (b bitset) and(o bitset) {
	for w := range b {
		b[w] &= o[w]
	}
}

func (b bitset) or(o bitset) {
	for w := range b {
		b[w] |= o[w]
	}
}

// labelIndex lists the slots that have each label, so that a selector is answered for all nodes at once, at the cost of its matches.
type labelIndex struct {
	slots map[string]map[string][]int32 // key, value
	// epoch changes with every change of any node's labels, or of the nodes.
	epoch uint64
}

func (x *labelIndex) add(i int32, labels map[string]string) {
	x.epoch++
	for k, v := range labels {
		if x.slots[k] == nil {
			x.slots[k] = map[string][]int32{}
		}
		x.slots[k][v] = append(x.slots[k][v], i)
	}
}

func (x *labelIndex) remove(i int32, labels map[string]string) {
	x.epoch++
	for k, v := range labels {
		at := slices.Index(x.slots[k][v], i)
		x.slots[k][v] = slices.Delete(x.slots[k][v], at, at+1)
		if len(x.slots[k][v]) == 0 {
			delete(x.slots[k], v)
		}
		if len(x.slots[k]) == 0 {
			delete(x.slots, k)
		}
	}
}

// matching returns the slots whose labels meet a requirement.
func (c *columns) matching(r *corev1.NodeSelectorRequirement) bitset {
	out := newBitset(len(c.nodes))
	take := func(slots []int32) {
		for _, i := range slots {
			out.set(i)
		}
	}
	values := c.labels.slots[r.Key]
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		for _, v := range r.Values {
			take(values[v])
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		for _, slots := range values {
			take(slots)
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		for v, slots := range values {
			if len(r.Values) == 1 && compares(v, r.Operator, r.Values[0]) {
				take(slots)
			}
		}
	}
	if r.Operator == corev1.NodeSelectorOpNotIn || r.Operator == corev1.NodeSelectorOpDoesNotExist {
		out.invert()
	}
	return out
}

// compares tells whether a label's value is greater or less than a bound; both must be integers.
func compares(value string, op corev1.NodeSelectorOperator, bound string) bool {
	v, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return false
	}
	b, err := strconv.ParseInt(bound, 10, 64)
	if err != nil {
		return false
	}
	return op == corev1.NodeSelectorOpGt && v > b || op == corev1.NodeSelectorOpLt && v < b
}

// named returns the slots whose node's name meets a requirement; the name is the only field there is.
func (c *columns) named(r *corev1.NodeSelectorRequirement) bitset {
	out := newBitset(len(c.nodes))
	if r.Key != metav1.ObjectNameField {
		return out
	}
	for _, name := range r.Values {
		if i, ok := c.slots[name]; ok {
			out.set(i)
		}
	}
	if r.Operator == corev1.NodeSelectorOpNotIn {
		out.invert()
	}
	return out
}

// term returns the slots that meet all of a term; a term without requirements is met by none.
func (c *columns) term(t *corev1.NodeSelectorTerm) bitset {
	out := newBitset(len(c.nodes))
	if len(t.MatchExpressions)+len(t.MatchFields) == 0 {
		return out
	}
	out.invert()
	for r := range t.MatchExpressions {
		out.and(c.matching(&t.MatchExpressions[r]))
	}
	for r := range t.MatchFields {
		out.and(c.named(&t.MatchFields[r]))
	}
	return out
}

// admitted returns the slots that a pod's node selector and required affinity admit.
func (c *columns) admitted(selector map[string]string, required *corev1.NodeSelector) bitset {
	out := newBitset(len(c.nodes))
	if required == nil {
		out.invert()
	} else {
		for t := range required.NodeSelectorTerms {
			out.or(c.term(&required.NodeSelectorTerms[t]))
		}
	}
	for k, v := range selector {
		out.and(c.matching(&corev1.NodeSelectorRequirement{Key: k, Operator: corev1.NodeSelectorOpIn, Values: []string{v}}))
	}
	return out
}
