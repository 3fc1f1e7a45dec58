// Package routes keeps a node's ways to the pods of all other nodes: by the link that both nodes have, where they have one, and
// else through a VXLAN tunnel. Every node computes its own ways from the Node objects and its own links; nodes say nothing to each
// other, and nothing is learned from packets. Only daemon imports it; it imports client and network.
package routes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/network"
)

// How long a refused change rests before it is tried again, the first time and at most.
const (
	retryFirst = 500 * time.Millisecond
	retryMost  = time.Minute
)

// Options say whose ways are kept. They are not changed after New.
type Options struct {
	// Client reads nodes, which it must mirror.
	Client   *client.Client
	NodeName string
	// ClusterCIDRs are the ranges of all pods, at most one per address family.
	ClusterCIDRs []netip.Prefix
	// Network is told how large pods' packets may be; nothing happens before it is ready.
	Network *network.Network
	// NetNS is the path of the network namespace to work in; "" means the process's own.
	NetNS  string
	Logger *slog.Logger
}

// Routes keeps the ways of one node.
type Routes struct {
	opts   Options
	logger *slog.Logger
	kernel *kernel
	// Of Run's goroutine alone:
	nodes  map[string]node
	locals []local  // as they were when the node's own address was among them
	faults []string // told last
}

// New returns the routes of a node. It fails when the namespace cannot be opened or netlink is refused.
func New(opts Options) (*Routes, error) {
	k, err := newKernel(opts.NetNS)
	if err != nil {
		return nil, err
	}
	return &Routes{opts: opts, logger: opts.Logger, kernel: k}, nil
}

// Name is the component's name in logs.
func (r *Routes) Name() string { return "routes" }

// Reset removes all routes and the tunnel of a node that is given up. Only NetNS of the options counts.
func Reset(opts Options) error {
	k, err := newKernel(opts.NetNS)
	if err != nil {
		return err
	}
	defer k.close()
	return k.apply(plan{}, 0)
}

// Run keeps the ways true until ctx ends, and leaves them as they are then.
func (r *Routes) Run(ctx context.Context) error {
	defer r.kernel.close()
	select {
	case <-r.opts.Network.Ready():
	case <-ctx.Done():
		return nil
	}
	links := make(chan struct{}, 1)
	watching, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer stop()
	watcher.Go(func() {
		ended <- network.Watch(watching, r.opts.NetNS, func() {
			select {
			case links <- struct{}{}:
			default: // a look is due already
			}
		})
	})
	for ctx.Err() == nil {
		err := r.follow(ctx, links, ended)
		switch {
		case ctx.Err() != nil || errors.Is(err, client.ErrClosed):
			return nil
		case !errors.Is(err, client.ErrCompacted):
			return err
		}
	}
	return nil
}

// follow brings the kernel up to date, now and whenever nodes or links change.
func (r *Routes) follow(ctx context.Context, links <-chan struct{}, ended <-chan error) error {
	c := r.opts.Client
	s := c.Snapshot()
	watch, err := c.Watch(client.ResourceOf[*corev1.Node](c), s.Revision())
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	r.nodes = map[string]node{}
	for _, n := range client.List[*corev1.Node](c, s, "", nil) {
		r.nodes[n.Name] = newNode(n)
	}
	delay := time.Duration(0)
	for due := true; ; {
		var retry <-chan time.Time
		if due {
			if err := r.sync(); err != nil {
				delay = min(max(2*delay, retryFirst), retryMost)
				r.logger.Error("routes to other nodes are not complete; trying again", "in", delay, "error", err)
			} else {
				delay = 0
			}
		}
		if delay > 0 {
			retry = time.After(delay)
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		case <-links:
			due = true
		case <-retry:
			due = true
		case <-watch.Pending():
			if due, err = r.drain(watch); err != nil {
				return err
			}
		}
	}
}

// drain takes all events there are, and says whether they change anything.
func (r *Routes) drain(watch *client.Watch) (changed bool, err error) {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		events, _, err := watch.Next(now)
		if err != nil && !errors.Is(err, context.Canceled) {
			return changed, err
		}
		if len(events) == 0 {
			return changed, nil
		}
		for _, e := range events {
			before, was := r.nodes[e.Item.Key.Name]
			if e.Type == client.Delete {
				delete(r.nodes, e.Item.Key.Name)
				changed = changed || was
				continue
			}
			after := newNode(e.Item.Object.(*corev1.Node))
			r.nodes[after.name] = after
			changed = changed || !was || !before.equal(&after)
		}
	}
}

// sync makes the kernel what the nodes and links of this moment ask for.
func (r *Routes) sync() error {
	self, ok := r.nodes[r.opts.NodeName]
	if !ok {
		return nil // it will register again; what stands serves until then
	}
	peers := make([]node, 0, len(r.nodes))
	for name, n := range r.nodes {
		if name != self.name {
			peers = append(peers, n)
		}
	}
	locals, err := r.kernel.locals()
	if err != nil {
		return err
	}
	// While the node's address changes, or its link is down for a moment, the ways stay as they were.
	if at := slices.ContainsFunc(locals, func(l local) bool { return slices.Contains(self.addresses, l.prefix.Addr()) }); at || r.locals == nil {
		r.locals = locals
	}
	p := makePlan(self, peers, r.locals, r.opts.ClusterCIDRs)
	if !slices.Equal(p.faults, r.faults) {
		r.faults = p.faults
		for _, f := range p.faults {
			r.logger.Warn("pods of a node cannot be reached", "because", f)
		}
	}
	mtu, err := r.opts.Network.SetOverhead(p.tunnel.overhead())
	if mtu == 0 {
		return err
	}
	return errors.Join(err, r.kernel.apply(p, mtu))
}
