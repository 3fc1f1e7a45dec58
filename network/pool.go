package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// pool hands out the addresses of one pod range. The first address is the node's gateway; it, the range's own address and the
// IPv4 broadcast address go to no pod. A pool moves on rather than giving an address again at once, so that whoever still talks
// to a pod that is gone does not reach its successor. Not safe for concurrent use.
type pool struct {
	prefix  netip.Prefix
	gateway netip.Addr
	last    netip.Addr // the last address that a pod may get
	cursor  netip.Addr // the address that was handed out last
	used    map[netip.Addr]bool
}

func newPool(prefix netip.Prefix) (*pool, error) {
	prefix = prefix.Masked()
	bits := prefix.Addr().BitLen() - prefix.Bits()
	if bits < 2 {
		return nil, fmt.Errorf("pod range %s: no room for a gateway and a pod", prefix)
	}
	gateway := Gateway(prefix)
	return &pool{prefix: prefix, gateway: gateway, last: lastAddr(prefix), cursor: gateway, used: map[netip.Addr]bool{}}, nil
}

// Gateway is the address that a node has in its range of pods.
func Gateway(prefix netip.Prefix) netip.Addr { return prefix.Masked().Addr().Next() }

// lastAddr is the highest address of the prefix that a host may have.
func lastAddr(prefix netip.Prefix) netip.Addr {
	b := prefix.Addr().As16()
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	if bits := prefix.Addr().BitLen() - prefix.Bits(); bits >= 64 {
		lo = ^uint64(0)
		hi |= 1<<(bits-64) - 1
	} else {
		lo |= 1<<bits - 1
	}
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	addr := netip.AddrFrom16(b)
	if prefix.Addr().Is4() {
		return addr.Unmap().Prev() // below the broadcast address
	}
	return addr
}

// take hands out a free address, and fails when there is none.
func (p *pool) take() (netip.Addr, error) {
	addr := p.cursor
	for {
		if addr == p.last {
			addr = p.gateway
		}
		addr = addr.Next()
		if !p.used[addr] && addr != p.gateway {
			p.used[addr] = true
			p.cursor = addr
			return addr, nil
		}
		if addr == p.cursor {
			return netip.Addr{}, fmt.Errorf("pod range %s: all %d addresses are in use", p.prefix, len(p.used))
		}
	}
}

// claim marks an address that a live pod has. Addresses outside of the range are not ours to count.
func (p *pool) claim(addr netip.Addr) {
	if p.prefix.Contains(addr) {
		p.used[addr] = true
		if p.cursor.Less(addr) {
			p.cursor = addr
		}
	}
}

// release makes an address free again.
func (p *pool) release(addr netip.Addr) { delete(p.used, addr) }
