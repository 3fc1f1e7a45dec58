package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/kebernetes/kebernetes/network/nft"
)

// kernel writes the table. For one goroutine at a time.
type kernel struct {
	*nft.Table
	families []*family
	setID    uint32
}

// family holds what rules need to know of an address family.
type family struct {
	v6       bool
	suffix   string // of names
	proto    byte   // NFPROTO_*
	addr     nftables.SetDatatype
	bytes    int    // that an address takes
	src, dst uint32 // offsets in the network header
}

func families(clusterCIDRs []netip.Prefix) []*family {
	var out []*family
	for _, cidr := range clusterCIDRs {
		if cidr.Addr().Is6() {
			out = append(out, &family{v6: true, suffix: "-6", proto: unix.NFPROTO_IPV6, addr: nftables.TypeIP6Addr, bytes: 16, src: 8, dst: 24})
		} else {
			out = append(out, &family{suffix: "-4", proto: unix.NFPROTO_IPV4, addr: nftables.TypeIPAddr, bytes: 4, src: 12, dst: 16})
		}
	}
	return out
}

// Names of what the table always has, for each family.
const (
	mapIn     = "in"     // address of a pod of this node → the chain for traffic to it
	mapOut    = "out"    // likewise, for traffic from it
	setItself = "itself" // address . the same address, of isolated pods
)

// reg0 is the first of the kernel's registers of four bytes; a field of a key takes as many as it needs.
const reg0 = unix.NFT_REG32_00

// load replaces whatever the table holds, in one transaction.
func (k *kernel) load(c *changes) error {
	elements, messages := c.size()
	conn, err := k.Connect(elements, messages+64)
	if err != nil {
		return err
	}
	k.Empty(conn)
	for _, f := range k.families {
		for _, name := range []string{mapIn, mapOut, setItself} {
			if err := conn.AddSet(k.staticSet(f, name), nil); err != nil {
				return fmt.Errorf("set %s%s: %w", name, f.suffix, err)
			}
		}
	}
	if err := errors.Join(k.addSets(conn, c), k.addChains(conn, c), k.changeEnds(conn, c)); err != nil {
		return err
	}
	priority := *nftables.ChainPriorityFilter
	accept := nftables.ChainPolicyAccept
	forward := &nftables.Chain{Table: k.Table.Table, Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: &priority, Policy: &accept}
	conn.AddChain(forward)
	for _, r := range k.forward() {
		conn.AddRule(&nftables.Rule{Table: k.Table.Table, Chain: forward, Exprs: r})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("load nftables table %s: %w", k.Name, err)
	}
	return nil
}

// apply carries changes out: in one transaction what comes, and in a second one what leads there and what goes. Packets under way
// while a transaction comes into force may find an address's element before they see the rules of its chain.
func (k *kernel) apply(c *changes) error {
	conn, err := k.Connect(c.size())
	if err != nil {
		return err
	}
	if err := errors.Join(k.addSets(conn, c), k.addChains(conn, c)); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("change nftables table %s: %w", k.Name, err)
	}
	if err := k.changeEnds(conn, c); err != nil {
		return err
	}
	for name := range c.oldChains {
		conn.DelChain(&nftables.Chain{Table: k.Table.Table, Name: name})
	}
	for _, s := range c.oldSets {
		for _, f := range k.of(s) {
			conn.DelSet(k.newSet(f, s))
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("change nftables table %s: %w", k.Name, err)
	}
	return nil
}

// of lists the families that a set exists in; ports have none.
func (k *kernel) of(s *set) []*family {
	if s.kind == setPorts {
		return []*family{nil}
	}
	return k.families
}

// nextID tells sets of one transaction apart. The library would take it from a counter that several users raced for.
func (k *kernel) nextID() uint32 {
	k.setID++
	return k.setID
}

