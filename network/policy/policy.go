// Package policy enforces NetworkPolicies on the pods of one node. It compiles policies, pods and namespaces to one nftables table
// and keeps the kernel at it by netlink: an address of an isolated pod leads to the chain of its rules, which pods under
// the same rules share, and the rules look addresses up in sets, one for each selector in use. A change of a pod is a change of
// a few elements. Only daemon imports it; it imports client.
//
//	out, in     address of a pod of this node → jump out-…, in-…
//	in-…        the other side's address in pods-… or blocks-…, destination in named-…, port in ports-… → return; else drop
//
// Policies hold where packets are forwarded, after services have become endpoints. What a pod and its own node say to each other
// passes always, as do the packets of connections that were let in once.
package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/network/nft"
)

// DefaultTable is the name of the nftables table (family inet).
const DefaultTable = "keb-policy"

const (
	// retryDelay is how long a refused transaction rests before the whole table is loaded anew.
	retryDelay = time.Second
	// guardTime bounds how long a pod's start waits for its rules.
	guardTime = 10 * time.Second
)

// Options say what is enforced. They are not changed after New.
type Options struct {
	// Client reads pods, namespaces and network policies, which it must mirror.
	Client   *client.Client
	NodeName string
	// ClusterCIDRs are the ranges of all pods, at most one per address family. Families without one are left alone.
	ClusterCIDRs []netip.Prefix
	// Table is the nftables table; "" means DefaultTable.
	Table string
	// NetNS is the path of the network namespace to work in; "" means the process's own.
	NetNS  string
	Logger *slog.Logger
}

// Policies enforces the policies on one node. Guard is safe for concurrent use.
type Policies struct {
	opts   Options
	logger *slog.Logger
	loaded chan struct{} // closed once the table is there
	repair chan struct{} // tells Run that the table must be loaded anew

	mu      sync.Mutex // guards what follows
	model   *model
	kernel  *kernel
	broken  bool // the kernel refused something: the table must be loaded anew
	guarded map[types.NamespacedName]guard
}

// guard is what a pod's start told, until the pod's status tells it.
type guard struct {
	uid   types.UID
	addrs []netip.Addr
}

// New returns the policies of a node. It fails when the namespace cannot be opened.
func New(opts Options) (*Policies, error) {
	t, err := nft.Open(cmp.Or(opts.Table, DefaultTable), opts.NetNS)
	if err != nil {
		return nil, err
	}
	return &Policies{opts: opts, logger: opts.Logger, loaded: make(chan struct{}), repair: make(chan struct{}, 1), model: newModel(),
		guarded: map[types.NamespacedName]guard{}, kernel: &kernel{Table: t, families: families(opts.ClusterCIDRs)}}, nil
}

// Name is the component's name in logs.
func (p *Policies) Name() string { return "policy" }

// Reset removes the table of a node that is given up. Only Table and NetNS of the options count.
func Reset(opts Options) error {
	t, err := nft.Open(cmp.Or(opts.Table, DefaultTable), opts.NetNS)
	if err != nil {
		return err
	}
	defer t.Close()
	return t.Remove()
}

// Run keeps the table true until ctx ends. The table stays when Run returns: isolated pods stay isolated, and the next Run
// replaces it in one transaction.
func (p *Policies) Run(ctx context.Context) error {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.kernel.Close()
	}()
	first := true
	for ctx.Err() == nil {
		err := p.follow(ctx, func() {
			if first {
				close(p.loaded)
				first = false
			}
		})
		switch {
		case ctx.Err() != nil || errors.Is(err, client.ErrClosed):
			return nil
		case errors.Is(err, client.ErrCompacted):
			continue
		case first:
			return fmt.Errorf("%w (the kernel must have nf_tables with sets of ranges and conntrack for family inet)", err)
		}
		p.logger.Error("network policies are not programmed: loading the whole table anew", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryDelay):
		}
	}
	return nil
}

// dirty are the objects that changed.
type dirty struct {
	pods, policies map[types.NamespacedName]bool
	namespaces     map[string]bool
}

func newDirty() *dirty {
	return &dirty{pods: map[types.NamespacedName]bool{}, policies: map[types.NamespacedName]bool{}, namespaces: map[string]bool{}}
}

// follow loads the whole table and then applies changes, until one fails or ctx ends. loaded is called once the table is there.
func (p *Policies) follow(ctx context.Context, loaded func()) error {
	f, err := p.start()
	if err != nil {
		return err
	}
	loaded()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.repair:
			return errors.New("a change at the start of a pod was refused")
		case <-f.Pending(0):
		case <-f.Pending(1):
		case <-f.Pending(2):
		}
		d := newDirty()
		_, err := f.Drain(d.note)
		if err == nil {
			err = p.refresh(d)
		}
		if err != nil {
			return err
		}
	}
}

// start compiles everything there is, loads it, and returns the feed of what comes after.
func (p *Policies) start() (*client.Feed, error) {
	c := p.opts.Client
	s := c.Snapshot()
	f, err := client.OpenFeed(c, s.Revision(), client.ResourceOf[*corev1.Pod](c), client.ResourceOf[*corev1.Namespace](c),
		client.ResourceOf[*networkingv1.NetworkPolicy](c))
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.model = newModel()
	d := newDirty()
	for _, ns := range client.List[*corev1.Namespace](c, s, "", nil) {
		d.namespaces[ns.Name] = true
	}
	for _, np := range client.List[*networkingv1.NetworkPolicy](c, s, "", nil) {
		d.policies[types.NamespacedName{Namespace: np.Namespace, Name: np.Name}] = true
	}
	for _, pod := range client.List[*corev1.Pod](c, s, "", nil) {
		d.pods[types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}] = true
	}
	p.update(s, d)
	return f, p.reload()
}

