// Package proxy compiles Services, their EndpointSlices and the host ports of the node's pods to one nftables table, and keeps
// the kernel at it by netlink. The number of chains and rules does not grow with the number of services: a verdict map leads from
// a frontend to the chain for n endpoints, which all frontends with n endpoints share, and that chain finds the
// endpoint in one map, at an index chosen by chance. A change of a service is a change of a few elements in one transaction.
// Only daemon and agent import it; it imports client.
//
//	services    address . protocol . port           → goto one-of-3
//	one-of-3    address . protocol . port . random mod 3, looked up in endpoints → dnat
//	endpoints   address . protocol . port . index   → address . port
//
// docs: https://wiki.nftables.org (verdict maps, concatenations).
package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/network/nft"
)

// DefaultTable is the name of the nftables table (family inet).
const DefaultTable = "keb"

// retryDelay is how long a refused transaction rests before the whole table is loaded anew.
const retryDelay = time.Second

// Options say what a proxy works on. They are not changed after New.
type Options struct {
	// Client reads services, endpoint slices, pods and nodes; it must mirror the first two, and pods for host ports.
	Client   *client.Client
	NodeName string
	// ClusterCIDRs are the ranges of all pods, at most one per address family. Families without one are left alone.
	ClusterCIDRs []netip.Prefix
	// ServiceCIDRs are the ranges of cluster IPs; packets to addresses in them that no service has are dropped.
	ServiceCIDRs []netip.Prefix
	// Bridge is the link that pods hang on.
	Bridge string
	// Table is the nftables table; "" means DefaultTable.
	Table string
	// NetNS is the path of the network namespace to work in; "" means the process's own.
	NetNS  string
	Logger *slog.Logger
}

// Proxy programs the services of one node. Its exported methods are safe for concurrent use.
type Proxy struct {
	opts   Options
	logger *slog.Logger
	kernel *kernel

	// Of Run's goroutine alone:
	table  *table
	slices map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice // of a service, by name
	node   Node
	health *healthChecks
	loaded bool // the table, once

	mu       sync.Mutex
	applied  int64              // the revision that the kernel is at
	serving  map[netip.Addr]int // how many plans in the kernel give an address new connections
	progress chan struct{}      // closed when applied or serving change
	poke     chan struct{}      // wakes Run to bring applied up to date
}

// New returns a proxy. It fails on options that contradict each other and when the namespace cannot be opened.
func New(opts Options) (*Proxy, error) {
	if opts.Table == "" {
		opts.Table = DefaultTable
	}
	if n := len(opts.ClusterCIDRs); n == 0 || n > 2 || n == 2 && opts.ClusterCIDRs[0].Addr().Is6() == opts.ClusterCIDRs[1].Addr().Is6() {
		return nil, fmt.Errorf("cluster ranges %v: need one, or one of each address family", opts.ClusterCIDRs)
	}
	t, err := nft.Open(opts.Table, opts.NetNS)
	if err != nil {
		return nil, err
	}
	return &Proxy{opts: opts, logger: opts.Logger, health: &healthChecks{netns: opts.NetNS, logger: opts.Logger, servers: map[uint16]*healthServer{}},
		progress: make(chan struct{}), poke: make(chan struct{}, 1), serving: map[netip.Addr]int{},
		kernel: &kernel{Table: t, families: families(opts.ClusterCIDRs, opts.ServiceCIDRs), bridge: opts.Bridge}}, nil
}

// Name is the component's name in logs.
func (p *Proxy) Name() string { return "proxy" }

// Reset removes the table of a node that is given up. Only Table and NetNS of the options count.
func Reset(opts Options) error {
	t, err := nft.Open(cmp.Or(opts.Table, DefaultTable), opts.NetNS)
	if err != nil {
		return err
	}
	defer t.Close()
	return t.Remove()
}

// Run keeps the table true until ctx ends. The table stays when Run returns: connections go on without us, and the next
// Run replaces it in one transaction.
func (p *Proxy) Run(ctx context.Context) error {
	defer p.kernel.Close()
	defer p.health.close()
	flushes := make(chan map[flow]bool, 1)
	var flusher sync.WaitGroup
	defer flusher.Wait()
	defer close(flushes)
	flusher.Go(func() {
		for gone := range flushes {
			if err := p.kernel.flush(gone); err != nil {
				p.logger.Warn("UDP clients may keep sending to endpoints that are gone", "error", err)
			}
		}
	})
	for ctx.Err() == nil {
		err := p.follow(ctx, flushes)
		switch {
		case ctx.Err() != nil || errors.Is(err, client.ErrClosed):
			return nil
		case errors.Is(err, client.ErrCompacted):
			continue
		case !p.loaded:
			return fmt.Errorf("%w (the kernel must have nf_tables with NAT, fib, numgen, reject and masquerade for family inet)", err)
		}
		p.kernel.HangUp()
		p.logger.Error("services are not programmed: loading the whole table anew", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryDelay):
		}
	}
	return nil
}

