package proxy

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// kernel writes the table. For one goroutine at a time.
type kernel struct {
	table    *nftables.Table
	families []*family
	bridge   string
	netns    int // descriptor of the namespace to work in; 0 means the process's own
	// ways numbers the chains that were made since the table was loaded, from firstWay on.
	ways map[chain]uint32

	// The connection lasts: to close one makes the kernel wait until all that transactions removed is freed, 15 ms here.
	conn   *nftables.Conn
	socket *netlink.Conn // of conn
	room   int           // elements that socket's buffers hold
}

const (
	// chunk is how many elements go into one message: its length has 16 bits, and an element takes 130 bytes at most.
	chunk = 400
	// kernelTime bounds a transaction; a hundred thousand elements take a second.
	kernelTime = time.Minute
)

// firstWay is the number of the first way to a chain; those below are verdicts.
const firstWay = 16

// number is a way in the kernel's form.
func (k *kernel) number(w way) []byte {
	if w.chain.n == 0 {
		return native32(uint32(w.code))
	}
	if k.ways[w.chain] == 0 {
		k.ways[w.chain] = firstWay + uint32(len(k.ways))
	}
	return native32(k.ways[w.chain])
}

// connect returns a connection with room for a transaction of so many elements: the kernel takes a transaction only as one
// datagram, and answers each message of it.
func (k *kernel) connect(elements int) (*nftables.Conn, error) {
	if k.conn == nil {
		conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(k.netns), nftables.WithSockOptions(func(c *netlink.Conn) error {
			k.socket, k.room = c, 0
			return nil
		}))
		if err != nil {
			return nil, fmt.Errorf("open nftables: %w", err)
		}
		k.conn = conn
	}
	if k.room == 0 || elements > k.room {
		k.room = max(elements, 2*chunk)
		if err := errors.Join(k.socket.SetWriteBuffer(1<<18+k.room*256), k.socket.SetReadBuffer(1<<18+k.room*16)); err != nil {
			return nil, fmt.Errorf("make room for nftables: %w", err)
		}
	}
	if err := k.socket.SetDeadline(time.Now().Add(kernelTime)); err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return k.conn, nil
}

// close lets the connection go. After an error it must not be used again: answers of the kernel may still be in it.
func (k *kernel) close() {
	if k.conn != nil {
		k.conn.CloseLasting()
		k.conn, k.socket = nil, nil
	}
}

// load replaces whatever the table holds by the static chains and the batch, in one transaction. Remembered clients stay.
func (k *kernel) load(b *batch) error {
	conn, err := k.connect(len(b.elements))
	if err != nil {
		return err
	}
	clients := k.clients(conn)
	conn.AddTable(k.table) // the next line fails where there is none
	conn.DelTable(k.table)
	conn.AddTable(k.table)
	for _, f := range k.families {
		for which := range setCount {
			if err := conn.AddSet(f.newSet(k.table, which), nil); err != nil {
				return fmt.Errorf("set %s%s: %w", which, f.suffix, err)
			}
		}
	}
	for _, c := range staticChains(k.table, k.families, k.bridge) {
		k.addChain(conn, c.Chain, c.rules)
	}
	k.ways = map[chain]uint32{}
	if err := errors.Join(k.addVerdicts(conn), k.addChains(conn, b), k.addElements(conn, b)); err != nil {
		return err
	}
	for _, f := range k.families {
		if err := inChunks(clients[f], func(part []nftables.SetElement) error {
			return conn.SetAddElements(f.newSet(k.table, setAffinity), part)
		}); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("load nftables table %s: %w", k.table.Name, err)
	}
	return nil
}

// apply carries a batch out in one transaction, or in two when it needs new chains: packets under way while a transaction comes
// into force may find its elements before they see the rules of its chains.
func (k *kernel) apply(b *batch) error {
	conn, err := k.connect(len(b.elements))
	if err != nil {
		return err
	}
	if err := k.addChains(conn, b); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("add chains to nftables table %s: %w", k.table.Name, err)
	}
	if err := k.addElements(conn, b); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("change nftables table %s: %w", k.table.Name, err)
	}
	return nil
}

// remove deletes the table, if there is one.
func (k *kernel) remove() error {
	conn, err := k.connect(0)
	if err != nil {
		return err
	}
	conn.AddTable(k.table)
	conn.DelTable(k.table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", k.table.Name, err)
	}
	return nil
}

func (k *kernel) addChain(conn *nftables.Conn, c *nftables.Chain, rules [][]expr.Any) {
	conn.AddChain(c)
	for _, r := range rules {
		conn.AddRule(&nftables.Rule{Table: k.table, Chain: c, Exprs: r})
	}
}

// family returns the rules' family, nil for one that the cluster has no pods of.
func (k *kernel) family(v6 bool) *family {
	for _, f := range k.families {
		if f.v6 == v6 {
			return f
		}
	}
	return nil
}

