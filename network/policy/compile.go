package policy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	netutils "k8s.io/utils/net"
)

// selector says which pods are meant: those of one namespace, or of all whose labels match, that match themselves.
type selector struct {
	namespace  string
	namespaces labels.Selector // nil: the one namespace
	pods       labels.Selector // nil: all
}

func (s *selector) String() string {
	text := "namespace " + s.namespace
	if s.namespaces != nil {
		text = "namespaces " + s.namespaces.String()
	}
	if s.pods != nil {
		text += " pods " + s.pods.String()
	}
	return text
}

// matches says whether a pod is meant; of are the labels of its namespace.
func (s *selector) matches(p *pod, of labels.Set) bool {
	if s.namespaces == nil && p.key.Namespace != s.namespace || s.namespaces != nil && !s.namespaces.Matches(of) {
		return false
	}
	return s.pods == nil || s.pods.Matches(p.labels)
}

// setKind says what the elements of a set are.
type setKind uint8

const (
	setPeers  setKind = iota // addresses of pods
	setNamed                 // address . protocol . port of pods' ports of one name
	setBlocks                // ranges of addresses
	setPorts                 // ranges of ports, protocol . port
)

func (k setKind) String() string { return [...]string{"pods", "named", "blocks", "ports"}[k] }

// set is one set of the table. Its name says what is in it, so that rules alike share it.
type set struct {
	name     string
	kind     setKind
	selector selector        // of peers and named
	protocol corev1.Protocol // of named, and the port's name
	port     string
	fixed    []element // of blocks and ports: they never change
}

// element is an element of a set in the kernel's form: fields of a multiple of four bytes, in network order. end is the last
// of a range, inclusive.
type element struct{ key, end string }

// elements are what a pod contributes to a set.
func (s *set) elements(p *pod, of labels.Set) []element {
	if p == nil || !s.selector.matches(p, of) {
		return nil
	}
	var out []element
	for _, addr := range p.addrs {
		if s.kind == setPeers {
			out = append(out, element{key: string(addr.AsSlice())})
			continue
		}
		for _, port := range p.ports {
			if port.name == s.port && port.protocol == s.protocol {
				out = append(out, element{key: string(addr.AsSlice()) + portKey(port.protocol, port.number)})
			}
		}
	}
	return out
}

// rule lets traffic pass that is in all of the sets that it names.
type rule struct {
	peers  string // of the other side's address
	blocks string // likewise
	named  string // of the destination's address and port
	ports  string // of the destination's port
}

func (r rule) String() string {
	return strings.Join(strings.Fields(r.peers+" "+r.blocks+" "+r.named+" "+r.ports), " ")
}

func compareRules(a, b rule) int { return cmp.Compare(a.String(), b.String()) }

// policy is a NetworkPolicy, compiled: it stands for itself and depends on no pod.
type policy struct {
	source          *networkingv1.NetworkPolicy
	subjects        selector
	in, out         bool // which directions of its subjects it isolates
	ingress, egress []rule
	sets            map[string]*set
}

// compilePolicy compiles a policy. What it cannot read allows nothing, and is told as an error.
func compilePolicy(np *networkingv1.NetworkPolicy) (*policy, error) {
	p := &policy{source: np, sets: map[string]*set{}}
	pods, err := metav1.LabelSelectorAsSelector(&np.Spec.PodSelector)
	if err != nil {
		return nil, fmt.Errorf("podSelector: %w", err)
	}
	p.subjects = selector{namespace: np.Namespace, pods: pods}
	types := np.Spec.PolicyTypes
	if len(types) == 0 { // as the API defaults it
		types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(np.Spec.Egress) > 0 {
			types = append(types, networkingv1.PolicyTypeEgress)
		}
	}
	p.in, p.out = slices.Contains(types, networkingv1.PolicyTypeIngress), slices.Contains(types, networkingv1.PolicyTypeEgress)
	var errs []string
	if p.in {
		for i, r := range np.Spec.Ingress {
			rules, err := p.rules(np.Namespace, r.From, r.Ports, func(selector) selector { return p.subjects })
			if err != nil {
				errs = append(errs, fmt.Sprintf("ingress[%d]: %v", i, err))
			}
			p.ingress = append(p.ingress, rules...)
		}
	}
	if p.out {
		for i, r := range np.Spec.Egress {
			rules, err := p.rules(np.Namespace, r.To, r.Ports, func(peer selector) selector { return peer })
			if err != nil {
				errs = append(errs, fmt.Sprintf("egress[%d]: %v", i, err))
			}
			p.egress = append(p.egress, rules...)
		}
	}
	if len(errs) > 0 {
		return p, fmt.Errorf("%s", strings.Join(errs, "; "))
	}
	return p, nil
}