// follow loads the whole table and then applies changes, until one fails or ctx ends.
func (p *Proxy) follow(ctx context.Context, flushes chan map[flow]bool) error {
	feed, err := p.start()
	if err != nil {
		return err
	}
	var late map[flow]bool // what the flusher has not taken yet
	for {
		var asked int64
		offer := flushes
		if len(late) == 0 {
			offer = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case offer <- late:
			late = nil
			continue
		case <-p.poke:
			asked = p.opts.Client.Snapshot().Revision()
		case <-feed.Pending(0):
		case <-feed.Pending(1):
		case <-feed.Pending(2):
		case <-feed.Pending(3):
		}
		dirty := map[owner]bool{}
		revision, err := feed.Drain(func(e client.Event) { p.note(dirty, e) })
		if err != nil {
			return err
		}
		b := p.compile(dirty)
		if !b.empty() {
			if err := p.kernel.apply(b); err != nil {
				return err
			}
		}
		if late == nil {
			late = b.gone
		} else {
			for f := range b.gone {
				late[f] = true
			}
		}
		p.check(b)
		p.acknowledge(revision, b)
		if revision < asked {
			p.prompt() // a snapshot is visible a moment before its events are
		}
	}
}

// prompt makes Run look how far it is.
func (p *Proxy) prompt() {
	select {
	case p.poke <- struct{}{}:
	default: // it is about to look
	}
}

// start compiles everything there is, loads it, and returns the feed of what comes after.
func (p *Proxy) start() (*client.Feed, error) {
	c := p.opts.Client
	s := c.Snapshot()
	f, err := client.OpenFeed(c, s.Revision(), client.ResourceOf[*corev1.Service](c), client.ResourceOf[*discoveryv1.EndpointSlice](c),
		client.ResourceOf[*corev1.Pod](c), client.ResourceOf[*corev1.Node](c))
	if err != nil {
		return nil, err
	}
	p.table = newTable()
	p.slices = map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice{}
	p.node = Node{Name: p.opts.NodeName}
	if node, ok := client.From[*corev1.Node](c, s, "", p.opts.NodeName); ok {
		p.node.Zone = node.Labels[corev1.LabelTopologyZone]
	}
	for _, slice := range client.List[*discoveryv1.EndpointSlice](c, s, "", nil) {
		p.noteSlice(slice, false)
	}
	b := newBatch()
	for _, svc := range client.List[*corev1.Service](c, s, "", nil) {
		who := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
		p.table.update(b, owner{NamespacedName: who}, compileService(svc, p.slicesOf(who), p.node))
	}
	for _, pod := range client.List[*corev1.Pod](c, s, "", nil) {
		who := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
		p.table.update(b, owner{who, true}, compilePod(pod, p.node))
	}
	p.table.seal(b)
	if err := p.kernel.load(b); err != nil {
		return nil, err
	}
	p.loaded = true
	p.health.retain(func(who types.NamespacedName) healthCheck { return p.table.plans[owner{NamespacedName: who}].health })
	p.check(b)
	p.mu.Lock()
	p.serving = map[netip.Addr]int{}
	p.mu.Unlock()
	p.acknowledge(s.Revision(), b)
	return f, nil
}

// note adds those whose plans an event may change.
func (p *Proxy) note(dirty map[owner]bool, e client.Event) {
	switch obj := e.Item.Object.(type) {
	case *corev1.Service:
		dirty[owner{NamespacedName: nameOf(e.Item)}] = true
	case *discoveryv1.EndpointSlice:
		p.noteSliceEvent(dirty, e)
	case *corev1.Pod:
		if hasHostPorts(obj, p.node) {
			dirty[owner{nameOf(e.Item), true}] = true
		}
	case *corev1.Node:
		p.noteNodeEvent(dirty, e)
	}
}

// check opens, closes and updates the health-check node ports that a batch changes. Closing comes first, as ports move.
func (p *Proxy) check(b *batch) {
	for who, h := range b.health {
		p.health.set(who, h[0], healthCheck{})
	}
	for who, h := range b.health {
		p.health.set(who, healthCheck{}, h[1])
	}
}

