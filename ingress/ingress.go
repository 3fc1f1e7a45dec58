// Package ingress is the way into the cluster for HTTP and HTTPS. Server, on each node, serves what Ingress objects say: it compiles
// them to an immutable routing table, which a request reads without a lock, and sends requests to the ready endpoints of their
// Services, not to their cluster IPs. Controller, once in a cluster, makes the ingress class, writes addresses into the status of
// Ingresses and tells their authors by events what is wrong with them.
// Only daemon imports it; it imports client.
package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
)

// answerTime is how long WaitWithdrawn lets requests that were sent before wait for their answers.
const answerTime = 2 * time.Second

// Options say what a Server works on. They are not changed after New.
type Options struct {
	// Client reads ingresses, ingress classes, services, endpoint slices and secrets, and must mirror them, but for secrets where
	// there is a Follower.
	Client *client.Client
	// Follower brings the certificates that Ingresses name into the Client's copy; nil where that has all secrets.
	Follower client.Follower
	// HTTP and HTTPS are the addresses to listen on, as net.Listen takes them. "" means not at all. An address that is taken
	// is logged and tried again until it is free.
	HTTP, HTTPS string
	// Registerer takes the metrics; nil for none.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Server is one node's entry for HTTP and HTTPS. Its exported methods are safe for concurrent use.
type Server struct {
	opts       Options
	logger     *slog.Logger
	table      atomic.Pointer[table]
	transports *transports
	buffers    buffers
	metrics    *metrics
	selfSigned *tls.Certificate
	entrances  []*entrance
	requests   sync.WaitGroup // under way, WebSockets included

	// Of Run's goroutine alone:
	backends map[types.NamespacedName]map[backendKey]*backend // by service
	slices   sliceIndex
	certs    certificates
	secrets  map[types.NamespacedName]bool // that the table is made from
	held     map[types.NamespacedName]*client.Hold

	mu       sync.Mutex
	peers    map[netip.AddrPort]*peer
	leaving  map[netip.AddrPort]bool // peers in no pool, maybe still asked
	progress chan struct{}           // closed when an endpoint is no longer chosen
}

// New returns a server. It fails when its metrics are registered already.
func New(opts Options) (*Server, error) {
	cert, err := selfSigned(time.Now())
	if err != nil {
		return nil, fmt.Errorf("make the default certificate: %w", err)
	}
	s := &Server{
		opts: opts, logger: opts.Logger, transports: newTransports(), selfSigned: cert, certs: certificates{},
		backends: map[types.NamespacedName]map[backendKey]*backend{}, held: map[types.NamespacedName]*client.Hold{},
		peers: map[netip.AddrPort]*peer{}, leaving: map[netip.AddrPort]bool{}, progress: make(chan struct{}),
	}
	if s.metrics, err = newMetrics(opts.Registerer, s.transports); err != nil {
		return nil, err
	}
	s.table.Store(&table{})
	for _, at := range []struct {
		address string
		tls     bool
	}{{opts.HTTP, false}, {opts.HTTPS, true}} {
		if at.address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(at.address); err != nil {
			return nil, fmt.Errorf("listen on %q: %w", at.address, err)
		}
		s.entrances = append(s.entrances, &entrance{server: s, address: at.address, encrypted: at.tls, bound: make(chan struct{})})
	}
	return s, nil
}

// Name is the component's name in logs.
func (s *Server) Name() string { return "ingress" }

// Run serves until ctx ends, then lets requests under way finish for a moment.
func (s *Server) Run(ctx context.Context) error {
	if len(s.entrances) == 0 {
		<-ctx.Done()
		return nil
	}
	// Requests outlive ctx for that moment; with requestsCtx they end, WebSockets too.
	requestsCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var entrances sync.WaitGroup
	defer func() {
		entrances.Wait()
		cancel()
		s.requests.Wait()
		s.transports.close()
		s.secrets = nil
		s.hold()
	}()
	serve := sync.OnceFunc(func() {
		for _, e := range s.entrances {
			entrances.Go(func() { e.run(ctx, requestsCtx) })
		}
	})
	for ctx.Err() == nil {
		err := s.follow(ctx, serve)
		switch {
		case ctx.Err() != nil || errors.Is(err, client.ErrClosed):
			return nil
		case !errors.Is(err, client.ErrCompacted):
			return err
		}
	}
	return nil
}

// follow makes the table from a snapshot, calls serve, and keeps the table true until ctx ends or events are gone.
func (s *Server) follow(ctx context.Context, serve func()) error {
	c := s.opts.Client
	snapshot := c.Snapshot()
	f, err := client.OpenFeed(c, snapshot.Revision(), client.ResourceOf[*networkingv1.Ingress](c), client.ResourceOf[*networkingv1.IngressClass](c),
		client.ResourceOf[*corev1.Service](c), client.ResourceOf[*discoveryv1.EndpointSlice](c), client.ResourceOf[*corev1.Secret](c))
	if err != nil {
		return err
	}
	s.slices = sliceIndex{}
	for _, slice := range client.List[*discoveryv1.EndpointSlice](c, snapshot, "", nil) {
		s.slices.add(slice)
	}
	s.compile(snapshot)
	if s.awaitCertificates(ctx) {
		snapshot = c.Snapshot()
		s.compile(snapshot)
	}
	for service := range s.backends {
		s.refresh(snapshot, service)
	}
	serve()
	var p pace
	var due <-chan time.Time
	for {
		events, expired, err := await(ctx, f, due)
		if err != nil {
			return err
		}
		stale, services := s.note(events)
		snapshot := c.Snapshot()
		for service := range services {
			s.refresh(snapshot, service)
		}
		switch {
		case expired:
			start := time.Now()
			s.compile(snapshot)
			p.took(start)
			due = nil
		case stale && due == nil:
			due = p.wait()
		}
	}
}

// note takes in events. It says whether the table is stale, and for which services the endpoints may be others now.
func (s *Server) note(events []client.Event) (stale bool, services map[types.NamespacedName]bool) {
	services = map[types.NamespacedName]bool{}
	changed := func(service types.NamespacedName) {
		if s.backends[service] != nil {
			services[service] = true
		}
	}
	for _, e := range events {
		switch e.Item.Object.(type) {
		case *networkingv1.Ingress:
			stale = stale || specChanged(e)
		case *networkingv1.IngressClass:
			stale = true
		case *corev1.Secret:
			stale = stale || s.secrets[nameOf(e.Item)]
		case *corev1.Service:
			changed(nameOf(e.Item))
		case *discoveryv1.EndpointSlice:
			s.slices.note(e, changed)
		}
	}
	return stale, services
}

// compile makes the table anew, with the endpoints of backends that it did not have before.
func (s *Server) compile(snapshot client.Snapshot) {
	fresh := map[types.NamespacedName]bool{}
	out := compile(worldOf(s.opts.Client, snapshot, s.certs, func(key backendKey) *backend {
		if b := s.backends[key.service][key]; b != nil {
			return b
		}
		if s.backends[key.service] == nil {
			s.backends[key.service] = map[backendKey]*backend{}
		}
		b := newBackend(s.transports, s.reverseProxy())
		s.backends[key.service][key] = b
		fresh[key.service] = true
		return b
	}))
	for service := range fresh {
		s.refresh(snapshot, service)
	}
	s.table.Store(out.table)
	s.secrets = out.secrets
	s.hold()
	s.certs.forget(out.secrets)
	for service, backends := range s.backends {
		for key, b := range backends {
			if out.backends[key] {
				continue
			}
			// A request that read the table before may still be on its way to it, so it keeps its pool.
			s.count(b.pool.Load(), nil)
			delete(backends, key)
		}
		if len(backends) == 0 {
			delete(s.backends, service)
		}
	}
}

// refresh brings the pools of a service's backends up to date.
func (s *Server) refresh(snapshot client.Snapshot, service types.NamespacedName) {
	svc, _ := client.From[*corev1.Service](s.opts.Client, snapshot, service.Namespace, service.Name)
	for key, b := range s.backends[service] {
		addresses, speaks := resolve(svc, s.slices[service], key.port)
		before := b.pool.Load()
		if before.protocol == speaks && slices.Equal(before.addresses, addresses) {
			continue
		}
		now := &pool{addresses: addresses, protocol: speaks, endpoints: make([]endpoint, len(addresses))}
		for i, a := range addresses {
			now.endpoints[i] = endpoint{host: a.String(), peer: s.peer(a.AddrPort)}
		}
		b.pool.Store(now)
		s.count(before, now)
	}
}

// peer returns the one peer of an address.
func (s *Server) peer(at netip.AddrPort) *peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peers[at]
	if p == nil {
		p = &peer{idle: make(chan struct{}, 1)}
		s.peers[at] = p
	}
	return p
}