// rules compiles one rule of a policy: every kind of peer with every kind of port. owners says whose named ports count where
// the other side are the given pods.
func (p *policy) rules(namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, owners func(selector) selector) ([]rule, error) {
	from, err := p.peers(namespace, peers)
	numbers, names, portErr := readPorts(ports)
	var out []rule
	for _, f := range from {
		if len(ports) == 0 {
			out = append(out, f.rule)
		}
		if len(numbers) > 0 {
			r := f.rule
			r.ports = p.add(set{kind: setPorts, fixed: numbers})
			out = append(out, r)
		}
		for _, n := range names {
			r := f.rule
			r.named = p.add(set{kind: setNamed, selector: owners(f.selector), protocol: n.protocol, port: n.name})
			out = append(out, r)
		}
	}
	return out, cmp.Or(err, portErr)
}

// side is the other side of a rule.
type side struct {
	rule     // of which only the other side is filled in
	selector // the pods that it may be
}

// everyPod selects all pods of the cluster.
func everyPod() selector { return selector{namespaces: labels.Everything()} }

// peers compiles the other sides of a rule: one for each selector, and one for all address blocks.
func (p *policy) peers(namespace string, peers []networkingv1.NetworkPolicyPeer) ([]side, error) {
	if len(peers) == 0 {
		return []side{{selector: everyPod()}}, nil
	}
	var out []side
	var blocks []span
	var first error
	for i, peer := range peers {
		if peer.IPBlock != nil {
			part, err := readBlock(peer.IPBlock)
			if err != nil {
				first = cmp.Or(first, fmt.Errorf("peer %d: %w", i, err))
				continue
			}
			blocks = append(blocks, part...)
			continue
		}
		s, err := readSelector(namespace, peer)
		if err != nil {
			first = cmp.Or(first, fmt.Errorf("peer %d: %w", i, err))
			continue
		}
		out = append(out, side{rule{peers: p.add(set{kind: setPeers, selector: s})}, s})
	}
	if len(blocks) > 0 {
		var fixed []element
		for _, s := range merge(blocks) {
			fixed = append(fixed, element{string(s.first.AsSlice()), string(s.last.AsSlice())})
		}
		out = append(out, side{rule{blocks: p.add(set{kind: setBlocks, fixed: fixed})}, everyPod()})
	}
	return out, first
}

func readSelector(namespace string, peer networkingv1.NetworkPolicyPeer) (selector, error) {
	s := selector{namespace: namespace}
	var err error
	if peer.NamespaceSelector != nil {
		s.namespace = ""
		if s.namespaces, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
			return s, err
		}
	}
	if peer.PodSelector != nil {
		if s.pods, err = metav1.LabelSelectorAsSelector(peer.PodSelector); err != nil {
			return s, err
		}
	}
	return s, nil
}

// add files a set under its name, which is made of all that it is.
func (p *policy) add(s set) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s %s %q %q", s.kind, &s.selector, s.protocol, s.port)
	for _, e := range s.fixed {
		fmt.Fprintf(h, " %x-%x", e.key, e.end)
	}
	s.name = s.kind.String() + "-" + hex.EncodeToString(h.Sum(nil)[:12])
	p.sets[s.name] = &s
	return s.name
}

// namedPort is a port that a policy names and that each pod has a number of its own for.
type namedPort struct {
	name     string
	protocol corev1.Protocol
}

