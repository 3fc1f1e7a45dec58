// Package network links pods to their node: one bridge per node, one veth pair per pod, addresses from the node's ranges.
// The runtime's CNI plugin (cmd/keb-cni) asks for links over a unix socket, and this package makes them by netlink in its own
// process. Rules (services, host ports, masquerade) are proxy's. Only daemon and agent import it; it imports none of ours.
//
// Pods get single addresses (/32, /128) with a default route through the bridge, so that every packet between pods, of
// one node too, passes the node's routing and its rules: services and policies need no bridge netfilter, whatever
// net.bridge.bridge-nf-call-iptables says.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// DefaultBridge is the name of the node's bridge.
const DefaultBridge = "keb0"

// Options say how a node's pods are linked. They are not changed after New.
type Options struct {
	// PodCIDRs returns the node's pod ranges, at most one per address family, and may wait until they are known.
	PodCIDRs func(ctx context.Context) ([]netip.Prefix, error)
	// ServiceCIDRs are routed to the bridge, so that the node reaches services without having a default route.
	ServiceCIDRs []netip.Prefix
	// LocalAddresses are put on the bridge besides the gateways: addresses that the node itself serves, as the cluster DNS.
	LocalAddresses []netip.Addr
	// Guard, when set, is called before a pod gets its addresses, and again for the pods that Run finds; the pod gets them only once
	// it has returned nil. It is how network policies are in force before a pod can send or be sent anything.
	Guard func(ctx context.Context, namespace, name string, addrs []netip.Addr) error
	// Bridge is the bridge's name; "" means DefaultBridge.
	Bridge string
	// Dir holds one small file per linked sandbox. It is made when missing.
	Dir string
	// Socket is where Run listens for the CNI plugin.
	Socket string
	// ConfDir is where Run writes the CNI configuration once it listens; "" writes none.
	ConfDir string
	// NetNS is the path of the network namespace to work in; "" means the process's own.
	NetNS  string
	Logger *slog.Logger
}

// Network is the pod network of one node. Safe for concurrent use.
type Network struct {
	opts   Options
	logger *slog.Logger
	node   *netlink.Handle // netlink in the node's namespace
	ready  chan struct{}

	// mu guards what follows. The kernel is changed outside of it: sandboxes differ in links and addresses.
	mu        sync.Mutex
	pools     []*pool
	sandboxes map[string]*sandbox // by id
	bridge    int                 // interface index
	mtu       int
}

// New returns the network of a node. It fails when the namespace cannot be opened or netlink is refused.
func New(opts Options) (*Network, error) {
	if opts.Bridge == "" {
		opts.Bridge = DefaultBridge
	}
	if len(opts.Bridge) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("bridge name %q: longer than %d bytes", opts.Bridge, unix.IFNAMSIZ-1)
	}
	node, err := openNode(opts.NetNS)
	if err != nil {
		return nil, err
	}
	return &Network{opts: opts, logger: opts.Logger, node: node, ready: make(chan struct{}), sandboxes: map[string]*sandbox{}}, nil
}

func openNode(path string) (*netlink.Handle, error) {
	if path == "" {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return nil, fmt.Errorf("open netlink: %w", err)
		}
		return h, nil
	}
	return handleAt(path)
}

// handleAt opens netlink in the namespace at path.
func handleAt(path string) (*netlink.Handle, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", path, err)
	}
	return h, nil
}

// Name is the component's name in logs.
func (n *Network) Name() string { return "network" }

// Ready is closed once Run has set the node up: from then on Attach works.
func (n *Network) Ready() <-chan struct{} { return n.ready }

// Run sets the node up, removes what dead sandboxes left, and then serves the CNI plugin until ctx ends. Links of live pods
// stay as they are, now and when Run returns.
func (n *Network) Run(ctx context.Context) error {
	defer n.node.Close()
	if err := n.setUp(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	close(n.ready)
	var guards sync.WaitGroup
	defer guards.Wait()
	guards.Go(func() { n.guardKept(ctx) })
	return n.serve(ctx)
}

// guardKept has the pods that an earlier run linked guarded anew: the API may not know all their addresses yet.
func (n *Network) guardKept(ctx context.Context) {
	n.mu.Lock()
	kept := slices.Collect(maps.Values(n.sandboxes))
	n.mu.Unlock()
	for _, s := range kept {
		if err := n.guard(ctx, s); err != nil && ctx.Err() == nil {
			n.logger.Info("the pod of a link is not guarded; it is gone, or its rules are as the API has them", "link", s.Link, "error", err)
		}
	}
}

// guard calls Guard for the pod of a sandbox, if it has one.
func (n *Network) guard(ctx context.Context, s *sandbox) error {
	if n.opts.Guard == nil || s.PodName == "" {
		return nil
	}
	return n.opts.Guard(ctx, s.PodNamespace, s.PodName, s.Addresses)
}

// setUp brings the node to its wanted state, whatever it was in.
func (n *Network) setUp(ctx context.Context) error {
	cidrs, err := n.opts.PodCIDRs(ctx)
	if err != nil {
		return fmt.Errorf("pod ranges of the node: %w", err)
	}
	pools := make([]*pool, 0, len(cidrs))
	for _, cidr := range cidrs {
		p, err := newPool(cidr)
		if err != nil {
			return err
		}
		pools = append(pools, p)
	}
	if len(pools) == 0 {
		return errors.New("pod ranges of the node: none")
	}
	if err := os.MkdirAll(n.opts.Dir, 0o700); err != nil {
		return fmt.Errorf("network state: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pools = pools
	if err := n.setUpBridge(); err != nil {
		return err
	}
	return n.recover()
}

// Reset removes all that a node's network leaves: the bridge, the links on it, the state and the CNI configuration.
// It is for a node whose pods are gone or going.
func Reset(opts Options) error {
	n, err := New(opts)
	if err != nil {
		return err
	}
	defer n.node.Close()
	var errs []error
	if bridge, err := n.node.LinkByName(n.opts.Bridge); err == nil {
		links, err := n.node.LinkList()
		errs = append(errs, err)
		for _, link := range links {
			if link.Attrs().MasterIndex == bridge.Attrs().Index && link.Type() == "veth" {
				errs = append(errs, ignoreMissingLink(n.node.LinkDel(link)))
			}
		}
		errs = append(errs, ignoreMissingLink(n.node.LinkDel(bridge)))
	} else {
		errs = append(errs, ignoreMissingLink(err))
	}
	errs = append(errs, os.RemoveAll(n.opts.Dir))
	for _, file := range []string{n.opts.Socket, confFile(n.opts.ConfDir)} {
		if file != "" {
			if err := os.Remove(file); !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func confFile(dir string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "10-keb.conflist")
}

// ignoreMissingLink turns the error of a link that is not there into nil.
func ignoreMissingLink(err error) error {
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
