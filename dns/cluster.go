package dns

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	miekg "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
)

// ttl is how many seconds clients may keep answers about the cluster, negative ones too. It is what CoreDNS defaults to.
const ttl = 5

// schemaVersion is that of the specification of DNS-based service discovery that the names follow.
const schemaVersion = "1.1.0"

// zone is the cluster's part of the tree of names. It is pure: it reads the view that it is given.
type zone struct {
	wire   string // the cluster domain
	labels int
	// ranges are those that reverse names are answered for; other addresses are somebody else's.
	ranges []netip.Prefix
	// server is our own address.
	server netip.Addr
}

// view is what a query is answered from.
type view struct {
	snapshot client.Snapshot
	index    *index
}

// outcome says how a query ended.
type outcome struct {
	rcode int
	// soa is the name that the negative answer's SOA record belongs to, as an offset in the question's name; -1 for none.
	soa int
	// notOurs: the name is outside of the cluster.
	notOurs bool
	// chase is an alias's target outside of the cluster, whose records belong to the answer.
	chase string
}

func newZone(domain string, ranges []netip.Prefix, server netip.Addr) (*zone, bool) {
	wire, ok := wireName(domain)
	return &zone{wire: wire, labels: miekg.CountLabel(domain), ranges: ranges, server: server}, ok && len(wire) > 1
}

// contains returns where the zone's own name begins in the query's, -1 when the query is for another zone.
func (z *zone) contains(q *query) int {
	at := q.nameLen - len(z.wire)
	if q.labelNum < z.labels || at < 0 || string(q.name[at:q.nameLen]) != z.wire {
		return -1
	}
	// A label may end like another name, but a length is no letter: compare where labels start.
	if i := q.labelNum - z.labels; int(q.labels[i]) != at {
		return -1
	}
	return at
}

// answer appends the answer to a query for records of owner, which is the query's name as the response shall spell it.
func (z *zone) answer(r *response, v *view, q *query, owner string) outcome {
	at := z.contains(q)
	if at < 0 {
		return z.reverse(r, v, q, owner)
	}
	before := r.counts[answer]
	out := z.forward(r, v, q, owner, q.labelNum-z.labels)
	if out.soa = -1; out.rcode != miekg.RcodeSuccess || r.counts[answer] == before && !r.truncated && out.chase == "" {
		out.soa = at
	}
	return out
}

var nameError = outcome{rcode: miekg.RcodeNameError}

// forward answers a name of n labels below the zone.
func (z *zone) forward(r *response, v *view, q *query, owner string, n int) outcome {
	if n == 0 {
		switch q.qtype {
		case miekg.TypeSOA:
			z.soa(r, answer, owner)
		case miekg.TypeNS:
			r.record(answer, owner, miekg.TypeNS, ttl, z.nameServer(), nil)
		}
		return outcome{}
	}
	top := q.label(n - 1)
	switch {
	case n == 1 && string(top) == "dns-version":
		if q.qtype == miekg.TypeTXT {
			r.record(answer, owner, miekg.TypeTXT, ttl, []byte{byte(len(schemaVersion))}, []byte(schemaVersion))
		}
		return outcome{}
	case string(top) == "dns" && n == 1:
		return outcome{}
	case string(top) == "dns" && n == 2 && string(q.label(0)) == "ns":
		z.address(r, q, owner, z.server)
		return outcome{}
	case string(top) == "svc" && n == 1, string(top) == "pod" && n == 1:
		return outcome{}
	case string(top) == "svc" && n == 2, string(top) == "pod" && n == 2:
		if !v.hasNamespace(string(q.label(0))) {
			return nameError
		}
		return outcome{}
	case string(top) == "pod" && n == 3:
		return z.pod(r, v, q, owner)
	case string(top) == "svc" && n <= 5:
		return z.service(r, v, q, owner, n)
	}
	return nameError
}

func (v *view) hasNamespace(name string) bool {
	return v.snapshot.Get(client.Key{Resource: "namespaces", Name: name}) != nil
}

// pod answers 1-2-3-4.namespace.pod. Whether a pod has that address is not asked, so that the answer needs no list of pods.
func (z *zone) pod(r *response, v *view, q *query, owner string) outcome {
	label := q.label(0)
	if !v.hasNamespace(string(q.label(1))) {
		return nameError
	}
	addr, err := netip.ParseAddr(string(bytes.ReplaceAll(label, []byte("-"), []byte("."))))
	if err != nil {
		addr, err = netip.ParseAddr(string(bytes.ReplaceAll(label, []byte("-"), []byte(":"))))
	}
	if err != nil || addr.Zone() != "" {
		return nameError
	}
	z.address(r, q, owner, addr)
	return outcome{}
}

// address appends an address if it is of the type asked for.
func (z *zone) address(r *response, q *query, owner string, addr netip.Addr) {
	if q.qtype == miekg.TypeA && addr.Is4() || q.qtype == miekg.TypeAAAA && addr.Is6() {
		r.address(answer, owner, ttl, addr)
	}
}