func (k *kernel) staticSet(f *family, name string) *nftables.Set {
	s := &nftables.Set{Table: k.Table.Table, ID: k.nextID(), Name: name + f.suffix, KeyType: f.addr, KeyByteOrder: binaryutil.BigEndian}
	if name == setItself {
		s.KeyType, s.Concatenation = nftables.MustConcatSetType(f.addr, f.addr), true
	} else {
		s.IsMap, s.DataType = true, nftables.TypeVerdict
	}
	return s
}

func setName(f *family, name string) string {
	if f == nil {
		return name
	}
	return name + f.suffix
}

// newSet describes a set of a family for the kernel.
func (k *kernel) newSet(f *family, s *set) *nftables.Set {
	out := &nftables.Set{Table: k.Table.Table, ID: k.nextID(), Name: setName(f, s.name), KeyByteOrder: binaryutil.BigEndian}
	switch s.kind {
	case setPeers:
		out.KeyType = f.addr
	case setNamed:
		out.KeyType, out.Concatenation = nftables.MustConcatSetType(f.addr, nftables.TypeInetProto, nftables.TypeInetService), true
	case setBlocks:
		out.KeyType, out.Interval = f.addr, true
	case setPorts:
		out.KeyType, out.Concatenation, out.Interval = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService), true, true
	}
	return out
}

// wire are the elements of a family in the kernel's form.
func (s *set) wire(f *family, elements []element) []nftables.SetElement {
	out := make([]nftables.SetElement, 0, len(elements))
	for _, e := range elements {
		switch s.kind {
		case setPorts:
			out = append(out, nftables.SetElement{Key: []byte(e.key), KeyEnd: []byte(e.end)})
		case setBlocks:
			if len(e.key) != f.bytes {
				continue
			}
			out = append(out, nftables.SetElement{Key: []byte(e.key)})
			// The kernel wants to know where a range ends by the first address behind it.
			if last, _ := netip.AddrFromSlice([]byte(e.end)); last.Next().IsValid() {
				out = append(out, nftables.SetElement{Key: last.Next().AsSlice(), IntervalEnd: true})
			}
		case setNamed:
			if len(e.key) == f.bytes+8 {
				out = append(out, nftables.SetElement{Key: []byte(e.key)})
			}
		case setPeers:
			if len(e.key) == f.bytes {
				out = append(out, nftables.SetElement{Key: []byte(e.key)})
			}
		}
	}
	return out
}

// addSets queues new sets, and the elements that come and go.
func (k *kernel) addSets(conn *nftables.Conn, c *changes) error {
	fresh := map[string]*set{}
	for _, s := range c.newSets {
		fresh[s.name] = s
		for _, f := range k.of(s) {
			wire := k.newSet(f, s)
			if err := conn.AddSet(wire, nil); err != nil {
				return fmt.Errorf("set %s: %w", wire.Name, err)
			}
			if err := nft.InChunks(wire, s.wire(f, c.newElements[s.name]), conn.SetAddElements); err != nil {
				return err
			}
		}
	}
	for name, elements := range c.oldElements {
		if err := k.eachPart(name, elements, conn.SetDeleteElements); err != nil {
			return err
		}
	}
	for name, elements := range c.newElements {
		if fresh[name] == nil {
			if err := k.eachPart(name, elements, conn.SetAddElements); err != nil {
				return err
			}
		}
	}
	return nil
}

// eachPart calls f for elements of a set that pods contribute to, in portions of one message.
func (k *kernel) eachPart(name string, elements []element, f func(*nftables.Set, []nftables.SetElement) error) error {
	kind := setPeers
	if name[0] == setNamed.String()[0] {
		kind = setNamed
	}
	s := &set{name: name, kind: kind}
	for _, family := range k.families {
		if err := nft.InChunks(k.newSet(family, s), s.wire(family, elements), f); err != nil {
			return err
		}
	}
	return nil
}

