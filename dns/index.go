package dns

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
)

// index finds what the snapshot cannot: the slices of a service, and who has an address. Everything else is read from the snapshot
// at the time of the query, and so is never late.
type index struct {
	mu       sync.RWMutex
	services map[types.NamespacedName]*endpoints
	// clusterIPs names the service that has an address; headless the services that have it as an endpoint.
	clusterIPs map[netip.Addr]types.NamespacedName
	headless   map[netip.Addr][]types.NamespacedName
}

// endpoints are those of one service. The slices are of the writer alone.
type endpoints struct {
	slices map[string]*discoveryv1.EndpointSlice
	// ready is made by the first query after a change.
	ready atomic.Pointer[[]endpoint]
}

// endpoint is a ready address of a service.
type endpoint struct {
	addr netip.Addr
	// host is the endpoint's own label: its hostname, or its address with dashes.
	host  string
	ports []discoveryv1.EndpointPort
}

// fill builds the index from a snapshot.
func (x *index) fill(c *client.Client, s client.Snapshot) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.services = map[types.NamespacedName]*endpoints{}
	x.clusterIPs, x.headless = map[netip.Addr]types.NamespacedName{}, map[netip.Addr][]types.NamespacedName{}
	for _, svc := range client.List[*corev1.Service](c, s, "", nil) {
		x.putService(svc)
	}
	for _, slice := range client.List[*discoveryv1.EndpointSlice](c, s, "", nil) {
		x.putSlice(slice)
	}
}

// follow keeps the index true until ctx ends or events are lost. ready is called when it first is.
func (x *index) follow(ctx context.Context, c *client.Client, ready func()) error {
	s := c.Snapshot()
	services, err := c.Watch(client.ResourceOf[*corev1.Service](c), s.Revision())
	if err != nil {
		return fmt.Errorf("watch services: %w", err)
	}
	slices, err := c.Watch(client.ResourceOf[*discoveryv1.EndpointSlice](c), s.Revision())
	if err != nil {
		return fmt.Errorf("watch endpoint slices: %w", err)
	}
	x.fill(c, s)
	ready()
	for {
		var watch *client.Watch
		select {
		case <-ctx.Done():
			return nil
		case <-services.Pending():
			watch = services
		case <-slices.Pending():
			watch = slices
		}
		events, _, err := watch.Next(ctx)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, client.ErrClosed) {
				return nil
			}
			return err
		}
		x.apply(events)
	}
}

func (x *index) apply(events []client.Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range events {
		if e.Prev != nil {
			switch obj := e.Prev.Object.(type) {
			case *corev1.Service:
				x.removeService(obj)
			case *discoveryv1.EndpointSlice:
				x.removeSlice(obj)
			}
		}
		if e.Type == client.Delete {
			continue
		}
		switch obj := e.Item.Object.(type) {
		case *corev1.Service:
			x.putService(obj)
		case *discoveryv1.EndpointSlice:
			x.putSlice(obj)
		}
	}
}

func (x *index) putService(svc *corev1.Service) {
	for addr := range clusterIPs(svc) {
		x.clusterIPs[addr] = types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	}
}

func (x *index) removeService(svc *corev1.Service) {
	for addr := range clusterIPs(svc) {
		if x.clusterIPs[addr] == (types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}) {
			delete(x.clusterIPs, addr)
		}
	}
}

func (x *index) putSlice(slice *discoveryv1.EndpointSlice) {
	who := serviceOf(slice)
	if who.Name == "" {
		return
	}
	e := x.services[who]
	if e == nil {
		e = &endpoints{slices: map[string]*discoveryv1.EndpointSlice{}}
		x.services[who] = e
	}
	e.slices[slice.Name] = slice
	e.ready.Store(nil)
	for addr := range headlessAddrs(slice) {
		x.headless[addr] = append(x.headless[addr], who)
	}
}

