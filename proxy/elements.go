package proxy

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/kebernetes/kebernetes/network/nft"
)

// set names one of the table's sets and maps; each exists once per address family.
type set uint8

const (
	setServices      set = iota // address . protocol . port → way
	setPorts                    // protocol . port of any address of the node → way
	setOutside                  // as setServices, for connections from outside of the cluster
	setOutsidePorts             // as setPorts, likewise
	setWays                     // way → verdict, for the maps above
	setEndpoints                // address . protocol . port . index or id → address . port
	setIDs                      // address . protocol . port . index → id, where clients are remembered
	setUnserved                 // address . protocol . port → way, where no endpoint is
	setUnservedPorts            // protocol . port → way
	setFates                    // way → verdict, for the maps above
	setClusterIPs               // address
	setHairpins                 // address . the same address
	setRestricted               // address . protocol . port with source ranges
	setAllowed                  // address . protocol . port . source range
	setAffinity                 // source address . address . protocol . port → id; the kernel itself fills it
	setCount
)

func (s set) String() string {
	return [...]string{"services", "ports", "outside", "outside-ports", "ways", "endpoints", "ids", "unserved", "unserved-ports", "fates",
		"cluster-ips", "hairpins", "restricted", "allowed", "affinity"}[s]
}

// elementID names one element of the table. key is in the kernel's form: fields of a multiple of four bytes, in network order.
type elementID struct {
	set set
	v6  bool
	key string
}

// elementValue is what an element holds besides its key. The zero value is a member of a plain set.
type elementValue struct {
	data   string // of endpoints and ids
	way    way    // of the maps to ways
	keyEnd string // the end of a range, inclusive
}

// way is what becomes of a connection: a chain for endpoints, or, when that is the zero chain, a verdict.
//
// Frontends lead to a way, and a small map to its verdict, rather than to the verdict at once: the kernel checks all elements of a
// verdict map for loops whenever one of them changes, which takes two milliseconds for 10,000 services.
type way struct {
	chain chain
	code  verdict
}

// verdict is a way's code when it has no chain.
type verdict uint8

const (
	verdictAccept verdict = iota + 1 // no change of address: what follows decides
	verdictReject
	verdictDrop
)

type element struct {
	elementID
	elementValue
}

// chain names a chain that sends a connection to one of n endpoints: all frontends alike share it.
type chain struct {
	n          int
	v6         bool
	anyAddr    bool // frontends of any address of the node
	outside    bool // endpoints of the outside route
	masquerade masquerade
	affinity   time.Duration
}

// String is the chain's name in the kernel.
func (c chain) String() string {
	var b strings.Builder
	b.WriteString("one-of-")
	fmt.Fprintf(&b, "%d", c.n)
	for _, part := range []struct {
		on   bool
		name string
	}{
		{c.v6, "-v6"}, {c.anyAddr, "-port"}, {c.outside, "-outside"},
		{c.masquerade == masqueradeOffCluster, "-masq-offcluster"},
		{c.masquerade == masqueradeAlways, "-masq"},
		{c.masquerade == masqueradeLoopback, "-masq-loopback"},
	} {
		if part.on {
			b.WriteString(part.name)
		}
	}
	if c.affinity > 0 {
		fmt.Fprintf(&b, "-affinity-%ds", c.affinity/time.Second)
	}
	return b.String()
}

// outsideIndex is where the indices of the outside route's endpoints start, in the one map of endpoints, and so how many
// endpoints a frontend can have; more of them get no connections.
const outsideIndex = 1<<16 - 1

// elements returns all elements of a frontend.
func (f *frontend) elements() []element {
	ids := f.ids()
	out := f.routeElements(nil, &f.inside, false, ids)
	if f.outside != nil {
		out = f.routeElements(out, f.outside, true, ids)
	}
	if f.sources != nil {
		out = append(out, element{elementID: elementID{setRestricted, f.v6, f.key()}})
		for _, source := range f.sources {
			first, last := prefixRange(source)
			out = append(out, element{elementID{setAllowed, f.v6, f.key() + first}, elementValue{keyEnd: f.key() + last}})
		}
	}
	return out
}

