package policy

import (
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// model is what the table of this node holds, and all that it depends on. Its update methods take one change each and note in a
// batch what the table must change; a model that was built from nothing comes to the same state.
type model struct {
	pods       map[string]map[types.NamespacedName]*pod // by namespace
	namespaces map[string]labels.Set
	policies   map[string]map[string]*policy // by namespace and name

	sets   map[string]*liveSet
	chains map[string]*liveChain
	// subjects are the pods of this node, ends what their addresses lead to. Of several pods that claim an address, as may be for a
	// moment when one is gone and its address is another's, the last one of owners has it.
	subjects map[types.NamespacedName]subject
	ends     map[netip.Addr]ends
	owners   map[netip.Addr][]types.NamespacedName
}

func newModel() *model {
	return &model{
		pods: map[string]map[types.NamespacedName]*pod{}, namespaces: map[string]labels.Set{}, policies: map[string]map[string]*policy{},
		sets: map[string]*liveSet{}, chains: map[string]*liveChain{},
		subjects: map[types.NamespacedName]subject{}, ends: map[netip.Addr]ends{}, owners: map[netip.Addr][]types.NamespacedName{},
	}
}

// liveSet is a set that a chain in use names.
type liveSet struct {
	*set
	users int // chains
	by    map[types.NamespacedName][]element
	count map[element]int // how many pods contribute it
}

// liveChain is a chain that pods of this node are under.
type liveChain struct {
	in    bool
	rules []rule
	users int // pods
}

// ends are the chains that traffic to and from an address passes; "" where it is not isolated.
type ends struct{ in, out string }

type subject struct {
	addrs []netip.Addr
	ends  ends
}

// batch collects what changes: of each thing touched, what it was before.
type batch struct {
	sets     map[string]*set // nil: there was none
	elements map[membership]bool
	chains   map[string]*liveChain
	ends     map[netip.Addr]ends
}

type membership struct {
	set string
	element
}

func newBatch() *batch {
	return &batch{sets: map[string]*set{}, elements: map[membership]bool{}, chains: map[string]*liveChain{}, ends: map[netip.Addr]ends{}}
}

// touch notes what a thing was before its first change.
func touch[K comparable, V any](m map[K]V, key K, before V) {
	if _, known := m[key]; !known {
		m[key] = before
	}
}

// updatePod takes a pod's new state, nil when it is gone.
func (m *model) updatePod(b *batch, key types.NamespacedName, p *pod) {
	old := m.pods[key.Namespace][key]
	if old.equal(p) {
		return
	}
	if p == nil {
		delete(m.pods[key.Namespace], key)
		if len(m.pods[key.Namespace]) == 0 {
			delete(m.pods, key.Namespace)
		}
	} else {
		if m.pods[key.Namespace] == nil {
			m.pods[key.Namespace] = map[types.NamespacedName]*pod{}
		}
		m.pods[key.Namespace][key] = p
	}
	for _, s := range m.sets {
		if s.fixed == nil {
			m.contribute(b, s, key, s.elements(p, m.namespaces[key.Namespace]))
		}
	}
	m.judge(b, key, p)
}

// updateNamespace takes a namespace's new labels, nil when it is gone.
func (m *model) updateNamespace(b *batch, name string, l labels.Set) {
	if maps.Equal(m.namespaces[name], l) {
		return
	}
	if l == nil {
		delete(m.namespaces, name)
	} else {
		m.namespaces[name] = l
	}
	for _, s := range m.sets {
		if s.fixed != nil || s.selector.namespaces == nil {
			continue
		}
		for key, p := range m.pods[name] {
			m.contribute(b, s, key, s.elements(p, l))
		}
	}
}

// updatePolicy takes a policy's new state, nil when it is gone.
func (m *model) updatePolicy(b *batch, key types.NamespacedName, p *policy) {
	old := m.policies[key.Namespace][key.Name]
	if p == nil {
		delete(m.policies[key.Namespace], key.Name)
		if len(m.policies[key.Namespace]) == 0 {
			delete(m.policies, key.Namespace)
		}
	} else {
		if m.policies[key.Namespace] == nil {
			m.policies[key.Namespace] = map[string]*policy{}
		}
		m.policies[key.Namespace][key.Name] = p
	}
	for name, pod := range m.pods[key.Namespace] {
		if pod.local && (old != nil && old.subjects.matches(pod, nil) || p != nil && p.subjects.matches(pod, nil)) {
			m.judge(b, name, pod)
		}
	}
}

// contribute replaces what a pod contributes to a set.
func (m *model) contribute(b *batch, s *liveSet, key types.NamespacedName, elements []element) {
	old := s.by[key]
	if slices.Equal(old, elements) {
		return
	}
	if len(elements) == 0 {
		delete(s.by, key)
	} else {
		s.by[key] = elements
	}
	for _, e := range elements {
		touch(b.elements, membership{s.name, e}, s.count[e] > 0)
		s.count[e]++
	}
	for _, e := range old {
		touch(b.elements, membership{s.name, e}, s.count[e] > 0)
		if s.count[e]--; s.count[e] == 0 {
			delete(s.count, e)
		}
	}
}

// judge finds the chains of a pod of this node, or forgets one that is gone.
func (m *model) judge(b *batch, key types.NamespacedName, p *pod) {
	old, was := m.subjects[key]
	if p == nil || !p.local {
		if was {
			delete(m.subjects, key)
			m.place(b, key, old, subject{})
		}
		return
	}
	next := subject{addrs: p.addrs}
	var in, out []rule
	sets := map[string]*set{}
	isolated := ends{}
	for _, policy := range m.policies[key.Namespace] {
		if !policy.subjects.matches(p, nil) {
			continue
		}
		if policy.in {
			isolated.in, in = "in", append(in, policy.ingress...)
		}
		if policy.out {
			isolated.out, out = "out", append(out, policy.egress...)
		}
		maps.Copy(sets, policy.sets)
	}
	if isolated.in != "" {
		next.ends.in = m.use(b, true, in, sets)
	}
	if isolated.out != "" {
		next.ends.out = m.use(b, false, out, sets)
	}
	m.subjects[key] = next
	m.place(b, key, old, next)
}

// place leads the addresses of a pod to its chains, and lets those go that it was under before.
func (m *model) place(b *batch, key types.NamespacedName, old, next subject) {
	for _, addr := range old.addrs {
		if !slices.Contains(next.addrs, addr) {
			m.owners[addr] = slices.DeleteFunc(m.owners[addr], func(owner types.NamespacedName) bool { return owner == key })
			m.lead(b, addr)
		}
	}
	for _, addr := range next.addrs {
		if !slices.Contains(m.owners[addr], key) {
			m.owners[addr] = append(m.owners[addr], key)
		}
		m.lead(b, addr)
	}
	m.leave(b, old.ends.in)
	m.leave(b, old.ends.out)
}

// lead makes an address lead to the chains of the pod that has it.
func (m *model) lead(b *batch, addr netip.Addr) {
	var next ends
	if owners := m.owners[addr]; len(owners) > 0 {
		next = m.subjects[owners[len(owners)-1]].ends
	} else {
		delete(m.owners, addr)
	}
	if m.ends[addr] == next {
		return
	}
	touch(b.ends, addr, m.ends[addr])
	if next == (ends{}) {
		delete(m.ends, addr)
	} else {
		m.ends[addr] = next
	}
}

// use counts a user of the chain for these rules, and makes it with all its sets when it is the first.
func (m *model) use(b *batch, in bool, rules []rule, sets map[string]*set) string {
	slices.SortFunc(rules, compareRules)
	rules = slices.Compact(rules)
	name := chainName(in, rules)
	c := m.chains[name]
	if c == nil {
		c = &liveChain{in: in, rules: rules}
		touch(b.chains, name, nil)
		m.chains[name] = c
		for _, r := range rules {
			for _, s := range r.sets() {
				m.useSet(b, sets[s])
			}
		}
	}
	c.users++
	return name
}

// leave undoes use; "" is no chain.
func (m *model) leave(b *batch, name string) {
	c := m.chains[name]
	if c == nil {
		return
	}
	if c.users--; c.users > 0 {
		return
	}
	touch(b.chains, name, c)
	delete(m.chains, name)
	for _, r := range c.rules {
		for _, s := range r.sets() {
			m.leaveSet(b, m.sets[s])
		}
	}
}

// sets are the names of the rule's sets.
func (r rule) sets() []string {
	return slices.DeleteFunc([]string{r.peers, r.blocks, r.named, r.ports}, func(s string) bool { return s == "" })
}

func (m *model) useSet(b *batch, s *set) {
	live := m.sets[s.name]
	if live == nil {
		live = &liveSet{set: s, by: map[types.NamespacedName][]element{}, count: map[element]int{}}
		touch(b.sets, s.name, nil)
		m.sets[s.name] = live
		for _, e := range s.fixed {
			touch(b.elements, membership{s.name, e}, false)
			live.count[e]++
		}
		if s.fixed == nil {
			m.fill(b, live)
		}
	}
	live.users++
}

// fill lets all pods contribute to a new set.
func (m *model) fill(b *batch, s *liveSet) {
	if s.selector.namespaces == nil {
		for key, p := range m.pods[s.selector.namespace] {
			m.contribute(b, s, key, s.elements(p, nil))
		}
		return
	}
	for name, pods := range m.pods {
		for key, p := range pods {
			m.contribute(b, s, key, s.elements(p, m.namespaces[name]))
		}
	}
}

func (m *model) leaveSet(b *batch, s *liveSet) {
	if s.users--; s.users > 0 {
		return
	}
	touch(b.sets, s.name, s.set)
	for e := range s.count {
		touch(b.elements, membership{s.name, e}, true)
	}
	delete(m.sets, s.name)
}

// changes are what the table must change: sets and chains that come, elements, and those that go.
type changes struct {
	newSets, oldSets     []*set
	newElements          map[string][]element // by set
	oldElements          map[string][]element // of sets that stay
	newChains, oldChains map[string]*liveChain
	newEnds, oldEnds     map[netip.Addr]ends // of an address that changes: both
}

func (c *changes) empty() bool {
	return len(c.newSets)+len(c.oldSets)+len(c.newElements)+len(c.oldElements)+len(c.newChains)+len(c.oldChains)+len(c.newEnds)+len(c.oldEnds) == 0
}

// size is at most how many elements and messages a transaction with the changes has, both families counted.
func (c *changes) size() (elements, messages int) {
	elements = 6 * (len(c.newEnds) + len(c.oldEnds))
	messages = 12 + 4*len(c.newSets) + 2*len(c.oldSets) + len(c.oldChains)
	for _, list := range []map[string][]element{c.newElements, c.oldElements} {
		for _, e := range list {
			elements += 4 * len(e)
			messages += 2
		}
	}
	for _, chain := range c.newChains {
		messages += 2 + 2*len(chain.rules)
	}
	return elements, messages
}

// changes compares what a batch touched with what is there now.
func (m *model) changes(b *batch) *changes {
	c := &changes{newElements: map[string][]element{}, oldElements: map[string][]element{}, newChains: map[string]*liveChain{},
		oldChains: map[string]*liveChain{}, newEnds: map[netip.Addr]ends{}, oldEnds: map[netip.Addr]ends{}}
	for name, before := range b.sets {
		switch now := m.sets[name]; {
		case before == nil && now != nil:
			c.newSets = append(c.newSets, now.set)
		case before != nil && now == nil:
			c.oldSets = append(c.oldSets, before)
		}
	}
	for at, before := range b.elements {
		s := m.sets[at.set]
		now := s != nil && s.count[at.element] > 0
		switch {
		case now && !before:
			c.newElements[at.set] = append(c.newElements[at.set], at.element)
		case before && !now && s != nil:
			c.oldElements[at.set] = append(c.oldElements[at.set], at.element)
		}
	}
	for name, before := range b.chains {
		switch now := m.chains[name]; {
		case before == nil && now != nil:
			c.newChains[name] = now
		case before != nil && now == nil:
			c.oldChains[name] = before
		}
	}
	for addr, before := range b.ends {
		now := m.ends[addr]
		if before == now {
			continue
		}
		if before != (ends{}) {
			c.oldEnds[addr] = before
		}
		if now != (ends{}) {
			c.newEnds[addr] = now
		}
	}
	return c
}

// whole is the changes that make the present state from nothing.
func (m *model) whole() *changes {
	b := newBatch()
	for name, s := range m.sets {
		b.sets[name] = nil
		for e := range s.count {
			b.elements[membership{name, e}] = false
		}
	}
	for name := range m.chains {
		b.chains[name] = nil
	}
	for addr := range m.ends {
		b.ends[addr] = ends{}
	}
	return m.changes(b)
}
