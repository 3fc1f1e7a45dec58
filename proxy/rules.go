package proxy

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/kebernetes/kebernetes/network/nft"
)

// masqueradeMark is the packet mark between the choice of an endpoint and the change of the source. It is the bit that
// Kubernetes uses for it, so that other software that spares that bit spares ours.
const masqueradeMark = 0x4000

// affinitySize bounds the clients that are remembered at once; those beyond it are balanced without affinity.
const affinitySize = 1 << 18

// The kernel's registers of four bytes each; a field of a key takes as many as it needs.
const reg0 = unix.NFT_REG32_00

// family holds what rules need to know of an address family.
type family struct {
	v6        bool
	suffix    string // of names
	proto     byte   // NFPROTO_*
	addr      nftables.SetDatatype
	words     uint32 // registers that an address takes
	src, dst  uint32 // offsets in the network header
	pods      netip.Prefix
	services  []netip.Prefix
	loopbacks netip.Prefix
}

func families(clusterCIDRs, serviceCIDRs []netip.Prefix) []*family {
	var out []*family
	for _, cidr := range clusterCIDRs {
		f := &family{suffix: "4", proto: unix.NFPROTO_IPV4, addr: nftables.TypeIPAddr, words: 1, src: 12, dst: 16,
			pods: cidr.Masked(), loopbacks: netip.MustParsePrefix("127.0.0.0/8")}
		if cidr.Addr().Is6() {
			f = &family{v6: true, suffix: "6", proto: unix.NFPROTO_IPV6, addr: nftables.TypeIP6Addr, words: 4, src: 8, dst: 24,
				pods: cidr.Masked(), loopbacks: netip.MustParsePrefix("::1/128")}
		}
		for _, s := range serviceCIDRs {
			if s.Addr().Is6() == f.v6 {
				f.services = append(f.services, s.Masked())
			}
		}
		out = append(out, f)
	}
	return out
}

// newSet describes a set of the family for the kernel.
func (f *family) newSet(t *nftables.Table, which set) *nftables.Set {
	// Indices and ids are declared as what a packet's priority is, where they pass through. The nft command knows no plain numbers
	// within keys of several fields, and ends at the sight.
	proto, port, index := nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeClassID
	frontend := []nftables.SetDatatype{f.addr, proto, port}
	// The id tells sets of one transaction apart. The library would take it from a counter that several proxies raced for.
	id := uint32(which) + 1
	if f.v6 {
		id += uint32(setCount)
	}
	s := &nftables.Set{Table: t, ID: id, Name: which.String() + f.suffix, KeyByteOrder: binaryutil.BigEndian}
	var key []nftables.SetDatatype
	switch which {
	case setServices, setOutside, setUnserved:
		key, s.IsMap, s.DataType = frontend, true, index
	case setPorts, setOutsidePorts, setUnservedPorts:
		key, s.IsMap, s.DataType = frontend[1:], true, index
	case setWays, setFates:
		key, s.IsMap, s.DataType = []nftables.SetDatatype{index}, true, nftables.TypeVerdict
	case setEndpoints:
		key, s.IsMap, s.DataType = append(frontend, index), true, nftables.MustConcatSetType(f.addr, port)
	case setIDs:
		key, s.IsMap, s.DataType = append(frontend, index), true, index
	case setClusterIPs:
		key = frontend[:1]
	case setHairpins:
		key = []nftables.SetDatatype{f.addr, f.addr}
	case setRestricted:
		key = frontend
	case setAllowed:
		key, s.Interval = append(frontend, f.addr), true
	case setAffinity:
		key = append([]nftables.SetDatatype{f.addr}, frontend...)
		s.IsMap, s.DataType = true, index
		s.HasTimeout, s.Dynamic, s.Size = true, true, affinitySize
	}
	if len(key) == 1 {
		s.KeyType = key[0]
	} else {
		s.KeyType, s.Concatenation = nftables.MustConcatSetType(key...), true
	}
	return s
}

// loadKey loads address . protocol . port of the packet's destination into registers from reg on, and returns the next one.
func (f *family) loadKey(reg uint32, anyAddr bool) ([]expr.Any, uint32) {
	var out []expr.Any
	if anyAddr {
		out = append(out, &expr.Immediate{Register: reg, Data: make([]byte, 4*f.words)})
	} else {
		out = append(out, f.load(reg, f.dst))
	}
	rest, next := loadPort(reg + f.words)
	return append(out, rest...), next
}

// loadPort loads protocol . port of the packet's destination.
func loadPort(reg uint32) ([]expr.Any, uint32) {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Payload{DestRegister: reg + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}, reg + 2
}

func (f *family) load(reg, offset uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4 * f.words}
}

// within matches an address of the packet against a prefix.
func (f *family) within(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := make([]byte, 4*f.words)
	for bit := range p.Bits() {
		mask[bit/8] |= 1 << (7 - bit%8)
	}
	return []expr.Any{
		f.load(reg0, offset),
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4 * f.words, Mask: mask, Xor: make([]byte, 4*f.words)},
		&expr.Cmp{Op: op, Register: reg0, Data: p.Masked().Addr().AsSlice()},
	}
}

// member matches an address of the packet, or two, against a set.
func (f *family) member(which set, not bool, offsets ...uint32) []expr.Any {
	var out []expr.Any
	for i, offset := range offsets {
		out = append(out, f.load(reg0+uint32(i)*f.words, offset))
	}
	return append(out, &expr.Lookup{SourceRegister: reg0, SetName: which.String() + f.suffix, Invert: not})
}

