package ingress

import (
	"cmp"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// maxAttempts is how many endpoints a request is offered to when they cannot be connected to.
	maxAttempts = 3
	// restTime is how long an endpoint that could not be connected to is passed over while there are others.
	restTime = 5 * time.Second
)

var (
	errNoEndpoint  = errors.New("the service has no ready endpoint")
	errUnsupported = errors.New("the backend is not supported")
	errTakenBack   = errors.New("the body goes to another endpoint")
)

// backendKey names one port of a Service, by number or by name.
type backendKey struct {
	service types.NamespacedName
	port    networkingv1.ServiceBackendPort
}

func portString(p networkingv1.ServiceBackendPort) string {
	if p.Name != "" {
		return strconv.Quote(p.Name)
	}
	return strconv.Itoa(int(p.Number))
}

// protocol is what the endpoints of a port speak.
type protocol uint8

const (
	http1     protocol = iota
	http2              // without TLS, from the first byte on: what gRPC speaks
	encrypted          // HTTPS, version 1.1 or 2 as the endpoint likes
)

// protocolOf reads the appProtocol of a port: the names of KEP-3726, and those in wide use.
func protocolOf(port *corev1.ServicePort) protocol {
	if port.AppProtocol == nil {
		return http1
	}
	switch strings.ToLower(*port.AppProtocol) {
	case "kubernetes.io/h2c", "h2c", "grpc":
		return http2
	case "https", "kubernetes.io/wss", "wss", "grpcs":
		return encrypted
	}
	return http1
}

// address is one endpoint as its port's slices tell it.
type address struct {
	netip.AddrPort
	// terminating endpoints are used only when no other is there, as a request is better served late than refused, and where a
	// Service publishes addresses that are not ready.
	terminating bool
}

// resolve returns the addresses that take the requests for a port of a Service, in order, and what they speak.
func resolve(svc *corev1.Service, all map[string]*discoveryv1.EndpointSlice, port networkingv1.ServiceBackendPort) ([]address, protocol) {
	if svc == nil || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, http1
	}
	p := portOf(svc, port)
	if p == nil {
		return nil, http1
	}
	family := discoveryv1.AddressTypeIPv4
	if len(svc.Spec.IPFamilies) > 0 && svc.Spec.IPFamilies[0] == corev1.IPv6Protocol {
		family = discoveryv1.AddressTypeIPv6
	}
	var ready, terminating []address
	for _, slice := range all {
		if slice.AddressType != family {
			continue
		}
		for i := range slice.Ports {
			sp := &slice.Ports[i]
			if sp.Port == nil || value(sp.Name, "") != p.Name || value(sp.Protocol, corev1.ProtocolTCP) != corev1.ProtocolTCP {
				continue
			}
			for n := range slice.Endpoints {
				a, isReady, ok := addressOf(&slice.Endpoints[n], uint16(*sp.Port))
				switch {
				case !ok:
				case isReady:
					ready = append(ready, a)
				case a.terminating:
					terminating = append(terminating, a)
				}
			}
		}
	}
	if len(ready) == 0 {
		ready = terminating
	}
	slices.SortFunc(ready, func(a, b address) int { return a.Compare(b.AddrPort) })
	return slices.CompactFunc(ready, func(a, b address) bool { return a.AddrPort == b.AddrPort }), protocolOf(p)
}

// addressOf reads an endpoint. It is not ok when nothing may be sent to it; when it is, it is ready or it serves while it terminates.
func addressOf(e *discoveryv1.Endpoint, port uint16) (a address, ready, ok bool) {
	if len(e.Addresses) == 0 {
		return a, false, false
	}
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil {
		return a, false, false
	}
	ready = value(e.Conditions.Ready, true)
	terminating := value(e.Conditions.Terminating, false)
	late := !ready && value(e.Conditions.Serving, false) && terminating
	return address{netip.AddrPortFrom(addr, port), terminating}, ready, ready || late
}

// portOf finds the TCP port of a Service that an Ingress names.
func portOf(svc *corev1.Service, port networkingv1.ServiceBackendPort) *corev1.ServicePort {
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if cmp.Or(p.Protocol, corev1.ProtocolTCP) == corev1.ProtocolTCP &&
			(port.Name != "" && p.Name == port.Name || port.Name == "" && p.Port == port.Number) {
			return p
		}
	}
	return nil
}