// compile brings the plans of the owners up to date and returns what changes.
func (p *Proxy) compile(dirty map[owner]bool) *batch {
	c, b := p.opts.Client, newBatch()
	s := c.Snapshot()
	for who := range dirty {
		var next plan
		if who.pod {
			if pod, ok := client.From[*corev1.Pod](c, s, who.Namespace, who.Name); ok {
				next = compilePod(pod, p.node)
			}
		} else if svc, ok := client.From[*corev1.Service](c, s, who.Namespace, who.Name); ok {
			next = compileService(svc, p.slicesOf(who.NamespacedName), p.node)
		}
		p.table.update(b, who, next)
	}
	p.table.seal(b)
	return b
}

func (p *Proxy) noteSliceEvent(dirty map[owner]bool, e client.Event) {
	if e.Prev != nil {
		if who, ok := p.noteSlice(e.Prev.Object.(*discoveryv1.EndpointSlice), true); ok {
			dirty[owner{NamespacedName: who}] = true
		}
	}
	if e.Type == client.Put {
		if who, ok := p.noteSlice(e.Item.Object.(*discoveryv1.EndpointSlice), false); ok {
			dirty[owner{NamespacedName: who}] = true
		}
	}
}

// noteSlice files a slice under its service, or takes it away. Slices of headless services are none of ours.
func (p *Proxy) noteSlice(slice *discoveryv1.EndpointSlice, gone bool) (types.NamespacedName, bool) {
	who := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
	if _, headless := slice.Labels[corev1.IsHeadlessService]; headless || who.Name == "" {
		return who, false
	}
	if gone {
		delete(p.slices[who], slice.Name)
		if len(p.slices[who]) == 0 {
			delete(p.slices, who)
		}
		return who, true
	}
	if p.slices[who] == nil {
		p.slices[who] = map[string]*discoveryv1.EndpointSlice{}
	}
	p.slices[who][slice.Name] = slice
	return who, true
}

func (p *Proxy) slicesOf(who types.NamespacedName) []*discoveryv1.EndpointSlice {
	out := make([]*discoveryv1.EndpointSlice, 0, len(p.slices[who]))
	for _, slice := range p.slices[who] {
		out = append(out, slice)
	}
	return out
}

// noteNodeEvent looks for a new zone of this node, which may change every service.
func (p *Proxy) noteNodeEvent(dirty map[owner]bool, e client.Event) {
	if e.Item.Key.Name != p.node.Name || e.Type != client.Put {
		return
	}
	zone := e.Item.Object.GetLabels()[corev1.LabelTopologyZone]
	if zone == p.node.Zone {
		return
	}
	p.node.Zone = zone
	for who := range p.table.plans {
		dirty[who] = true
	}
}

func nameOf(item *client.Item) types.NamespacedName {
	return types.NamespacedName{Namespace: item.Key.Namespace, Name: item.Key.Name}
}

// acknowledge tells those who wait how far the kernel is.
func (p *Proxy) acknowledge(revision int64, b *batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if revision == p.applied && len(b.serving) == 0 {
		return
	}
	p.applied = max(p.applied, revision)
	for addr, delta := range b.serving {
		if p.serving[addr] += delta; p.serving[addr] == 0 {
			delete(p.serving, addr)
		}
	}
	close(p.progress)
	p.progress = make(chan struct{})
}

// WaitRevision waits until the kernel is at a revision of the client's snapshot, or newer.
func (p *Proxy) WaitRevision(ctx context.Context, revision int64) error {
	p.prompt()
	return p.wait(ctx, func() bool { return p.applied >= revision })
}

// WaitWithdrawn waits until no service gives new connections to any of the addresses, endpoints that terminate aside: those get
// some only where nobody else is left. It is what stands between the end of a pod's readiness and its SIGTERM.
func (p *Proxy) WaitWithdrawn(ctx context.Context, addrs ...netip.Addr) error {
	return p.wait(ctx, func() bool {
		for _, addr := range addrs {
			if p.serving[addr] > 0 {
				return false
			}
		}
		return true
	})
}

// wait waits until done says so; it is called with p.mu held.
func (p *Proxy) wait(ctx context.Context, done func() bool) error {
	for {
		p.mu.Lock()
		ok, progress := done(), p.progress
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// routeHandle opens netlink for conntrack in the namespace.
func (k *kernel) routeHandle() (*netlink.Handle, error) {
	ns := netns.None()
	if fd, ok := k.NetNS(); ok {
		ns = netns.NsHandle(fd)
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return h, nil
}