// readPorts returns ranges of ports without overlaps, and named ports.
func readPorts(ports []networkingv1.NetworkPolicyPort) (numbers []element, names []namedPort, err error) {
	ranges := map[corev1.Protocol][][2]int32{}
	for i, port := range ports {
		protocol := corev1.ProtocolTCP
		if port.Protocol != nil {
			protocol = *port.Protocol
		}
		if protocolNumber(protocol) == 0 {
			err = cmp.Or(err, fmt.Errorf("port %d: protocol %q is unknown", i, protocol))
			continue
		}
		switch {
		case port.Port == nil:
			ranges[protocol] = append(ranges[protocol], [2]int32{0, 65535})
		case port.Port.Type == intstr.String:
			names = append(names, namedPort{port.Port.StrVal, protocol})
		default:
			last := port.Port.IntVal
			if port.EndPort != nil {
				last = *port.EndPort
			}
			if port.Port.IntVal < 0 || last > 65535 || last < port.Port.IntVal {
				err = cmp.Or(err, fmt.Errorf("port %d: %d to %d is no range of ports", i, port.Port.IntVal, last))
				continue
			}
			ranges[protocol] = append(ranges[protocol], [2]int32{port.Port.IntVal, last})
		}
	}
	for protocol, list := range ranges {
		slices.SortFunc(list, func(a, b [2]int32) int { return cmp.Compare(a[0], b[0]) })
		merged := list[:1]
		for _, r := range list[1:] {
			if end := &merged[len(merged)-1]; r[0] <= end[1]+1 {
				end[1] = max(end[1], r[1])
			} else {
				merged = append(merged, r)
			}
		}
		for _, r := range merged {
			numbers = append(numbers, element{portKey(protocol, r[0]), portKey(protocol, r[1])})
		}
	}
	slices.SortFunc(numbers, func(a, b element) int { return cmp.Compare(a.key, b.key) })
	slices.SortFunc(names, func(a, b namedPort) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.protocol, b.protocol))
	})
	return numbers, slices.Compact(names), err
}

// protocolNumber is 0 for a protocol without ports.
func protocolNumber(p corev1.Protocol) byte {
	switch p {
	case corev1.ProtocolTCP:
		return unix.IPPROTO_TCP
	case corev1.ProtocolUDP:
		return unix.IPPROTO_UDP
	case corev1.ProtocolSCTP:
		return unix.IPPROTO_SCTP
	}
	return 0
}

func portKey(protocol corev1.Protocol, port int32) string {
	return string([]byte{protocolNumber(protocol), 0, 0, 0, byte(port >> 8), byte(port), 0, 0})
}

// span is a range of addresses of one family, both ends inclusive.
type span struct{ first, last netip.Addr }

// readBlock returns a block without its exceptions.
func readBlock(b *networkingv1.IPBlock) ([]span, error) {
	whole, err := readCIDR(b.CIDR)
	if err != nil {
		return nil, err
	}
	left := []span{whole}
	for _, e := range b.Except {
		hole, err := readCIDR(e)
		if err != nil {
			return nil, err
		}
		var rest []span
		for _, s := range left {
			rest = append(rest, subtract(s, hole)...)
		}
		left = rest
	}
	return left, nil
}

// readCIDR reads a range as the API takes it, which is with zeros before numbers and IPv4 in IPv6 as well.
func readCIDR(text string) (span, error) {
	_, n, err := netutils.ParseCIDRSloppy(text)
	if err != nil {
		return span{}, err
	}
	last := bytes.Clone(n.IP)
	for i := range last {
		last[i] |= ^n.Mask[i]
	}
	first, ok := netip.AddrFromSlice(n.IP)
	end, _ := netip.AddrFromSlice(last)
	if !ok {
		return span{}, fmt.Errorf("%q is no range of addresses", text)
	}
	return span{first, end}, nil
}

// subtract returns what of s is not in hole.
func subtract(s, hole span) []span {
	if s.first.BitLen() != hole.first.BitLen() || hole.last.Less(s.first) || s.last.Less(hole.first) {
		return []span{s}
	}
	var out []span
	if s.first.Less(hole.first) {
		out = append(out, span{s.first, hole.first.Prev()})
	}
	if hole.last.Less(s.last) {
		out = append(out, span{hole.last.Next(), s.last})
	}
	return out
}

// merge sorts spans and joins those that meet.
func merge(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return a.first.Compare(b.first) })
	var out []span
	for _, s := range spans {
		if len(out) > 0 {
			end := &out[len(out)-1]
			if end.first.BitLen() == s.first.BitLen() && (!end.last.Less(s.first) || end.last.Next() == s.first) {
				if end.last.Less(s.last) {
					end.last = s.last
				}
				continue
			}
		}
		out = append(out, s)
	}
	return out
}

// chainName names the chain of a direction that lets pass what any of the rules does. Pods under the same rules share one.
func chainName(in bool, rules []rule) string {
	h := sha256.New()
	for _, r := range rules {
		fmt.Fprintln(h, r)
	}
	direction := "out-"
	if in {
		direction = "in-"
	}
	return direction + hex.EncodeToString(h.Sum(nil)[:12])
}