// service answers the names of a service: itself (n is 3), an endpoint or a protocol below it (4), a port (5).
func (z *zone) service(r *response, v *view, q *query, owner string, n int) outcome {
	who := types.NamespacedName{Namespace: string(q.label(n - 2)), Name: string(q.label(n - 3))}
	item := v.snapshot.Get(client.Key{Resource: "services", Namespace: who.Namespace, Name: who.Name})
	if item == nil {
		return nameError
	}
	svc := item.Object.(*corev1.Service)
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		if n != 3 {
			return nameError
		}
		return z.alias(r, v, q, owner, svc.Spec.ExternalName)
	}
	headless := svc.Spec.ClusterIP == corev1.ClusterIPNone
	var ready []endpoint
	if headless || n == 4 {
		ready = v.index.endpointsOf(who)
	}
	switch {
	case n == 3:
		return z.serviceItself(r, q, owner, svc, ready)
	case n == 4 && q.label(0)[0] == '_':
		if slices.ContainsFunc(portsOf(svc, ready), func(p port) bool { return matches(q.label(0), p.protocol) }) {
			return outcome{}
		}
		return nameError
	case n == 4:
		return z.host(r, q, owner, ready)
	}
	name, protocol := q.label(0), q.label(1)
	ports := slices.DeleteFunc(portsOf(svc, ready), func(p port) bool { return !matches(name, p.name) || !matches(protocol, p.protocol) })
	if len(ports) == 0 {
		return nameError
	}
	if q.qtype == miekg.TypeSRV {
		z.srv(r, owner, svc, ready, ports)
	}
	return outcome{}
}

// serviceItself answers a service's own name: its cluster IPs, or all its endpoints when it is headless. A headless service with no
// endpoint that is ready does not exist, says the specification.
func (z *zone) serviceItself(r *response, q *query, owner string, svc *corev1.Service, ready []endpoint) outcome {
	switch {
	case svc.Spec.ClusterIP != corev1.ClusterIPNone:
		switch q.qtype {
		case miekg.TypeA, miekg.TypeAAAA:
			for addr := range clusterIPs(svc) {
				z.address(r, q, owner, addr)
			}
		case miekg.TypeSRV:
			z.srv(r, owner, svc, nil, portsOf(svc, nil))
		}
	case len(ready) == 0:
		return nameError
	case q.qtype == miekg.TypeSRV:
		z.srv(r, owner, svc, ready, portsOf(svc, ready))
	default:
		z.endpointAddresses(r, q, owner, ready)
	}
	return outcome{}
}

// host answers the name of one endpoint.
func (z *zone) host(r *response, q *query, owner string, ready []endpoint) outcome {
	label := string(q.label(0))
	ready = slices.DeleteFunc(slices.Clone(ready), func(e endpoint) bool { return e.host != label })
	if len(ready) == 0 {
		return nameError
	}
	z.endpointAddresses(r, q, owner, ready)
	return outcome{}
}

func (z *zone) endpointAddresses(r *response, q *query, owner string, ready []endpoint) {
	for e := range spread(ready) {
		z.address(r, q, owner, e.addr)
	}
}

// port is a named port of a service, or of the endpoints of a headless one.
type port struct {
	name, protocol string
	number         int32
}

