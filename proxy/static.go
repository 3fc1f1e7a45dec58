package proxy

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/kebernetes/kebernetes/network/nft"
)

// staticChain is a chain whose rules depend on no service.
type staticChain struct {
	*nftables.Chain
	rules [][]expr.Any
}

// rejectChain is where verdict maps send connections that shall fail at once.
const rejectChain = "reject"

// staticChains returns the part of the table that never changes, chains before those that lead to them.
func staticChains(t *nftables.Table, families []*family, bridge string) []staticChain {
	chains := []staticChain{{&nftables.Chain{Table: t, Name: rejectChain}, [][]expr.Any{
		one(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}),
		one(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}),
	}}}
	for _, f := range families {
		for name, rules := range f.chains() {
			chains = append(chains, staticChain{&nftables.Chain{Table: t, Name: name + f.suffix}, rules})
		}
	}
	return append(chains, baseChains(t, families, bridge)...)
}

// chains returns the chains of one family that base chains jump to. None of them leads to another.
func (f *family) chains() map[string][][]expr.Any {
	// Ports of any address of the node do not answer on loopback, where the source could not be told from the node's own,
	// nor on a cluster IP that the node itself serves.
	anyAddr := rule(toLocal(), f.within(f.dst, f.loopbacks, expr.CmpOpNeq), f.member(setClusterIPs, true, f.dst))
	allowed, next := f.loadKey(reg0, false)
	allowed = append(allowed, f.load(next, f.src), &expr.Lookup{SourceRegister: reg0, SetName: setAllowed.String() + f.suffix, Invert: true})
	restricted, _ := f.loadKey(reg0, false)
	restricted = append(restricted, &expr.Lookup{SourceRegister: reg0, SetName: setRestricted.String() + f.suffix})
	clusterIPs := [][]expr.Any{rule(f.member(setClusterIPs, false, f.dst), one(&expr.Verdict{Kind: expr.VerdictGoto, Chain: rejectChain}))}
	for _, cidr := range f.services {
		clusterIPs = append(clusterIPs, rule(f.within(f.dst, cidr, expr.CmpOpEq), one(drop())))
	}
	// A lookup that began before a transaction and ends after it may find neither the old element nor the new one. One that
	// begins anew finds the new one, so that each is made twice before a packet goes on as if it were for no service.
	toService, toPort := f.dispatch(setServices, false, setWays), rule(anyAddr, f.dispatch(setPorts, true, setWays))
	return map[string][][]expr.Any{
		"services-":    {toService, toService, toPort, toPort},
		"outside-":     {f.dispatch(setOutside, false, setWays), rule(anyAddr, f.dispatch(setOutsidePorts, true, setWays))},
		"unserved-":    {f.dispatch(setUnserved, false, setFates), rule(anyAddr, f.dispatch(setUnservedPorts, true, setFates))},
		"firewall-":    {rule(restricted, allowed, one(drop()))},
		"cluster-ips-": clusterIPs,
	}
}

// baseChains returns the chains that the kernel calls, in the order in which packets meet them.
func baseChains(t *nftables.Table, families []*family, bridge string) []staticChain {
	base := func(name string, typ nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority, rules ...[]expr.Any) staticChain {
		return staticChain{&nftables.Chain{Table: t, Name: name, Type: typ, Hooknum: hook, Priority: &priority}, rules}
	}
	const beforeNAT = -110
	nat := *nftables.ChainPriorityNATDest
	var firewall, prerouting, output, postrouting, input, forward, filterOutput [][]expr.Any
	leaves := interfaceIs(expr.MetaKeyOIFNAME, expr.CmpOpNeq, "lo")
	postrouting = append(postrouting, rule(
		one(&expr.Meta{Key: expr.MetaKeyMARK, Register: reg0},
			&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: nft.Native32(masqueradeMark), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)}),
		mark(^uint32(masqueradeMark), 0), one(&expr.Masq{FullyRandom: true})))
	for _, f := range families {
		is := isFamily(f.proto)
		firewall = append(firewall, rule(newConnection(), is, one(jump("firewall-"+f.suffix))))
		prerouting = append(prerouting,
			rule(is, f.within(f.src, f.pods, expr.CmpOpNeq), one(jump("outside-"+f.suffix))),
			rule(is, one(jump("services-"+f.suffix))))
		output = append(output, rule(is, one(jump("services-"+f.suffix))))
		postrouting = append(postrouting,
			// A pod that reaches itself by way of a service must not see its own address as the client's.
			rule(is, f.member(setHairpins, false, f.src, f.dst), one(&expr.Masq{FullyRandom: true})),
			// Nobody outside of the cluster can answer a pod's own address.
			rule(is, f.within(f.src, f.pods, expr.CmpOpEq), f.within(f.dst, f.pods, expr.CmpOpNeq),
				interfaceIs(expr.MetaKeyOIFNAME, expr.CmpOpNeq, bridge), one(&expr.Masq{FullyRandom: true})))
		input = append(input, rule(newConnection(), is, f.member(setClusterIPs, true, f.dst), one(jump("unserved-"+f.suffix))))
		forward = append(forward, rule(newConnection(), is, one(jump("unserved-"+f.suffix))), rule(newConnection(), is, one(jump("cluster-ips-"+f.suffix))))
		filterOutput = append(filterOutput,
			rule(leaves, newConnection(), is, one(jump("unserved-"+f.suffix))), rule(leaves, newConnection(), is, one(jump("cluster-ips-"+f.suffix))))
	}
	return []staticChain{
		base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw, guard(families, bridge)...),
		base("firewall-prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, beforeNAT, firewall...),
		base("firewall-output", nftables.ChainTypeFilter, nftables.ChainHookOutput, beforeNAT, firewall...),
		base("nat-prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nat, prerouting...),
		base("nat-output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nat, output...),
		base("filter-input", nftables.ChainTypeFilter, nftables.ChainHookInput, *nftables.ChainPriorityFilter, input...),
		base("filter-forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter, forward...),
		base("filter-output", nftables.ChainTypeFilter, nftables.ChainHookOutput, *nftables.ChainPriorityFilter, filterOutput...),
		base("nat-postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource, postrouting...),
	}
}

// guard returns the rules that keep pods from the node's loopback. The bridge lets such packets in (route_localnet) for the sake
// of host ports on 127.0.0.1, and pods that may send raw packets would reach what listens there alone.
func guard(families []*family, bridge string) [][]expr.Any {
	var rules [][]expr.Any
	for _, f := range families {
		if f.v6 {
			continue // the kernel itself drops ::1 from the wire
		}
		from := rule(isFamily(f.proto), interfaceIs(expr.MetaKeyIIFNAME, expr.CmpOpEq, bridge))
		rules = append(rules,
			rule(from, f.within(f.src, f.loopbacks, expr.CmpOpEq), one(drop())),
			rule(from, f.within(f.dst, f.loopbacks, expr.CmpOpEq), one(drop())))
	}
	return rules
}
