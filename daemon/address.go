package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/kebernetes/kebernetes/config"
	"github.com/kebernetes/kebernetes/network"
)

const (
	// addressSettle is how long an address may be gone, as while its lease is renewed, before it counts as lost.
	addressSettle = 200 * time.Millisecond
	// addressRetry is how long at most until another one is looked for again, while there is none.
	addressRetry = 5 * time.Second
)

// addresses follows the addresses of this machine. The node keeps its address as long as any link has it, whatever others come;
// when it is lost, the one takes its place that a start would choose.
type addresses struct {
	// local lists the addresses of this machine, found is the one that a start would choose.
	local func() ([]netip.Addr, error)
	found func() (netip.Addr, error)
	log   *slog.Logger
	// lost are told when addresses have gone from the machine, with a function that says which are there.
	lost []func(here func(netip.Addr) bool)
	// moved are told, in order, when the node has another address. Empty: it stays what it is.
	moved []func(ctx context.Context, to netip.Addr) error

	// Run's own:
	is   netip.Addr   // the node's own
	here []netip.Addr // all
}

// newAddresses follows from the address that the configuration says.
func newAddresses(c config.Config, log *slog.Logger) *addresses {
	is, _ := netip.ParseAddr(c.NodeIP) // which Validate has looked at
	return &addresses{local: localAddresses, found: func() (netip.Addr, error) { return foundAddress(c) }, log: log, is: is}
}

// Name says which part it is.
func (a *addresses) Name() string { return "addresses" }

// Run follows the addresses until ctx is done.
func (a *addresses) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	watching, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer stop()
	watcher.Go(func() {
		ended <- network.Watch(watching, "", func() {
			select {
			case changed <- struct{}{}:
			default: // a look is due already
			}
		})
	})
	var due <-chan time.Time
	retry := addressSettle
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		case <-changed:
			due, retry = time.After(addressSettle), addressSettle
		case <-due:
			due = nil
			if !a.look(ctx) {
				// A route that comes later than its address tells nobody.
				due, retry = time.After(retry), min(2*retry, addressRetry)
			}
		}
	}
}

// look compares the machine's addresses with those known, and tells who must know. It says false when it is to be asked again soon.
func (a *addresses) look(ctx context.Context) bool {
	here, err := a.local()
	if err != nil {
		a.log.Warn("addresses of this machine", "err", err)
		return false
	}
	is := func(addr netip.Addr) bool { return slices.Contains(here, addr) }
	if slices.ContainsFunc(a.here, func(was netip.Addr) bool { return !is(was) }) {
		for _, tell := range a.lost {
			tell(is)
		}
	}
	a.here = here
	if len(a.moved) == 0 || is(a.is) {
		return true
	}
	to, err := a.found()
	if err != nil || !is(to) {
		return false // nothing yet: what stands serves until then
	}
	a.log.Info("the node's address has changed", "from", a.is, "to", to)
	a.is = to
	for _, tell := range a.moved {
		if err := tell(ctx, to); err != nil && ctx.Err() == nil {
			a.log.Error("the node's new address", "err", err)
		}
	}
	return true
}

// foundAddress is the address that a start would choose. One of the cluster's own ranges is no node's.
func foundAddress(c config.Config) (netip.Addr, error) {
	found, err := config.OutboundIP(c.Server)
	if err != nil {
		return netip.Addr{}, err
	}
	addr, err := netip.ParseAddr(found)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, cidr := range []string{c.ClusterCIDR, c.ServiceCIDR} {
		if p, err := netip.ParsePrefix(cidr); err == nil && p.Contains(addr) {
			return netip.Addr{}, fmt.Errorf("address %s is one of %s", addr, p)
		}
	}
	return addr, nil
}

// localAddresses lists the addresses of all links of this machine.
func localAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	out := make([]netip.Addr, 0, len(all))
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				out = append(out, addr.Unmap())
			}
		}
	}
	return out, nil
}

// readvertise is what the server does when the machine has another address.
func (s *System) readvertise() []func(context.Context, netip.Addr) error {
	if !s.config.AdvertiseIPFound || s.config.APIOnly {
		return nil
	}
	return []func(context.Context, netip.Addr) error{func(ctx context.Context, to netip.Addr) error {
		return s.api.SetAdvertise(ctx, netip.AddrPortFrom(to, uint16(s.port())))
	}}
}