// count counts a pool that took another's place: who is in pools, and who is chosen. Either may be nil.
func (s *Server) count(before, now *pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	add := func(p *pool, delta int) {
		if p == nil {
			return
		}
		for i, a := range p.addresses {
			peer := p.endpoints[i].peer
			peer.pools += delta
			if !a.terminating {
				peer.chosen += delta
			}
			if peer.pools == 0 {
				s.leaving[a.AddrPort] = true
			}
		}
	}
	add(now, 1)
	add(before, -1)
	for at := range s.leaving {
		p := s.peers[at]
		if p.pools == 0 && p.asked.Load() > 0 {
			continue
		}
		if p.pools == 0 {
			delete(s.peers, at)
		}
		delete(s.leaving, at)
	}
	close(s.progress)
	s.progress = make(chan struct{})
}

// WaitWithdrawn waits until no request is sent to any of the addresses, terminating endpoints that serve because nobody else is left
// aside, and then a moment for the answers to those that were sent before. It stands between the end of a pod's readiness and
// its SIGTERM.
func (s *Server) WaitWithdrawn(ctx context.Context, addrs ...netip.Addr) error {
	for {
		s.mu.Lock()
		chosen, progress := false, s.progress
		var asked []*peer
		for at, p := range s.peers {
			if slices.Contains(addrs, at.Addr()) {
				chosen = chosen || p.chosen > 0
				asked = append(asked, p)
			}
		}
		s.mu.Unlock()
		if !chosen {
			waitAnswered(ctx, asked)
			return ctx.Err()
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// waitAnswered waits until the peers have answered all that they were asked, answerTime at most.
func waitAnswered(ctx context.Context, peers []*peer) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	for _, p := range peers {
		for p.asked.Load() > 0 {
			select {
			case <-p.idle:
			case <-ctx.Done():
				return
			}
		}
		p.wake() // whoever waits besides us
	}
}