// reload replaces the table by what the model wants. p.mu is held.
func (p *Policies) reload() error {
	p.broken = true
	if err := p.kernel.load(p.model.whole()); err != nil {
		p.kernel.HangUp()
		return err
	}
	p.broken = false
	return nil
}

// note takes in an event. It only says what changed: its state is read when it is needed.
func (d *dirty) note(e client.Event) {
	switch e.Item.Object.(type) {
	case *corev1.Pod:
		d.pods[nameOf(e.Item)] = true
	case *corev1.Namespace:
		d.namespaces[e.Item.Key.Name] = true
	case *networkingv1.NetworkPolicy:
		d.policies[nameOf(e.Item)] = true
	}
}

func nameOf(item *client.Item) types.NamespacedName {
	return types.NamespacedName{Namespace: item.Key.Namespace, Name: item.Key.Name}
}

// refresh brings model and kernel to the present state of the objects named.
func (p *Policies) refresh(d *dirty) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A snapshot of before the lock could be older than what is in the kernel by now.
	b := p.update(p.opts.Client.Snapshot(), d)
	if p.broken {
		return p.reload()
	}
	c := p.model.changes(b)
	if c.empty() {
		return nil
	}
	if err := p.kernel.apply(c); err != nil {
		p.kernel.HangUp()
		p.broken = true
		return err
	}
	return nil
}

// update brings the model to the state that a snapshot has of the objects named. p.mu is held.
func (p *Policies) update(s client.Snapshot, d *dirty) *batch {
	c, b := p.opts.Client, newBatch()
	for name := range d.namespaces {
		var l labels.Set
		if ns, ok := client.From[*corev1.Namespace](c, s, "", name); ok {
			l = labels.Set(ns.Labels)
			if l == nil {
				l = labels.Set{}
			}
		}
		p.model.updateNamespace(b, name, l)
	}
	for key := range d.policies {
		np, ok := client.From[*networkingv1.NetworkPolicy](c, s, key.Namespace, key.Name)
		if !ok {
			p.model.updatePolicy(b, key, nil)
			continue
		}
		if have := p.model.policies[key.Namespace][key.Name]; have != nil && have.source == np {
			continue
		}
		compiled, err := compilePolicy(np)
		if err != nil {
			p.logger.Warn("network policy is not understood in part; that part allows nothing", "policy", key, "error", err)
		}
		p.model.updatePolicy(b, key, compiled)
	}
	for key := range d.pods {
		obj, ok := client.From[*corev1.Pod](c, s, key.Namespace, key.Name)
		if !ok {
			delete(p.guarded, key)
			p.model.updatePod(b, key, nil)
			continue
		}
		g := p.guarded[key]
		if g.uid != obj.UID {
			delete(p.guarded, key)
			g = guard{}
		}
		p.model.updatePod(b, key, newPod(obj, p.opts.NodeName).with(g.addrs))
	}
	return b
}

// Guard puts the rules of a pod in force for addresses that it is about to get, and returns once they are. It fails when the
// API does not know the pod, or not within ten seconds; then the pod must not have the addresses.
func (p *Policies) Guard(ctx context.Context, namespace, name string, addrs []netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, guardTime)
	defer cancel()
	key := types.NamespacedName{Namespace: namespace, Name: name}
	select {
	case <-p.loaded:
	case <-ctx.Done():
		return fmt.Errorf("isolate pod %s: network policies are not loaded: %w", key, ctx.Err())
	}
	s, obj, err := p.await(ctx, key)
	if err != nil {
		return fmt.Errorf("isolate pod %s: %w", key, err)
	}
	d := newDirty()
	d.pods[key], d.namespaces[namespace] = true, true
	// The events of policies that are older than the pod may still be under way.
	for _, np := range client.List[*networkingv1.NetworkPolicy](p.opts.Client, s, namespace, nil) {
		d.policies[types.NamespacedName{Namespace: namespace, Name: np.Name}] = true
	}
	p.mu.Lock()
	p.guarded[key] = guard{obj.UID, addrs}
	p.mu.Unlock()
	if err := p.refresh(d); err != nil {
		select {
		case p.repair <- struct{}{}:
		default: // it is under way
		}
		return fmt.Errorf("isolate pod %s: %w", key, err)
	}
	return nil
}

// await waits until the shared copy has a pod, which it may be told of later than the agent.
func (p *Policies) await(ctx context.Context, key types.NamespacedName) (client.Snapshot, *corev1.Pod, error) {
	c := p.opts.Client
	for {
		s := c.Snapshot()
		if pod, ok := client.From[*corev1.Pod](c, s, key.Namespace, key.Name); ok {
			return s, pod, nil
		}
		watch, err := c.Watch(client.ResourceOf[*corev1.Pod](c), s.Revision())
		if err != nil {
			return s, nil, err
		}
		if _, _, err := watch.Next(ctx); err != nil {
			return s, nil, err
		}
	}
}
