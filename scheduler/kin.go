package scheduler

import (
	"encoding/binary"
	"maps"
	"slices"
	"sort"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// spots counts something on the slots that have any of it.
type spots struct {
	at map[int32]int32 // place in on
	on []slotCount
}

type slotCount struct{ slot, count int32 }

func (s *spots) add(slot, by int32) {
	at, ok := s.at[slot]
	if !ok {
		if s.at == nil {
			s.at = map[int32]int32{}
		}
		at = int32(len(s.on))
		s.at[slot] = at
		s.on = append(s.on, slotCount{slot: slot})
	}
	if s.on[at].count += by; s.on[at].count != 0 {
		return
	}
	last := len(s.on) - 1
	s.on[at] = s.on[last]
	s.at[s.on[at].slot] = at
	s.on = s.on[:last]
	delete(s.at, slot)
}

// kin are pods that no selector can tell apart: those with equal labels in one namespace, with the dying apart from the living.
type kin struct {
	key       string
	namespace string
	labels    labels.Set
	dying     bool

	here spots
	// members are the peers that it is part of.
	members []*peers
	// about are the rules of other pods that speak of it, of those up to ruled.
	about []*rule
	ruled uint64
	// served is what the Services that select it select by, as of an epoch of them; see Scheduler.servedBy.
	served      map[string]string
	servedEpoch uint64
}

// kinOf returns the kin of a pod.
func (c *columns) kinOf(p *corev1.Pod) *kin {
	b := append(c.buf[:0], p.Namespace...)
	b = append(b, 0)
	if p.DeletionTimestamp != nil {
		b = append(b, 1)
	}
	c.words = c.words[:0]
	for k := range p.Labels {
		c.words = append(c.words, k)
	}
	sort.Strings(c.words)
	for _, k := range c.words {
		b = appendText(appendText(b, k), p.Labels[k])
	}
	c.buf = b
	if k := c.kins[string(b)]; k != nil {
		return k
	}
	return c.adopt(&kin{key: string(b), namespace: p.Namespace, labels: p.Labels, dying: p.DeletionTimestamp != nil})
}

// appendText appends a text with its length before it, so that no two rows of texts are the same.
func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// mostIdle is how many kins without a pod on any node are kept.
const mostIdle = 4096

// adopt returns the kin of the same key that is known, which k becomes when there is none.
func (c *columns) adopt(k *kin) *kin {
	if known := c.kins[k.key]; known != nil {
		return known
	}
	if len(c.kins) > len(c.placed)+mostIdle {
		maps.DeleteFunc(c.kins, func(_ string, k *kin) bool { return len(k.here.on) == 0 })
	}
	k.members, k.about, k.ruled = nil, nil, 0
	for _, p := range c.peers {
		if p.matches(c, k) {
			k.members = append(k.members, p)
		}
	}
	c.kins[k.key] = k
	return k
}

// term says which pods a rule speaks of: those whose labels a selector matches, in some namespaces.
type term struct {
	key        string
	namespaces []string
	// within, when not nil, adds all namespaces with labels that it matches.
	within   labels.Selector
	selector labels.Selector
}

// termOf reads a term of a pod in a namespace. What does not parse, which validation refuses, matches nothing.
func termOf(namespace string, t *corev1.PodAffinityTerm) *term {
	out := &term{namespaces: t.Namespaces, selector: selectorOf(t.LabelSelector)}
	switch {
	case t.NamespaceSelector != nil:
		out.within = selectorOf(t.NamespaceSelector)
	case len(t.Namespaces) == 0:
		out.namespaces = []string{namespace}
	}
	key := appendText(nil, out.selector.String())
	if r, some := out.selector.Requirements(); len(r) == 0 && !some {
		key = append(key, '-') // matches nothing, where no requirements match all
	}
	if out.within != nil {
		key = appendText(append(key, '*'), out.within.String())
	}
	for _, n := range slices.Sorted(slices.Values(out.namespaces)) {
		key = appendText(key, n)
	}
	out.key = string(key)
	return out
}

// selectorOf reads a selector of the API; none, and one that does not parse, matches nothing.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

func (t *term) matches(c *columns, k *kin) bool {
	if !slices.Contains(t.namespaces, k.namespace) && (t.within == nil || !t.within.Matches(c.namespaces[k.namespace])) {
		return false
	}
	return t.selector.Matches(k.labels)
}

// peers are the pods that all of some terms speak of, counted where they are.
type peers struct {
	terms []*term
	// living leaves the dying out.
	living bool
	spots
}

func (p *peers) matches(c *columns, k *kin) bool {
	if p.living && k.dying {
		return false
	}
	for _, t := range p.terms {
		if !t.matches(c, k) {
			return false
		}
	}
	return true
}

// mostPeers bounds the peers that are counted; when there are more, those that are still asked for come again.
const mostPeers = 4096

// peersOf returns the pods that all of some terms speak of, counted from now on.
func (c *columns) peersOf(terms []*term, living bool) *peers {
	b := c.buf[:0]
	if living {
		b = append(b, 1)
	}
	for _, t := range terms {
		b = appendText(b, t.key)
	}
	c.buf = b
	if p := c.peers[string(b)]; p != nil {
		return p
	}
	if len(c.peers) >= mostPeers {
		c.forgetPeers()
	}
	p := &peers{terms: terms, living: living}
	c.peers[string(b)] = p
	for _, k := range c.kins {
		if !p.matches(c, k) {
			continue
		}
		k.members = append(k.members, p)
		for _, on := range k.here.on {
			p.add(on.slot, on.count)
		}
	}
	return p
}

func (c *columns) forgetPeers() {
	clear(c.peers)
	for _, k := range c.kins {
		k.members = nil
	}
}

// setNamespace takes in the labels of a namespace; nil when it is gone. It tells whether they are other than before.
func (c *columns) setNamespace(name string, set map[string]string) bool {
	if maps.Equal(c.namespaces[name], set) {
		return false
	}
	if c.namespaces[name] = set; set == nil {
		delete(c.namespaces, name)
	}
	c.forgetPeers()
	for _, k := range c.kins {
		k.about, k.ruled = nil, 0
	}
	return true
}

// rule is an affinity as those meet it that it speaks of: it is counted where the pods are that have it.
type rule struct {
	key    string
	number uint64 // in order of appearance
	term   *term
	// topology is the label whose values are the domains.
	topology string
	// apart: the required anti-affinity of a pod keeps others away. Without, weight is what it is worth to them to be near, or far if negative.
	apart   bool
	weight  int32
	holders int
	spots
}

// hold returns the rules that a class's pods have, with one more holder each.
func (c *columns) hold(wanted []rule) []*rule {
	if len(wanted) == 0 {
		return nil
	}
	out := make([]*rule, len(wanted))
	for i := range wanted {
		r := c.rules[wanted[i].key]
		if r == nil {
			c.lastRule++
			w := wanted[i]
			r = &rule{key: w.key, number: c.lastRule, term: w.term, topology: w.topology, apart: w.apart, weight: w.weight}
			c.rules[r.key] = r
			c.byAge = append(c.byAge, r)
		}
		r.holders++
		out[i] = r
	}
	return out
}

// release takes a holder off each of the rules.
func (c *columns) release(rules []*rule) {
	for _, r := range rules {
		if r.holders--; r.holders == 0 {
			delete(c.rules, r.key)
			c.dead++
		}
	}
	if c.dead > len(c.byAge)/2 {
		c.byAge = slices.DeleteFunc(c.byAge, func(r *rule) bool { return r.holders == 0 })
		c.dead = 0
	}
}

// rulesAbout returns the rules of other pods that speak of a kin.
func (c *columns) rulesAbout(k *kin) []*rule {
	k.about = slices.DeleteFunc(k.about, func(r *rule) bool { return r.holders == 0 })
	fresh := sort.Search(len(c.byAge), func(i int) bool { return c.byAge[i].number > k.ruled })
	for _, r := range c.byAge[fresh:] {
		if r.holders > 0 && r.term.matches(c, k) {
			k.about = append(k.about, r)
		}
	}
	k.ruled = c.lastRule
	return k.about
}