func value[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// peer is an address that requests are sent to, whatever Service leads there.
type peer struct {
	// asked counts the requests that were sent there and not answered yet.
	asked atomic.Int64
	// idle holds a token when asked has come down to 0 since somebody took the last one.
	idle chan struct{}
	// rests is until when, in nanoseconds of Unix time, it is passed over; 0 for not at all.
	rests atomic.Int64
	// pools counts the pools that it is in, chosen those where it does not terminate. Guarded by Server.mu.
	pools, chosen int
}

// answered takes back one from asked.
func (p *peer) answered() {
	if p.asked.Add(-1) == 0 {
		p.wake()
	}
}

// wake lets one who waits for idle look again.
func (p *peer) wake() {
	select {
	case p.idle <- struct{}{}:
	default:
	}
}

// endpoint is one member of a pool.
type endpoint struct {
	host string // address:port
	peer *peer
}

// pool is who can take the requests of a backend. Immutable.
type pool struct {
	addresses []address
	protocol  protocol
	endpoints []endpoint
}

// backend is one port of a Service. Its pool changes while requests go through it; it is its proxy's transport.
type backend struct {
	transports *transports
	proxy      httputil.ReverseProxy
	pool       atomic.Pointer[pool]
	turn       atomic.Uint32
}

func newBackend(t *transports, proxy httputil.ReverseProxy) *backend {
	b := &backend{transports: t, proxy: proxy}
	b.proxy.Transport = b
	b.pool.Store(&pool{})
	b.turn.Store(rand.Uint32()) // nodes that start together do not march in step
	return b
}

// RoundTrip sends a request to an endpoint, by turns, and to the next while nothing of it got through. The request, which is
// the proxy's own, is changed.
func (b *backend) RoundTrip(req *http.Request) (*http.Response, error) {
	body := req.Body
	turn := b.turn.Add(1)
	for attempt := 1; ; attempt++ {
		e, p := b.next(turn)
		if e == nil {
			return nil, errNoEndpoint
		}
		var kept *keptOpen
		if body != nil && body != http.NoBody {
			kept = &keptOpen{Reader: body}
			req.Body = kept
		}
		resp, err := b.transports.send(req, e.host, p.protocol)
		e.peer.answered()
		if err == nil || req.Context().Err() != nil {
			return resp, err
		}
		if isConnectError(err) {
			e.peer.rests.Store(time.Now().Add(restTime).UnixNano())
		} else if kept == nil {
			return nil, err // the endpoint may be at work on it; what is safe to repeat the transport has repeated
		}
		if kept != nil && !kept.takeBack() {
			return nil, err
		}
		if attempt == min(maxAttempts, len(p.endpoints)) {
			return nil, err
		}
		b.transports.retries.Add(1)
		turn++
	}
}

// next returns the endpoint whose turn it is, with the request counted as asked of its peer; nil when there is none.
func (b *backend) next(turn uint32) (*endpoint, *pool) {
	for {
		p := b.pool.Load()
		n := uint32(len(p.endpoints))
		if n == 0 {
			return nil, nil
		}
		e := &p.endpoints[turn%n]
		for i := uint32(1); i < n && e.peer.resting(); i++ {
			e = &p.endpoints[(turn+i)%n]
		}
		e.peer.asked.Add(1)
		// Who withdraws an endpoint swaps the pool and then looks who is still asked: either it sees this request, or we see
		// the swap.
		if b.pool.Load() == p {
			return e, p
		}
		e.peer.answered()
	}
}

func (p *peer) resting() bool {
	until := p.rests.Load()
	if until == 0 {
		return false
	}
	if time.Now().UnixNano() < until {
		return true
	}
	p.rests.CompareAndSwap(until, 0)
	return false
}

// keptOpen lets a request's body survive an attempt that did not read it, as when the connection to reuse was closed meanwhile: the
// transport closes the body of each. The proxy closes it in the end.
type keptOpen struct {
	io.Reader
	state atomic.Int32 // one of the below
}

const (
	bodyUntouched int32 = iota
	bodyRead            // and so can be sent only once
	bodyTakenBack       // for another attempt: a transport that is late gets nothing
)

// Read reads the body.
func (k *keptOpen) Read(p []byte) (int, error) {
	if k.state.CompareAndSwap(bodyUntouched, bodyRead) || k.state.Load() == bodyRead {
		return k.Reader.Read(p)
	}
	return 0, errTakenBack
}

// takeBack says whether the body is whole, and then ends the attempt's reading of it.
func (k *keptOpen) takeBack() bool { return k.state.CompareAndSwap(bodyUntouched, bodyTakenBack) }

// Close leaves the body open.
func (k *keptOpen) Close() error { return nil }

// isConnectError says that nothing of a request was sent, as no connection came to be.
func isConnectError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