// addVerdicts queues the ways that lead to no chain for endpoints.
func (k *kernel) addVerdicts(conn *nftables.Conn) error {
	for _, f := range k.families {
		if err := errors.Join(
			conn.SetAddElements(f.newSet(k.table, setWays), []nftables.SetElement{
				{Key: k.number(way{code: verdictAccept}), VerdictData: &expr.Verdict{Kind: expr.VerdictAccept}}}),
			conn.SetAddElements(f.newSet(k.table, setFates), []nftables.SetElement{
				{Key: k.number(way{code: verdictReject}), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: rejectChain}},
				{Key: k.number(way{code: verdictDrop}), VerdictData: &expr.Verdict{Kind: expr.VerdictDrop}}}),
		); err != nil {
			return fmt.Errorf("elements of ways: %w", err)
		}
	}
	return nil
}

// wayTo is the element that leads to a chain.
func (k *kernel) wayTo(c chain) []nftables.SetElement {
	return []nftables.SetElement{{Key: k.number(way{chain: c}), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: c.String()}}}
}

// addChains queues the new chains of a batch, and the ways to them.
func (k *kernel) addChains(conn *nftables.Conn, b *batch) error {
	for _, c := range b.newChains {
		f := k.family(c.v6)
		if f == nil {
			continue
		}
		k.addChain(conn, &nftables.Chain{Table: k.table, Name: c.String()}, f.endpointRules(c))
		if err := conn.SetAddElements(f.newSet(k.table, setWays), k.wayTo(c)); err != nil {
			return fmt.Errorf("way to %s: %w", c, err)
		}
	}
	return nil
}

// addElements queues the elements of a batch, removals before additions, as a changed element is both, and then the chains
// that nothing leads to any longer.
func (k *kernel) addElements(conn *nftables.Conn, b *batch) error {
	type place struct {
		set set
		v6  bool
	}
	dels, adds := map[place][]nftables.SetElement{}, map[place][]nftables.SetElement{}
	for id, c := range b.elements {
		at := place{id.set, id.v6}
		if k.family(id.v6) == nil {
			continue
		}
		if c.before != nil {
			dels[at] = append(dels[at], nftables.SetElement{Key: []byte(id.key), KeyEnd: []byte(c.before.keyEnd)})
		}
		if c.after != nil {
			adds[at] = append(adds[at], k.element(id, c.after))
		}
	}
	for at, elements := range dels {
		set := k.family(at.v6).newSet(k.table, at.set)
		if err := inChunks(elements, func(part []nftables.SetElement) error { return conn.SetDeleteElements(set, part) }); err != nil {
			return fmt.Errorf("elements of %s: %w", set.Name, err)
		}
	}
	for at, elements := range adds {
		set := k.family(at.v6).newSet(k.table, at.set)
		if err := inChunks(elements, func(part []nftables.SetElement) error { return conn.SetAddElements(set, part) }); err != nil {
			return fmt.Errorf("elements of %s: %w", set.Name, err)
		}
	}
	for _, c := range b.oldChains {
		if f := k.family(c.v6); f != nil {
			if err := conn.SetDeleteElements(f.newSet(k.table, setWays), k.wayTo(c)); err != nil {
				return fmt.Errorf("way to %s: %w", c, err)
			}
			conn.DelChain(&nftables.Chain{Table: k.table, Name: c.String()})
		}
	}
	return nil
}

func (k *kernel) element(id elementID, v *elementValue) nftables.SetElement {
	e := nftables.SetElement{Key: []byte(id.key), KeyEnd: []byte(v.keyEnd), Val: []byte(v.data)}
	if v.way != (way{}) {
		e.Val = k.number(v.way)
	}
	return e
}

func inChunks(elements []nftables.SetElement, f func([]nftables.SetElement) error) error {
	for len(elements) > 0 {
		n := min(len(elements), chunk)
		if err := f(elements[:n]); err != nil {
			return err
		}
		elements = elements[n:]
	}
	return nil
}

// clients reads the remembered clients back, so that a restart of ours sends nobody elsewhere. There may be no such map yet,
// or one of another make: then there is nothing to keep.
func (k *kernel) clients(conn *nftables.Conn) map[*family][]nftables.SetElement {
	out := map[*family][]nftables.SetElement{}
	for _, f := range k.families {
		set := f.newSet(k.table, setAffinity)
		elements, err := conn.GetSetElements(set)
		if err != nil {
			continue
		}
		for _, e := range elements {
			if len(e.Key) == int(set.KeyType.Bytes) && len(e.Val) == int(set.DataType.Bytes) && e.Expires > 0 {
				out[f] = append(out[f], nftables.SetElement{Key: e.Key, Val: e.Val, Timeout: e.Expires})
			}
		}
	}
	return out
}

// newTableOf is the table that everything of ours is in.
func newTableOf(name string) *nftables.Table {
	return &nftables.Table{Name: name, Family: unix.NFPROTO_INET}
}
