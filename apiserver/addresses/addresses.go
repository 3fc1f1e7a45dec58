// Package addresses hands out the cluster IPs and node ports of Services, and keeps IPAddresses from taking what is theirs. Only
// apiserver imports it.
package addresses

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// Pool hands out the cluster IPs and node ports of Services. What is taken follows from the Services and IPAddresses in the
// store, read as feeds, and from the writes under way; nothing of it is stored, so nothing can leak in a crash. Addresses come
// from the range that the cluster was started with, and when it is full from those of ServiceCIDRs. Safe for concurrent use.
type Pool struct {
	reader store.Reader
	cidr   netip.Prefix
	first  int32 // node ports
	last   int32

	mu       sync.Mutex
	followed []*feed
	ips      map[netip.Addr]int // how many Services, IPAddresses of others and writes hold it
	ports    map[int32]int
	ranges   map[netip.Prefix]int                // how many ServiceCIDRs name it; without cidr
	holders  map[netip.Addr]types.NamespacedName // the Services
	claims   map[*claim]struct{}                 // of the writes under way
}

// New returns the pool of a range of cluster IPs, and of the node ports from the first to the last.
func New(r store.Reader, cidr netip.Prefix, ports [2]int32) *Pool {
	return &Pool{reader: r, cidr: cidr.Masked(), first: ports[0], last: ports[1], claims: map[*claim]struct{}{}}
}

const servicesResource = "services"

func nothing() {}

// Create gives a new Service what it lacks, and checks what it asks for; it refuses an IPAddress that a Service holds. release
// must be called once the write is done or has failed. In a dry run nothing is held.
func (a *Pool) Create(k *kinds.Kind, obj kinds.Object, dry bool) (release func(), err error) {
	switch o := obj.(type) {
	case *corev1.Service:
		return a.assign(o, nil, dry)
	case *networkingv1.IPAddress:
		return a.reserve(k, o, dry)
	}
	return nothing, nil
}

// Update is Create for an update: what the Service has already is its own.
func (a *Pool) Update(_ *kinds.Kind, sub *kinds.Subresource, obj, current kinds.Object, dry bool) (release func(), err error) {
	s, ok := obj.(*corev1.Service)
	if !ok || sub != nil {
		return nothing, nil
	}
	return a.assign(s, current.(*corev1.Service), dry)
}

func (a *Pool) assign(s, old *corev1.Service, dry bool) (func(), error) {
	if errs := a.defaultFamilies(s); len(errs) > 0 {
		return nil, apierrors.NewInvalid(serviceKind, s.Name, errs)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.catchUp(); err != nil {
		return nil, err
	}
	c := &claim{a: a, own: holdings(old)}
	errs := c.clusterIP(s)
	if len(errs) == 0 {
		errs = c.nodePorts(s)
	}
	if len(errs) == 0 {
		errs = c.healthPort(s)
	}
	if len(errs) > 0 {
		c.undo()
		return nil, apierrors.NewInvalid(serviceKind, s.Name, errs)
	}
	return a.claim(c, dry), nil
}

// claim holds what a write takes until release is called.
func (a *Pool) claim(c *claim, dry bool) (release func()) {
	if dry {
		c.undo()
		return nothing
	}
	a.claims[c] = struct{}{}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		// The feed must have counted a stored object before the write lets go, or the address would be free in between.
		if err := a.catchUp(); err == nil {
			c.undo()
			delete(a.claims, c)
		}
	}
}

// held is what one Service holds.
type held struct {
	ip    netip.Addr
	ports map[int32]bool
}

func holdings(s *corev1.Service) held {
	h := held{ports: map[int32]bool{}}
	if s == nil {
		return h
	}
	h.ip, _ = netip.ParseAddr(s.Spec.ClusterIP) // "None" and "" are no address
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			h.ports[p.NodePort] = true
		}
	}
	if p := s.Spec.HealthCheckNodePort; p != 0 {
		h.ports[p] = true
	}
	return h
}

