package proxy

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// endpoint is one address and port that serves a service port, as the slices tell it.
type endpoint struct {
	netip.AddrPort
	local       bool // on this node
	nodeless    bool // on no node that the slice names
	ready       bool
	serving     bool
	terminating bool
	hints       *discoveryv1.EndpointHints
}

// endpointsOf returns the endpoints of one service port in one address family, ordered by address and port. An endpoint that
// stands in several slices counts once; the slice that says ready wins, as a pod that moves between slices is in both for a while.
func endpointsOf(slicesOf []*discoveryv1.EndpointSlice, v6 bool, port *corev1.ServicePort, node Node) []endpoint {
	family := discoveryv1.AddressTypeIPv4
	if v6 {
		family = discoveryv1.AddressTypeIPv6
	}
	var out []endpoint
	for _, slice := range slicesOf {
		if slice.AddressType != family {
			continue
		}
		for i := range slice.Ports {
			p := &slice.Ports[i]
			if deref(p.Port, 0) != 0 && deref(p.Name, "") == port.Name && deref(p.Protocol, corev1.ProtocolTCP) == protocolOf(port) {
				out = appendEndpoints(out, slice, v6, uint16(*p.Port), node)
			}
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Port(), b.Port()), -compareBool(a.ready, b.ready), -compareBool(a.serving, b.serving))
	})
	return slices.CompactFunc(out, func(a, b endpoint) bool { return a.AddrPort == b.AddrPort })
}

// appendEndpoints appends the endpoints of a slice at one of its ports. Only the first address of each counts, says the API.
func appendEndpoints(out []endpoint, slice *discoveryv1.EndpointSlice, v6 bool, port uint16, node Node) []endpoint {
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		if len(e.Addresses) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(e.Addresses[0])
		if err != nil || addr.Is6() != v6 {
			continue
		}
		ready := deref(e.Conditions.Ready, true)
		out = append(out, endpoint{
			AddrPort:    netip.AddrPortFrom(addr, port),
			local:       deref(e.NodeName, "") == node.Name,
			nodeless:    e.NodeName == nil,
			ready:       ready,
			serving:     deref(e.Conditions.Serving, ready),
			terminating: deref(e.Conditions.Terminating, false),
			hints:       e.Hints,
		})
	}
	return out
}

// usable returns the endpoints that shall get traffic: the ready ones, or, when there are none, those that still serve while they
// terminate, as a request is better served late than refused.
func usable(all []endpoint) []endpoint {
	ready := filter(all, func(e endpoint) bool { return e.ready })
	if len(ready) > 0 {
		return ready
	}
	return filter(all, func(e endpoint) bool { return e.serving && e.terminating })
}

func localOnly(all []endpoint) []endpoint {
	return filter(all, func(e endpoint) bool { return e.local })
}

// localReady counts the addresses of ready endpoints on this node.
func localReady(slicesOf []*discoveryv1.EndpointSlice, node Node) int {
	seen := map[string]bool{}
	for _, slice := range slicesOf {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if e.NodeName != nil && *e.NodeName == node.Name && deref(e.Conditions.Ready, true) && len(e.Addresses) > 0 {
				seen[e.Addresses[0]] = true
			}
		}
	}
	return len(seen)
}

// near narrows usable endpoints down to those that their hints give to this node, or else to its zone. Hints hold
// only if every endpoint has one and at least one of them leads here: half a hint must not leave us with nothing.
func near(ready []endpoint, node Node) []endpoint {
	forNode := func(e endpoint) bool {
		return e.hints != nil && slices.ContainsFunc(e.hints.ForNodes, func(h discoveryv1.ForNode) bool { return h.Name == node.Name })
	}
	hasNode := func(e endpoint) bool { return e.hints != nil && len(e.hints.ForNodes) > 0 }
	if all(ready, hasNode) && slices.ContainsFunc(ready, forNode) {
		return filter(ready, forNode)
	}
	forZone := func(e endpoint) bool {
		return e.hints != nil && slices.ContainsFunc(e.hints.ForZones, func(h discoveryv1.ForZone) bool { return h.Name == node.Zone })
	}
	hasZone := func(e endpoint) bool { return e.hints != nil && len(e.hints.ForZones) > 0 }
	if node.Zone != "" && all(ready, hasZone) && slices.ContainsFunc(ready, forZone) {
		return filter(ready, forZone)
	}
	return ready
}

func addrPorts(endpoints []endpoint) []netip.AddrPort {
	out := make([]netip.AddrPort, len(endpoints))
	for i, e := range endpoints {
		out[i] = e.AddrPort
	}
	return out
}

func filter(in []endpoint, keep func(endpoint) bool) []endpoint {
	var out []endpoint
	for _, e := range in {
		if keep(e) {
			out = append(out, e)
		}
	}
	return out
}

func all(in []endpoint, holds func(endpoint) bool) bool {
	return !slices.ContainsFunc(in, func(e endpoint) bool { return !holds(e) })
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
