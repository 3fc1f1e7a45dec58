package proxy

import (
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// owner is whose plan it is.
type owner struct {
	types.NamespacedName
	pod bool // a pod's host ports; else a service
}

// table is the wanted state of the kernel's table. It is pure: changes come out as a batch. For one goroutine at a time.
type table struct {
	plans map[owner]plan
	// claims lists, for each frontend, who wants it. The first one has it; the others wait until it lets go. Cluster IPs
	// have one owner each, but host ports, node ports, external and balancer addresses may clash.
	claims map[frontendKey][]owner
	// shared counts who wants an element that belongs to no frontend, and chains how many elements lead to a chain.
	shared map[elementID]int
	chains map[chain]int
}

func newTable() *table {
	return &table{plans: map[owner]plan{}, claims: map[frontendKey][]owner{}, shared: map[elementID]int{}, chains: map[chain]int{}}
}

// change is what becomes of one element: nil before means that it is not there, nil after that it shall not be.
type change struct{ before, after *elementValue }

// batch gathers the net changes of several updates, to be one transaction.
type batch struct {
	elements map[elementID]change
	// newChains are to be made before the elements change, oldChains to be removed after it.
	newChains, oldChains []chain
	// serving is by how much the number of plans changes in which an endpoint's address gets new connections.
	serving map[netip.Addr]int
	// health has the health checks that change, before and after.
	health map[types.NamespacedName][2]healthCheck
	// gone are the UDP endpoints that frontends have lost.
	gone map[flow]bool
}

// flow is the traffic from a UDP frontend to one endpoint.
type flow struct {
	frontend frontendKey
	endpoint netip.AddrPort
}

func newBatch() *batch {
	return &batch{elements: map[elementID]change{}, serving: map[netip.Addr]int{}, gone: map[flow]bool{},
		health: map[types.NamespacedName][2]healthCheck{}}
}

// set records that an element has the value from now on; nil removes it. before is its value until now.
func (b *batch) set(id elementID, before, after *elementValue) {
	if c, ok := b.elements[id]; ok {
		before = c.before
	}
	b.elements[id] = change{before, after}
}

// update replaces the plan of an owner; an empty one forgets it.
func (t *table) update(b *batch, who owner, next plan) {
	prev := t.plans[who]
	settle(&prev, &next)
	if len(next.frontends) == 0 && len(next.clusterIPs) == 0 {
		delete(t.plans, who)
	} else {
		t.plans[who] = next
	}
	wanted := make(map[frontendKey]*frontend, len(next.frontends))
	for i := range next.frontends {
		wanted[next.frontends[i].frontendKey] = &next.frontends[i]
	}
	had := make(map[frontendKey]bool, len(prev.frontends))
	for i := range prev.frontends {
		f := &prev.frontends[i]
		had[f.frontendKey] = true
		if t.claims[f.frontendKey][0] == who {
			b.replace(f, wanted[f.frontendKey])
		}
		if wanted[f.frontendKey] == nil {
			t.letGo(b, who, f.frontendKey)
		}
	}
	for key, f := range wanted {
		if had[key] {
			continue
		}
		t.claims[key] = append(t.claims[key], who)
		if len(t.claims[key]) == 1 {
			b.replace(nil, f)
		}
	}
	for _, e := range planElements(&prev) {
		if t.shared[e.elementID]--; t.shared[e.elementID] == 0 {
			delete(t.shared, e.elementID)
			b.set(e.elementID, &elementValue{}, nil)
		}
	}
	for _, e := range planElements(&next) {
		if t.shared[e.elementID]++; t.shared[e.elementID] == 1 {
			b.set(e.elementID, nil, &elementValue{})
		}
	}
	if prev.health != next.health {
		b.health[who.NamespacedName] = [2]healthCheck{prev.health, next.health}
	}
	for _, addr := range prev.serving {
		b.serving[addr]--
	}
	for _, addr := range next.serving {
		b.serving[addr]++
	}
}

// letGo gives up the claim of an owner; if it had the frontend, the next in line gets it.
func (t *table) letGo(b *batch, who owner, key frontendKey) {
	claims := t.claims[key]
	held := claims[0] == who
	claims = slices.DeleteFunc(slices.Clone(claims), func(o owner) bool { return o == who })
	if len(claims) == 0 {
		delete(t.claims, key)
		return
	}
	t.claims[key] = claims
	if !held {
		return
	}
	heir := t.plans[claims[0]]
	for i := range heir.frontends {
		if heir.frontends[i].frontendKey == key {
			b.replace(nil, &heir.frontends[i])
			return
		}
	}
}

// replace changes the elements of a frontend; either may be nil.
func (b *batch) replace(prev, next *frontend) {
	before := map[elementID]elementValue{}
	if prev != nil {
		for _, e := range prev.elements() {
			before[e.elementID] = e.elementValue
		}
		b.noteGone(prev, next)
	}
	if next != nil {
		for _, e := range next.elements() {
			value := e.elementValue
			old, ok := before[e.elementID]
			delete(before, e.elementID)
			switch {
			case !ok:
				b.set(e.elementID, nil, &value)
			case old != value:
				b.set(e.elementID, &old, &value)
			}
		}
	}
	for id, old := range before {
		b.set(id, &old, nil)
	}
}

// noteGone records the UDP endpoints that next no longer has. The kernel would keep on sending known clients there.
func (b *batch) noteGone(prev, next *frontend) {
	if prev.proto != unix.IPPROTO_UDP {
		return
	}
	still := map[netip.AddrPort]bool{}
	if next != nil {
		for _, r := range next.routes() {
			for _, e := range r.endpoints {
				still[e] = true
			}
		}
	}
	for _, r := range prev.routes() {
		for _, e := range r.endpoints {
			if !still[e] {
				b.gone[flow{prev.frontendKey, e}] = true
			}
		}
	}
}

func (f *frontend) routes() []*route {
	if f.outside != nil {
		return []*route{&f.inside, f.outside}
	}
	return []*route{&f.inside}
}

// settle gives the endpoints of next the places that they have in prev, so that few elements change.
func settle(prev, next *plan) {
	if len(prev.frontends) == 0 {
		return
	}
	before := make(map[frontendKey]*frontend, len(prev.frontends))
	for i := range prev.frontends {
		before[prev.frontends[i].frontendKey] = &prev.frontends[i]
	}
	for i := range next.frontends {
		f := &next.frontends[i]
		old := before[f.frontendKey]
		if old == nil {
			continue
		}
		f.inside.endpoints = arrange(old.inside.endpoints, f.inside.endpoints)
		if old.outside != nil && f.outside != nil {
			outside := *f.outside // shared by the frontends of a port
			outside.endpoints = arrange(old.outside.endpoints, outside.endpoints)
			f.outside = &outside
		}
	}
}

// arrange returns next in an order in which as many as possible keep the index that they have in prev.
func arrange(prev, next []netip.AddrPort) []netip.AddrPort {
	if slices.Equal(prev, next) {
		return prev
	}
	fresh := make(map[netip.AddrPort]bool, len(next))
	for _, e := range next {
		fresh[e] = true
	}
	out := make([]netip.AddrPort, len(next))
	for i, e := range prev {
		if i < len(out) && fresh[e] {
			out[i] = e
			delete(fresh, e)
		}
	}
	i := 0
	for _, e := range next {
		if !fresh[e] {
			continue
		}
		for out[i].IsValid() {
			i++
		}
		out[i] = e
	}
	return out
}

// seal drops what comes to nothing and works out the chains. The batch is complete then.
func (t *table) seal(b *batch) {
	uses := map[chain]int{}
	for id, c := range b.elements {
		if c.before == nil && c.after == nil || c.before != nil && c.after != nil && *c.before == *c.after {
			delete(b.elements, id)
			continue
		}
		if c.before != nil && c.before.way.chain.n > 0 {
			uses[c.before.way.chain]--
		}
		if c.after != nil && c.after.way.chain.n > 0 {
			uses[c.after.way.chain]++
		}
	}
	for to, delta := range uses {
		before := t.chains[to]
		t.chains[to] += delta
		switch {
		case before == 0 && delta > 0:
			b.newChains = append(b.newChains, to)
		case before > 0 && t.chains[to] == 0:
			b.oldChains = append(b.oldChains, to)
		}
		if t.chains[to] == 0 {
			delete(t.chains, to)
		}
	}
	maps.DeleteFunc(b.serving, func(_ netip.Addr, delta int) bool { return delta == 0 })
}

// size is at most how many elements and other messages a transaction with the batch has.
func (b *batch) size() (elements, messages int) {
	return 2 * len(b.elements), 2*int(setCount) + 16*(len(b.newChains)+len(b.oldChains))
}

// empty says whether the kernel need not hear of the batch.
func (b *batch) empty() bool {
	return len(b.elements) == 0 && len(b.newChains) == 0 && len(b.oldChains) == 0
}