func bump[K comparable](m map[K]int, k K, by int) {
	if m[k] += by; m[k] <= 0 {
		delete(m, k)
	}
}

// claim is what one write takes, until it is stored or has failed.
type claim struct {
	a     *Pool
	own   held // by the Service before the write
	ip    netip.Addr
	ports []int32
}

func (c *claim) undo() { c.hold(-1) }

// hold counts what the write takes, or with -1 no longer does.
func (c *claim) hold(by int) {
	if c.ip.IsValid() {
		bump(c.a.ips, c.ip, by)
	}
	for _, p := range c.ports {
		bump(c.a.ports, p, by)
	}
}

func (c *claim) takeIP(ip netip.Addr) {
	c.ip = ip
	c.a.ips[ip]++
}

func (c *claim) takePort(p int32) {
	c.ports = append(c.ports, p)
	c.a.ports[p]++
}

var specPath = field.NewPath("spec")

// clusterIP gives a Service the address that it asks for, or a free one.
func (c *claim) clusterIP(s *corev1.Service) field.ErrorList {
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	at := specPath.Child("clusterIPs")
	if s.Spec.ClusterIP != "" {
		ip, err := netip.ParseAddr(s.Spec.ClusterIP)
		if err != nil || ip == c.own.ip {
			return nil // validation has seen to it
		}
		refuse := func(why string) field.ErrorList {
			return field.ErrorList{field.Invalid(at, s.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: %s", ip, why))}
		}
		switch {
		case !c.a.usable(ip):
			return refuse("the provided network does not match the current range")
		case c.a.ips[ip] > 0:
			return refuse("provided IP is already allocated")
		}
		c.takeIP(ip)
		return nil
	}
	ip, ok := c.a.freeIP()
	if !ok {
		return field.ErrorList{field.InternalError(at, errors.New("failed to allocate a serviceIP: range is full"))}
	}
	c.takeIP(ip)
	s.Spec.ClusterIP, s.Spec.ClusterIPs = ip.String(), []string{ip.String()}
	return nil
}

// nodePorts gives the ports of a Service the node ports that they ask for, or free ones.
func (c *claim) nodePorts(s *corev1.Service) field.ErrorList {
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
	case corev1.ServiceTypeLoadBalancer:
		if s.Spec.AllocateLoadBalancerNodePorts != nil && !*s.Spec.AllocateLoadBalancerNodePorts {
			return c.givenPorts(s)
		}
	default:
		return nil
	}
	if errs := c.givenPorts(s); len(errs) > 0 {
		return errs
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		port, ok := c.a.freePort()
		if !ok {
			return field.ErrorList{field.InternalError(specPath.Child("ports").Index(i).Child("nodePort"), errors.New("failed to allocate a nodePort: range is full"))}
		}
		c.takePort(port)
		p.NodePort = port
	}
	return nil
}

// givenPorts takes the node ports that a Service names. Its ports of different protocols may share one.
func (c *claim) givenPorts(s *corev1.Service) field.ErrorList {
	taken := map[int32]bool{}
	for i := range s.Spec.Ports {
		p := s.Spec.Ports[i].NodePort
		if p == 0 || taken[p] || c.own.ports[p] {
			continue
		}
		if err := c.givenPort(p, specPath.Child("ports").Index(i).Child("nodePort")); err != nil {
			return field.ErrorList{err}
		}
		taken[p] = true
	}
	return nil
}

func (c *claim) givenPort(p int32, at *field.Path) *field.Error {
	switch {
	case p < c.a.first || p > c.a.last:
		return field.Invalid(at, p, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", c.a.first, c.a.last))
	case c.a.ports[p] > 0:
		return field.Invalid(at, p, "provided port is already allocated")
	}
	c.takePort(p)
	return nil
}

// healthPort gives a load-balanced Service that keeps traffic on its node the port where balancers ask for its health.
func (c *claim) healthPort(s *corev1.Service) field.ErrorList {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer || s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return nil
	}
	at := specPath.Child("healthCheckNodePort")
	if p := s.Spec.HealthCheckNodePort; p != 0 {
		if c.own.ports[p] {
			return nil
		}
		if err := c.givenPort(p, at); err != nil {
			return field.ErrorList{err}
		}
		return nil
	}
	port, ok := c.a.freePort()
	if !ok {
		return field.ErrorList{field.InternalError(at, errors.New("failed to allocate a HealthCheck NodePort: range is full"))}
	}
	c.takePort(port)
	s.Spec.HealthCheckNodePort = port
	return nil
}

const (
	// Addresses and ports that nobody asked for by number are drawn from above the first few of their range, which are
	// left for those who do. How many that is: a sixteenth (ports: a 32nd), within bounds; upstream's rules
	// (https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/).
	ipBandLeast, ipBandMost     = 16, 256
	portBandLeast, portBandMost = 16, 128
)

// draw finds an n in [from, from+count) that is free, beginning at a random one.
func draw(from, count uint64, free func(uint64) bool) (uint64, bool) {
	if count == 0 {
		return 0, false
	}
	start := rand.Uint64N(count)
	for i := range count {
		if n := from + (start+i)%count; free(n) {
			return n, true
		}
	}
	return 0, false
}

// freePort draws a free node port.
func (a *Pool) freePort() (int32, bool) {
	size := uint64(a.last-a.first) + 1
	band := min(max(portBandLeast, size/32), portBandMost)
	if size <= portBandLeast {
		band = 0
	}
	free := func(n uint64) bool { return a.ports[a.first+int32(n)] == 0 }
	n, ok := draw(band, size-band, free)
	if !ok {
		n, ok = draw(0, band, free)
	}
	return a.first + int32(n), ok
}

var serviceKind = corev1.SchemeGroupVersion.WithKind("Service").GroupKind()

// defaultFamilies fills in the address families of a Service, and refuses those that the range does not have.
func (a *Pool) defaultFamilies(s *corev1.Service) field.ErrorList {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	have := corev1.IPv4Protocol
	if a.cidr.Addr().Is6() {
		have = corev1.IPv6Protocol
	}
	headless := s.Spec.ClusterIP == corev1.ClusterIPNone
	if headless && len(s.Spec.Selector) == 0 {
		// Whoever makes the endpoints of such a Service may choose any family.
		if s.Spec.IPFamilyPolicy == nil {
			p := corev1.IPFamilyPolicyRequireDualStack
			if len(s.Spec.IPFamilies) == 1 {
				p = corev1.IPFamilyPolicySingleStack
			}
			s.Spec.IPFamilyPolicy = &p
		}
		if len(s.Spec.IPFamilies) == 0 {
			s.Spec.IPFamilies = []corev1.IPFamily{have}
		}
		if len(s.Spec.IPFamilies) == 1 && *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, opposite(s.Spec.IPFamilies[0]))
		}
	} else if errs := a.singleFamily(s, have); len(errs) > 0 {
		return errs
	}
	if headless {
		s.Spec.ClusterIPs = []string{corev1.ClusterIPNone}
	}
	return nil
}

func opposite(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// singleFamily holds a Service to the one family of the range.
func (a *Pool) singleFamily(s *corev1.Service, have corev1.IPFamily) (errs field.ErrorList) {
	if p := s.Spec.IPFamilyPolicy; p != nil && *p == corev1.IPFamilyPolicyRequireDualStack {
		errs = append(errs, field.Invalid(specPath.Child("ipFamilyPolicy"), *p, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range s.Spec.IPFamilies {
		if f != have {
			errs = append(errs, field.Invalid(specPath.Child("ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if s.Spec.IPFamilyPolicy == nil {
		p := corev1.IPFamilyPolicySingleStack
		s.Spec.IPFamilyPolicy = &p
	}
	if len(s.Spec.IPFamilies) == 0 {
		s.Spec.IPFamilies = []corev1.IPFamily{have}
	}
	return nil
}