func portsOf(svc *corev1.Service, ready []endpoint) []port {
	var out []port
	if svc.Spec.ClusterIP != corev1.ClusterIPNone {
		for _, p := range svc.Spec.Ports {
			out = append(out, port{p.Name, string(p.Protocol), p.Port})
		}
		return out
	}
	for _, e := range ready {
		for i := range e.ports {
			if p := portOf(&e.ports[i]); !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

func portOf(p *discoveryv1.EndpointPort) port {
	var out port
	if p.Name != nil {
		out.name = *p.Name
	}
	out.protocol = string(corev1.ProtocolTCP)
	if p.Protocol != nil {
		out.protocol = string(*p.Protocol)
	}
	if p.Port != nil {
		out.number = *p.Port
	}
	return out
}

// matches compares a label with an underscore to a port's name or protocol.
func matches(label []byte, name string) bool {
	return len(label) == len(name)+1 && label[0] == '_' && strings.EqualFold(string(label[1:]), name)
}

// srv appends a record for each port, and for each endpoint of a headless service that has it, and the addresses behind
// them as long as they fit.
func (z *zone) srv(r *response, owner string, svc *corev1.Service, ready []endpoint, ports []port) {
	service := string(appendName(nil, z.wire, svc.Name, svc.Namespace, "svc"))
	type target struct {
		name  string
		addrs []netip.Addr
	}
	var targets []target
	if svc.Spec.ClusterIP != corev1.ClusterIPNone {
		for _, p := range ports {
			r.srv(owner, p.number, 100, service)
		}
		targets = append(targets, target{service, slices.Collect(clusterIPs(svc))})
	}
	weight := uint16(max(1, 100/max(1, len(ready))))
	for e := range spread(ready) {
		name := string(appendName(nil, service, e.host))
		has := false
		for i := range e.ports {
			if p := portOf(&e.ports[i]); slices.Contains(ports, p) && name != "" {
				r.srv(owner, p.number, weight, name)
				has = true
			}
		}
		if has {
			targets = append(targets, target{name, []netip.Addr{e.addr}})
		}
	}
	if r.truncated {
		return
	}
	for _, t := range targets {
		for _, addr := range t.addrs {
			r.address(additional, t.name, ttl, addr)
		}
	}
}

func (r *response) srv(owner string, port int32, weight uint16, target string) {
	data := make([]byte, 6)
	binary.BigEndian.PutUint16(data[2:], weight)
	binary.BigEndian.PutUint16(data[4:], uint16(port))
	r.record(answer, owner, miekg.TypeSRV, ttl, data, []byte(target))
}

// alias answers the name of an ExternalName service: the alias, and the records of its target, which may be ours again.
func (z *zone) alias(r *response, v *view, q *query, owner, name string) outcome {
	target, ok := wireName(name)
	if !ok {
		return outcome{rcode: miekg.RcodeServerFailure}
	}
	r.record(answer, owner, miekg.TypeCNAME, ttl, []byte(target), nil)
	if q.qtype == miekg.TypeCNAME {
		return outcome{}
	}
	// A chain that is longer is a circle, or made to waste our time.
	const maxChain = 8
	if r.aliases++; r.aliases > maxChain {
		return outcome{rcode: miekg.RcodeServerFailure}
	}
	var next query
	if err := next.parse(queryFor(target, q.qtype)); err != nil {
		return outcome{rcode: miekg.RcodeServerFailure}
	}
	if z.contains(&next) < 0 {
		return outcome{chase: name}
	}
	return z.forward(r, v, &next, target, next.labelNum-z.labels)
}

// queryFor makes a query packet.
func queryFor(wire string, qtype uint16) []byte {
	p := make([]byte, headerLen, headerLen+len(wire)+4)
	p[2], p[5] = 1, 1
	p = append(p, wire...)
	p = binary.BigEndian.AppendUint16(p, qtype)
	return binary.BigEndian.AppendUint16(p, miekg.ClassINET)
}

// reverse answers names of addresses in our ranges.
func (z *zone) reverse(r *response, v *view, q *query, owner string) outcome {
	addr, ok := reverseAddr(q)
	if !ok || !slices.ContainsFunc(z.ranges, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return outcome{notOurs: true}
	}
	found := false
	owners, clusterIP := v.index.ownerOf(addr)
	for _, who := range owners {
		service := string(appendName(nil, z.wire, who.Name, who.Namespace, "svc"))
		var names []string
		if clusterIP {
			names = append(names, service)
		} else {
			for _, e := range v.index.endpointsOf(who) {
				if name := string(appendName(nil, service, e.host)); e.addr == addr && name != "" && !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
		for _, name := range names {
			found = true
			if q.qtype == miekg.TypePTR {
				r.record(answer, owner, miekg.TypePTR, ttl, []byte(name), nil)
			}
		}
	}
	out := outcome{soa: -1}
	if !found {
		out.rcode = miekg.RcodeNameError
	}
	if r.counts[answer] == 0 {
		out.soa = int(q.labels[q.labelNum-2]) // in-addr.arpa, ip6.arpa
	}
	return out
}

// reverseAddr reads an address from a name below in-addr.arpa or ip6.arpa.
func reverseAddr(q *query) (netip.Addr, bool) {
	n := q.labelNum
	if n < 2 || string(q.label(n-1)) != "arpa" {
		return netip.Addr{}, false
	}
	switch kind := string(q.label(n - 2)); {
	case kind == "in-addr" && n == 6:
		var text []byte
		for i := 3; i >= 0; i-- {
			text = append(append(text, q.label(i)...), '.')
		}
		addr, err := netip.ParseAddr(string(text[:len(text)-1]))
		return addr, err == nil
	case kind == "ip6" && n == 34:
		var b [16]byte
		for i := range 32 {
			digit := q.label(31 - i)
			v := strings.IndexByte("0123456789abcdef", digit[0])
			if len(digit) != 1 || v < 0 {
				return netip.Addr{}, false
			}
			b[i/2] |= byte(v) << (4 * (1 - i%2))
		}
		return netip.AddrFrom16(b), true
	}
	return netip.Addr{}, false
}

func (z *zone) nameServer() []byte { return appendName(nil, z.wire, "ns", "dns") }

// soa appends the zone's SOA record; its last number is how long a negative answer holds.
func (z *zone) soa(r *response, to section, owner string) {
	data := appendName(z.nameServer(), z.wire, "hostmaster")
	for _, n := range []uint32{1, 7200, 1800, 86400, ttl} {
		data = binary.BigEndian.AppendUint32(data, n)
	}
	r.record(to, owner, miekg.TypeSOA, ttl, data, nil)
}
