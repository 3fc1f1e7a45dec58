package addresses

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// feed is one resource from which follows what is taken.
type feed struct {
	resource string
	cursor   *store.Watch
	// count notes that an object is there, or with -1 that it no longer is.
	count func(obj kinds.Object, by int)
}

func (a *Pool) feeds() []*feed {
	return []*feed{
		{resource: servicesResource, count: a.countService},
		{resource: "ipaddresses.networking.k8s.io", count: a.countAddress},
		{resource: "servicecidrs.networking.k8s.io", count: a.countRange},
	}
}

// catchUp reads what happened since the last time. The caller holds the lock.
func (a *Pool) catchUp() error {
	done, cancel := context.WithCancel(context.Background())
	cancel() // what is published can be read without waiting
	for _, f := range a.followed {
		for {
			events, _, err := f.cursor.Next(done)
			if errors.Is(err, store.ErrCompacted) {
				return a.restart()
			}
			if len(events) == 0 {
				break
			}
			for _, e := range events {
				if e.Prev != nil {
					f.count(e.Prev.Object, -1)
				}
				if e.Type == store.Put {
					f.count(e.Item.Object, 1)
				}
			}
		}
	}
	if a.followed == nil {
		return a.restart()
	}
	return nil
}

// restart counts all anew.
func (a *Pool) restart() error {
	a.followed, a.ips, a.ports, a.ranges = nil, map[netip.Addr]int{}, map[int32]int{}, map[netip.Prefix]int{}
	a.holders = map[netip.Addr]types.NamespacedName{}
	snap := a.reader.Snapshot()
	feeds := a.feeds()
	for _, f := range feeds {
		var err error
		if f.cursor, err = a.reader.Watch(f.resource, snap.Revision()); err != nil {
			return fmt.Errorf("follow %s: %w", f.resource, err)
		}
		for item := range snap.List(f.resource, "") {
			f.count(item.Object, 1)
		}
	}
	for c := range a.claims {
		c.hold(1)
	}
	a.followed = feeds
	return nil
}

func (a *Pool) countService(obj kinds.Object, by int) {
	s := obj.(*corev1.Service)
	h := holdings(s)
	if h.ip.IsValid() {
		bump(a.ips, h.ip, by)
		if by > 0 {
			a.holders[h.ip] = types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
		} else {
			delete(a.holders, h.ip)
		}
	}
	for p := range h.ports {
		bump(a.ports, p, by)
	}
}

// countAddress counts the addresses that somebody has reserved by an IPAddress. Those of Services only show what Services hold.
func (a *Pool) countAddress(obj kinds.Object, by int) {
	reserved := obj.(*networkingv1.IPAddress)
	if ip, err := netip.ParseAddr(reserved.Name); err == nil && !ofService(reserved.Spec.ParentRef) {
		bump(a.ips, ip, by)
	}
}

func ofService(p *networkingv1.ParentReference) bool {
	return p != nil && p.Group == "" && p.Resource == servicesResource
}

// countRange counts the further ranges. From one that is being deleted nothing new is taken.
func (a *Pool) countRange(obj kinds.Object, by int) {
	c := obj.(*networkingv1.ServiceCIDR)
	if c.DeletionTimestamp != nil {
		return
	}
	for _, text := range c.Spec.CIDRs {
		cidr, err := netip.ParsePrefix(text)
		if err == nil && cidr.Addr().Is6() == a.cidr.Addr().Is6() && cidr.Masked() != a.cidr {
			bump(a.ranges, cidr.Masked(), by)
		}
	}
}

// reserve refuses an IPAddress for an address that a Service holds which is not its parent.
func (a *Pool) reserve(k *kinds.Kind, obj *networkingv1.IPAddress, dry bool) (release func(), err error) {
	ip, err := netip.ParseAddr(obj.Name)
	if err != nil {
		return nothing, nil // validation has seen to it
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.catchUp(); err != nil {
		return nil, err
	}
	if p := obj.Spec.ParentRef; ofService(p) {
		if a.ips[ip] == 0 || a.holders[ip] == (types.NamespacedName{Namespace: p.Namespace, Name: p.Name}) {
			return nothing, nil
		}
	}
	if a.ips[ip] > 0 {
		return nil, apierrors.NewAlreadyExists(k.GroupResource(), obj.Name)
	}
	c := &claim{a: a}
	c.takeIP(ip)
	return a.claim(c, dry), nil
}

// usable says whether an address is in one of the ranges and may be handed out.
func (a *Pool) usable(ip netip.Addr) bool {
	if usable(a.cidr, ip) {
		return true
	}
	for cidr := range a.ranges {
		if usable(cidr, ip) {
			return true
		}
	}
	return false
}

// usable says whether an address is in a range, and neither its first, which names the network, nor an IPv4 range's last.
func usable(cidr netip.Prefix, ip netip.Addr) bool {
	return cidr.Contains(ip) && ip != cidr.Addr() && (ip.Is6() || cidr.Contains(ip.Next()))
}

// Nth is the nth address of the range that the pool was made with.
func (a *Pool) Nth(n uint64) netip.Addr { return nth(a.cidr, n) }

func nth(cidr netip.Prefix, n uint64) netip.Addr {
	b := cidr.Addr().As16()
	low := binary.BigEndian.Uint64(b[8:])
	binary.BigEndian.PutUint64(b[8:], low+n)
	ip := netip.AddrFrom16(b)
	if cidr.Addr().Is4() {
		return ip.Unmap()
	}
	return ip
}

// freeIP draws a free address, from further ranges only when the first is full.
func (a *Pool) freeIP() (netip.Addr, bool) {
	if ip, ok := a.drawFrom(a.cidr); ok {
		return ip, true
	}
	for cidr := range a.ranges {
		if ip, ok := a.drawFrom(cidr); ok {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

func (a *Pool) drawFrom(cidr netip.Prefix) (netip.Addr, bool) {
	bits := cidr.Addr().BitLen() - cidr.Bits()
	size := uint64(1) << min(bits, 32)
	band := min(max(ipBandLeast, size/16), ipBandMost)
	if band >= size {
		band = 1
	}
	free := func(n uint64) bool {
		ip := nth(cidr, n)
		return usable(cidr, ip) && a.ips[ip] == 0
	}
	n, ok := draw(band, size-band, free)
	if !ok {
		n, ok = draw(1, band, free)
	}
	return nth(cidr, n), ok
}