// dispatch goes the way that a map holds for the packet's destination; verdicts is setWays or setFates. The nft command understands no
// lookup that depends on another, and ends at the sight; so the way takes the packet's priority for a moment. It is the first packet of
// a connection, and the rule that sends it on clears the priority.
func (f *family) dispatch(which set, portOnly bool, verdicts set) []expr.Any {
	load, _ := f.loadKey(reg0, false)
	if portOnly {
		load, _ = loadPort(reg0)
	}
	return append(load,
		&expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetName: which.String() + f.suffix},
		setPriority(reg0), getPriority(reg0),
		&expr.Lookup{SourceRegister: reg0, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: verdicts.String() + f.suffix})
}

func getPriority(reg uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyPRIORITY, Register: reg} }

func setPriority(reg uint32) expr.Any {
	return &expr.Meta{Key: expr.MetaKeyPRIORITY, Register: reg, SourceRegister: true}
}

// toLocal matches packets to an address of this node.
func toLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg0, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: nft.Native32(unix.RTN_LOCAL)},
	}
}

func isFamily(proto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg0}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{proto}}}
}

// newConnection matches packets that begin a connection.
func newConnection() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg0},
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: nft.Native32(expr.CtStateBitNEW), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)},
	}
}

func interfaceIs(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	return []expr.Any{&expr.Meta{Key: key, Register: reg0}, &expr.Cmp{Op: op, Register: reg0, Data: data}}
}

func jump(to string) expr.Any { return &expr.Verdict{Kind: expr.VerdictJump, Chain: to} }

func drop() expr.Any { return &expr.Verdict{Kind: expr.VerdictDrop} }

// mark marks the packet for masquerade; keep and add are the bits of its mark that stay and that come.
func mark(keep, add uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg0},
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: nft.Native32(keep), Xor: nft.Native32(add)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg0, SourceRegister: true},
	}
}

func rule(parts ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func one(e ...expr.Any) []expr.Any { return e }

// endpointRules returns the rules of a chain that sends connections to one of n endpoints.
func (f *family) endpointRules(c chain) [][]expr.Any {
	var rules [][]expr.Any
	switch c.masquerade {
	case masqueradeOffCluster:
		rules = append(rules, rule(f.within(f.src, f.pods, expr.CmpOpNeq), mark(^uint32(masqueradeMark), masqueradeMark)))
	case masqueradeAlways:
		rules = append(rules, mark(^uint32(masqueradeMark), masqueradeMark))
	case masqueradeLoopback:
		rules = append(rules, rule(f.within(f.src, f.loopbacks, expr.CmpOpEq), mark(^uint32(masqueradeMark), masqueradeMark)))
	}
	if c.affinity > 0 {
		rules = append(rules, f.affinityRules(c)...)
	}
	load, index := f.loadKey(reg0, c.anyAddr)
	send := f.send()
	rules = append(rules, rule(load, one(c.choose(index)), send))
	if c.n > 1 {
		// A transaction that takes endpoints away may come between the choice and the lookup. The first endpoint is the last to go.
		rules = append(rules, rule(load, one(c.first(index)), send))
	}
	return rules
}

// send changes the destination to the endpoint whose key is loaded, and clears the priority, which passed numbers on.
func (f *family) send() []expr.Any {
	zero := reg0 + f.words + 1 // behind the endpoint's address and port
	return one(
		&expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetName: setEndpoints.String() + f.suffix},
		&expr.Immediate{Register: zero, Data: nft.Native32(0)}, setPriority(zero),
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto), RegAddrMin: reg0, RegProtoMin: reg0 + f.words, Specified: true})
}

// choose loads the index of one of the chain's endpoints, by chance.
func (c chain) choose(reg uint32) expr.Any {
	if c.n == 1 {
		return c.first(reg)
	}
	offset := uint32(0)
	if c.outside {
		offset = outsideIndex
	}
	return &expr.Numgen{Register: reg, Modulus: uint32(c.n), Type: unix.NFT_NG_RANDOM, Offset: offset}
}

func (c chain) first(reg uint32) expr.Any {
	index := uint32(0)
	if c.outside {
		index = outsideIndex
	}
	return &expr.Immediate{Register: reg, Data: nft.Native32(index)}
}

// affinityRules returns the rules that send a client to its endpoint, or choose one and remember it. Ids pass from rule to
// rule in the packet's priority, as ways do.
func (f *family) affinityRules(c chain) [][]expr.Any {
	client := func() ([]expr.Any, uint32) { // client's address . address . protocol . port
		load, next := f.loadKey(reg0+f.words, c.anyAddr)
		return append(one(f.load(reg0, f.src)), load...), next
	}
	lookup := func(which set) expr.Any {
		return &expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetName: which.String() + f.suffix}
	}
	remember := func(operation uint32) []expr.Any {
		load, next := client()
		return append(load, getPriority(next),
			&expr.Dynset{SrcRegKey: reg0, SrcRegData: next, SetName: setAffinity.String() + f.suffix, Operation: operation, Timeout: c.affinity})
	}
	load, index := f.loadKey(reg0, c.anyAddr)
	loadClient, _ := client()
	once := [][]expr.Any{
		rule(load, one(c.choose(index), lookup(setIDs), setPriority(reg0))), // the id to remember, if need be
		remember(unix.NFT_DYNSET_OP_UPDATE),                                 // of a client that is known only the time changes
		rule(loadClient, one(lookup(setAffinity), setPriority(reg0))),
		rule(load, one(getPriority(index)), f.send()),
	}
	// The endpoint that the client is remembered by is gone: forget it and try again. Where there is no room to remember
	// more clients, that comes to nothing, and the connection goes anywhere.
	return slices.Concat(once, [][]expr.Any{remember(dynsetDelete)}, once)
}

// dynsetDelete is NFT_DYNSET_OP_DELETE, which x/sys/unix lacks.
const dynsetDelete = 2