func (f *frontend) routeElements(out []element, r *route, outside bool, ids map[netip.AddrPort]string) []element {
	verdicts, unserved, first := setServices, setUnserved, uint32(0)
	switch {
	case outside && f.addr.IsValid():
		verdicts = setOutside
	case outside:
		verdicts = setOutsidePorts
	case !f.addr.IsValid():
		verdicts = setPorts
	}
	if !f.addr.IsValid() {
		unserved = setUnservedPorts
	}
	if outside {
		first = outsideIndex
	}
	if len(r.endpoints) == 0 {
		code := verdictReject
		if r.drop {
			code = verdictDrop
		}
		if !outside || len(f.inside.endpoints) > 0 { // else the inside's element is there
			out = append(out, element{elementID{unserved, f.v6, f.key()}, elementValue{way: way{code: code}}})
		}
		if outside {
			// Or else the connection would go the inside's way.
			out = append(out, element{elementID{verdicts, f.v6, f.key()}, elementValue{way: way{code: verdictAccept}}})
		}
		return out
	}
	inside := map[netip.AddrPort]bool{}
	if outside && f.affinity > 0 {
		for _, e := range f.inside.endpoints {
			inside[e] = true
		}
	}
	endpoints := r.endpoints[:min(len(r.endpoints), outsideIndex)]
	to := chain{n: len(endpoints), v6: f.v6, anyAddr: !f.addr.IsValid(), outside: outside, masquerade: r.masquerade, affinity: f.affinity}
	out = append(out, element{elementID{verdicts, f.v6, f.key()}, elementValue{way: way{chain: to}}})
	for i, e := range endpoints {
		out = append(out, element{
			elementID{setEndpoints, f.v6, f.fullKey() + string(nft.Native32(first+uint32(i)))},
			elementValue{data: addrPortKey(e)}})
		if f.affinity == 0 {
			continue
		}
		id := ids[e]
		out = append(out, element{elementID{setIDs, f.v6, f.fullKey() + string(nft.Native32(first+uint32(i)))}, elementValue{data: id}})
		if !outside || !inside[e] { // which both routes share
			out = append(out, element{elementID{setEndpoints, f.v6, f.fullKey() + id}, elementValue{data: addrPortKey(e)}})
		}
	}
	return out
}

// ids numbers the endpoints that clients are remembered by, in the kernel's form; nil without affinity. A number depends on the
// endpoint alone, so that it outlives changes of its index and restarts, unless two come to the same: then the later one takes
// the next.
func (f *frontend) ids() map[netip.AddrPort]string {
	if f.affinity == 0 {
		return nil
	}
	var all []netip.AddrPort
	for _, r := range f.routes() {
		all = append(all, r.endpoints...)
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	out, taken := make(map[netip.AddrPort]string, len(all)), make(map[uint32]bool, len(all))
	for _, e := range slices.Compact(all) {
		h := fnv.New32a()
		h.Write([]byte(addrPortKey(e)))
		id := h.Sum32() | 1<<31 // beyond all indices
		for taken[id] {
			id = (id + 1) | 1<<31
		}
		taken[id] = true
		out[e] = string(nft.Native32(id))
	}
	return out
}

// key is the frontend's key in verdict maps: without the address where any of the node's will do.
func (k *frontendKey) key() string {
	if !k.addr.IsValid() {
		return k.portKey()
	}
	return addrKey(k.addr) + k.portKey()
}

// fullKey is the key in the map of endpoints, where the address of a frontend without one is zero.
func (k *frontendKey) fullKey() string {
	addr := k.addr
	if !addr.IsValid() {
		addr = netip.IPv4Unspecified()
		if k.v6 {
			addr = netip.IPv6Unspecified()
		}
	}
	return addrKey(addr) + k.portKey()
}

func (k *frontendKey) portKey() string {
	return string([]byte{k.proto, 0, 0, 0, byte(k.port >> 8), byte(k.port), 0, 0})
}

func addrKey(addr netip.Addr) string {
	if addr.Is4() {
		b := addr.As4()
		return string(b[:])
	}
	b := addr.As16()
	return string(b[:])
}

func addrPortKey(a netip.AddrPort) string {
	return addrKey(a.Addr()) + string([]byte{byte(a.Port() >> 8), byte(a.Port()), 0, 0})
}

// prefixRange returns the first and the last address of a prefix, as keys.
func prefixRange(p netip.Prefix) (first, last string) {
	end := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(end)*8; bit++ {
		end[bit/8] |= 1 << (7 - bit%8)
	}
	return addrKey(p.Masked().Addr()), string(end)
}

// planElements returns the elements of a plan that belong to no frontend, each of which several plans may want.
func planElements(p *plan) []element {
	var out []element
	for _, addr := range p.clusterIPs {
		out = append(out, element{elementID: elementID{setClusterIPs, addr.Is6(), addrKey(addr)}})
	}
	for _, addr := range p.hairpins {
		out = append(out, element{elementID: elementID{setHairpins, addr.Is6(), addrKey(addr) + addrKey(addr)}})
	}
	return out
}
