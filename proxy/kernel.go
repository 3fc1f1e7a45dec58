package proxy

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/kebernetes/kebernetes/network/nft"
)

// kernel writes the table. For one goroutine at a time.
type kernel struct {
	*nft.Table
	families []*family
	bridge   string
	// ways numbers the chains that were made since the table was loaded, from firstWay on.
	ways map[chain]uint32
}

// staticSize is more than the messages that a table takes with no service in it.
const staticSize = 256

// firstWay is the number of the first way to a chain; those below are verdicts.
const firstWay = 16

// number is a way in the kernel's form.
func (k *kernel) number(w way) []byte {
	if w.chain.n == 0 {
		return nft.Native32(uint32(w.code))
	}
	if k.ways[w.chain] == 0 {
		k.ways[w.chain] = firstWay + uint32(len(k.ways))
	}
	return nft.Native32(k.ways[w.chain])
}

// load replaces whatever the table holds by the static chains and the batch, in one transaction. Remembered clients stay.
func (k *kernel) load(b *batch) error {
	clients, err := k.clients()
	if err != nil {
		return err
	}
	elements, messages := b.size()
	for _, of := range clients {
		elements += len(of)
	}
	conn, err := k.Connect(elements, messages+staticSize)
	if err != nil {
		return err
	}
	k.Empty(conn)
	for _, f := range k.families {
		for which := range setCount {
			if err := conn.AddSet(f.newSet(k.Table.Table, which), nil); err != nil {
				return fmt.Errorf("set %s%s: %w", which, f.suffix, err)
			}
		}
	}
	for _, c := range staticChains(k.Table.Table, k.families, k.bridge) {
		k.addChain(conn, c.Chain, c.rules)
	}
	k.ways = map[chain]uint32{}
	if err := errors.Join(k.addVerdicts(conn), k.addChains(conn, b), k.addElements(conn, b)); err != nil {
		return err
	}
	for _, f := range k.families {
		if err := nft.InChunks(f.newSet(k.Table.Table, setAffinity), clients[f], conn.SetAddElements); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("load nftables table %s: %w", k.Name, err)
	}
	return nil
}

// apply carries a batch out in one transaction, or in two when it needs new chains: packets under way while a transaction comes
// into force may find its elements before they see the rules of its chains.
func (k *kernel) apply(b *batch) error {
	conn, err := k.Connect(b.size())
	if err != nil {
		return err
	}
	if err := k.addChains(conn, b); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("add chains to nftables table %s: %w", k.Name, err)
	}
	if err := k.addElements(conn, b); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("change nftables table %s: %w", k.Name, err)
	}
	return nil
}

func (k *kernel) addChain(conn *nftables.Conn, c *nftables.Chain, rules [][]expr.Any) {
	conn.AddChain(c)
	for _, r := range rules {
		conn.AddRule(&nftables.Rule{Table: k.Table.Table, Chain: c, Exprs: r})
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
			conn.SetAddElements(f.newSet(k.Table.Table, setWays), []nftables.SetElement{
				{Key: k.number(way{code: verdictAccept}), VerdictData: &expr.Verdict{Kind: expr.VerdictAccept}}}),
			conn.SetAddElements(f.newSet(k.Table.Table, setFates), []nftables.SetElement{
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
		k.addChain(conn, &nftables.Chain{Table: k.Table.Table, Name: c.String()}, f.endpointRules(c))
		if err := conn.SetAddElements(f.newSet(k.Table.Table, setWays), k.wayTo(c)); err != nil {
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
		set := k.family(at.v6).newSet(k.Table.Table, at.set)
		if err := nft.InChunks(set, elements, conn.SetDeleteElements); err != nil {
			return err
		}
	}
	for at, elements := range adds {
		set := k.family(at.v6).newSet(k.Table.Table, at.set)
		if err := nft.InChunks(set, elements, conn.SetAddElements); err != nil {
			return err
		}
	}
	for _, c := range b.oldChains {
		if f := k.family(c.v6); f != nil {
			if err := conn.SetDeleteElements(f.newSet(k.Table.Table, setWays), k.wayTo(c)); err != nil {
				return fmt.Errorf("way to %s: %w", c, err)
			}
			conn.DelChain(&nftables.Chain{Table: k.Table.Table, Name: c.String()})
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

// clients reads the remembered clients back, so that a restart of ours sends nobody elsewhere. There may be no such map yet,
// or one of another make: then there is nothing to keep.
func (k *kernel) clients() (map[*family][]nftables.SetElement, error) {
	conn, err := k.Connect(0, 0)
	if err != nil {
		return nil, err
	}
	out := map[*family][]nftables.SetElement{}
	for _, f := range k.families {
		set := f.newSet(k.Table.Table, setAffinity)
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
	return out, nil
}