// addChains queues new chains: what a rule lets pass returns, and the rest is dropped.
func (k *kernel) addChains(conn *nftables.Conn, c *changes) error {
	for name, chain := range c.newChains {
		wire := &nftables.Chain{Table: k.Table.Table, Name: name}
		conn.AddChain(wire)
		for _, r := range chain.rules {
			for _, f := range k.inFamilies(r) {
				conn.AddRule(&nftables.Rule{Table: k.Table.Table, Chain: wire, Exprs: f.match(r, chain.in)})
			}
		}
		conn.AddRule(&nftables.Rule{Table: k.Table.Table, Chain: wire, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
	}
	return nil
}

// inFamilies lists the families that a rule must be written for; without addresses once is enough.
func (k *kernel) inFamilies(r rule) []*family {
	if cmp.Or(r.peers, r.blocks, r.named) == "" {
		return []*family{nil}
	}
	return k.families
}

// changeEnds queues what the addresses of this node's pods lead to, removals before additions, as a changed element is both.
func (k *kernel) changeEnds(conn *nftables.Conn, c *changes) error {
	for _, step := range []struct {
		ends map[netip.Addr]ends
		do   func(*nftables.Set, []nftables.SetElement) error
	}{{c.oldEnds, conn.SetDeleteElements}, {c.newEnds, conn.SetAddElements}} {
		for _, f := range k.families {
			var in, out, itself []nftables.SetElement
			for addr, e := range step.ends {
				key := addr.AsSlice()
				if len(key) != f.bytes {
					continue
				}
				if e.in != "" {
					in = append(in, nftables.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: e.in}})
				}
				if e.out != "" {
					out = append(out, nftables.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: e.out}})
				}
				itself = append(itself, nftables.SetElement{Key: append(key, key...)})
			}
			for name, elements := range map[string][]nftables.SetElement{mapIn: in, mapOut: out, setItself: itself} {
				if err := nft.InChunks(k.staticSet(f, name), elements, step.do); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// forward returns the rules that all packets between pods, and between pods and others than the node, pass.
func (k *kernel) forward() [][]expr.Any {
	rules := [][]expr.Any{{
		// Connections that were let in go on, answers and errors included.
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg0},
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: nft.Native32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}}
	for _, f := range k.families {
		rules = append(rules, append(f.is(),
			// A pod reaches itself, by way of a service as well.
			f.load(reg0, f.src), f.load(reg0+uint32(f.bytes/4), f.dst), lookup(setItself+f.suffix),
			&expr.Verdict{Kind: expr.VerdictAccept}))
		dispatch := func(name string, offset uint32) []expr.Any {
			return append(f.is(), f.load(reg0, offset),
				&expr.Lookup{SourceRegister: reg0, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: name + f.suffix})
		}
		out, in := dispatch(mapOut, f.src), dispatch(mapIn, f.dst)
		// A lookup that begins before a transaction and ends after it may find neither the old element nor the new one. One that
		// begins anew finds the new one, so that each is made twice before a packet passes as if it were of no isolated pod.
		rules = append(rules, out, out, in, in)
	}
	return rules
}

// match returns what a rule is in the kernel: all of its sets, then return. A nil family is for rules without addresses.
func (f *family) match(r rule, in bool) []expr.Any {
	var out []expr.Any
	if f != nil {
		out = append(out, f.is()...)
		other := f.dst
		if in {
			other = f.src
		}
		for _, name := range []string{r.peers, r.blocks} {
			if name != "" {
				out = append(out, f.load(reg0, other), lookup(name+f.suffix))
			}
		}
		if r.named != "" {
			next := reg0 + uint32(f.bytes/4)
			out = append(append(append(out, f.load(reg0, f.dst)), loadPort(next)...), lookup(r.named+f.suffix))
		}
	}
	if r.ports != "" {
		out = append(append(out, loadPort(reg0)...), lookup(r.ports))
	}
	return append(out, &expr.Verdict{Kind: expr.VerdictReturn})
}

// is matches packets of the family.
func (f *family) is() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg0}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{f.proto}}}
}

func (f *family) load(reg, offset uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(f.bytes)}
}

// loadPort loads protocol . port of the packet's destination.
func loadPort(reg uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Payload{DestRegister: reg + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

func lookup(name string) expr.Any { return &expr.Lookup{SourceRegister: reg0, SetName: name} }