func (x *index) removeSlice(slice *discoveryv1.EndpointSlice) {
	who := serviceOf(slice)
	e := x.services[who]
	if e == nil {
		return
	}
	delete(e.slices, slice.Name)
	e.ready.Store(nil)
	if len(e.slices) == 0 {
		delete(x.services, who)
	}
	for addr := range headlessAddrs(slice) {
		names := x.headless[addr]
		if i := slices.Index(names, who); i >= 0 {
			names = slices.Delete(slices.Clone(names), i, i+1)
		}
		if x.headless[addr] = names; len(names) == 0 {
			delete(x.headless, addr)
		}
	}
}

// headlessAddrs yields the addresses of a slice that answer for themselves.
func headlessAddrs(slice *discoveryv1.EndpointSlice) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		if _, ok := slice.Labels[corev1.IsHeadlessService]; !ok {
			return
		}
		for i := range slice.Endpoints {
			for _, a := range slice.Endpoints[i].Addresses {
				if addr, err := netip.ParseAddr(a); err == nil && !yield(addr) {
					return
				}
			}
		}
	}
}

func serviceOf(slice *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
}

// clusterIPs yields the addresses of a service, none when it is headless.
func clusterIPs(svc *corev1.Service) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		if len(svc.Spec.ClusterIPs) == 0 {
			if addr, err := netip.ParseAddr(svc.Spec.ClusterIP); err == nil {
				yield(addr)
			}
			return
		}
		for _, ip := range svc.Spec.ClusterIPs {
			if addr, err := netip.ParseAddr(ip); err == nil && !yield(addr) {
				return
			}
		}
	}
}

// endpointsOf returns the ready endpoints of a service, ordered by address. They are shared and must not be changed.
func (x *index) endpointsOf(who types.NamespacedName) []endpoint {
	x.mu.RLock()
	defer x.mu.RUnlock()
	e := x.services[who]
	if e == nil {
		return nil
	}
	if ready := e.ready.Load(); ready != nil {
		return *ready
	}
	ready := readyEndpoints(e.slices)
	e.ready.Store(&ready)
	return ready
}

func readyEndpoints(from map[string]*discoveryv1.EndpointSlice) []endpoint {
	var out []endpoint
	for _, slice := range from {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, a := range e.Addresses {
				addr, err := netip.ParseAddr(a)
				if err != nil {
					continue
				}
				host := strings.NewReplacer(".", "-", ":", "-").Replace(a)
				if e.Hostname != nil && *e.Hostname != "" {
					host = strings.ToLower(*e.Hostname)
				}
				out = append(out, endpoint{addr: addr, host: host, ports: slice.Ports})
			}
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int {
		if c := a.addr.Compare(b.addr); c != 0 {
			return c
		}
		return strings.Compare(a.host, b.host)
	})
	// One address with different ports, as named ports make it, is in one slice for each set of ports.
	merged := out[:0]
	for _, e := range out {
		if n := len(merged); n > 0 && merged[n-1].addr == e.addr && merged[n-1].host == e.host {
			merged[n-1].ports = slices.Concat(merged[n-1].ports, e.ports)
		} else {
			merged = append(merged, e)
		}
	}
	return merged
}

// spread yields the endpoints starting anywhere, so that clients that use the first answer spread over all.
func spread(in []endpoint) iter.Seq[*endpoint] {
	return func(yield func(*endpoint) bool) {
		if len(in) == 0 {
			return
		}
		first := rand.IntN(len(in))
		for i := range in {
			if !yield(&in[(first+i)%len(in)]) {
				return
			}
		}
	}
}

// ownerOf returns the services that an address belongs to, and whether it is as their cluster IP.
func (x *index) ownerOf(addr netip.Addr) (owners []types.NamespacedName, clusterIP bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if who, ok := x.clusterIPs[addr]; ok {
		return []types.NamespacedName{who}, true
	}
	return x.headless[addr], false
}
