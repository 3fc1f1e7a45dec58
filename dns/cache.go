package dns

import (
	"encoding/binary"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
)

const (
	// cacheSize bounds the answers kept, and maxCached the size of each: some 40 MB at worst, 2 MB as a rule.
	cacheSize = 10000
	maxCached = 4096
	// maxTTL caps how long answers are kept, as CoreDNS in its usual set-up does; maxNegativeTTL those that say no.
	maxTTL         = 30
	maxNegativeTTL = 30
)

// cacheKey is a question and the flags that change its answer.
type cacheKey struct {
	name   string // on the wire, in lower case
	qtype  uint16
	do, cd bool
}

// cached is an upstream answer without OPT record, as a message with id 0 and the flags of the answer.
type cached struct {
	message []byte
	ttls    []uint16 // where in message TTLs are
	stored  time.Time
	expires time.Time
}

// cache keeps upstream answers. Safe for concurrent use.
type cache struct {
	mu      sync.RWMutex
	answers map[cacheKey]*cached
}

// get returns the answer to a query, nil when there is none that is fresh.
func (c *cache) get(q *query, now time.Time) *cached {
	c.mu.RLock()
	defer c.mu.RUnlock()
	a := c.answers[cacheKey{string(q.wire()), q.qtype, q.do, q.flags&flagCheckingDisabled != 0}] // spelled out, it allocates nothing
	if a == nil || !now.Before(a.expires) {
		return nil
	}
	return a
}

func keyFor(q *query) cacheKey {
	return cacheKey{string(q.wire()), q.qtype, q.do, q.flags&flagCheckingDisabled != 0}
}

func (c *cache) put(key cacheKey, a *cached) {
	if !a.stored.Before(a.expires) || len(a.message) > maxCached {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.answers) >= cacheSize && c.answers[key] == nil {
		c.evict(a.stored)
	}
	c.answers[key] = a
}

// evict makes room: maps are walked in no order, so what is stale among a few goes, or else any one of them.
func (c *cache) evict(now time.Time) {
	const look = 16
	seen := 0
	for key, a := range c.answers {
		if seen++; seen == look || !now.Before(a.expires) {
			delete(c.answers, key)
		}
		if seen == look {
			return
		}
	}
}

// newCached packs an upstream answer. It returns nil for answers that cannot be packed.
func newCached(m *miekg.Msg, now time.Time) *cached {
	m.Extra = withoutOPT(m.Extra)
	m.Id, m.Compress = 0, true
	packed, err := m.Pack()
	if err != nil {
		return nil
	}
	a := &cached{message: packed, stored: now, expires: now.Add(time.Duration(lifetime(m)) * time.Second)}
	if !a.findTTLs() {
		return nil
	}
	return a
}

func withoutOPT(in []miekg.RR) []miekg.RR {
	var out []miekg.RR
	for _, rr := range in {
		if rr.Header().Rrtype != miekg.TypeOPT {
			out = append(out, rr)
		}
	}
	return out
}

// lifetime is how many seconds an answer may be kept: its smallest TTL, for a negative one that of its SOA record (RFC 2308).
func lifetime(m *miekg.Msg) uint32 {
	life := uint32(maxTTL)
	if m.Rcode != miekg.RcodeSuccess && m.Rcode != miekg.RcodeNameError || m.Truncated {
		return 0
	}
	if len(m.Answer) == 0 {
		life = 0
		for _, rr := range m.Ns {
			if soa, ok := rr.(*miekg.SOA); ok {
				life = min(maxNegativeTTL, soa.Hdr.Ttl, soa.Minttl)
			}
		}
		return life
	}
	for _, rr := range m.Answer {
		life = min(life, rr.Header().Ttl)
	}
	return life
}

func (a *cached) findTTLs() bool {
	p := a.message
	at := headerLen
	skipName := func() bool {
		for at < len(p) && p[at] != 0 && p[at] < 0xc0 {
			at += 1 + int(p[at])
		}
		if at < len(p) && p[at] >= 0xc0 {
			at++
		}
		at++
		return at <= len(p)
	}
	if !skipName() {
		return false
	}
	at += 4
	records := int(binary.BigEndian.Uint16(p[6:])) + int(binary.BigEndian.Uint16(p[8:])) + int(binary.BigEndian.Uint16(p[10:]))
	for range records {
		if !skipName() || at+10 > len(p) {
			return false
		}
		a.ttls = append(a.ttls, uint16(at+4))
		at += 10 + int(binary.BigEndian.Uint16(p[at+8:]))
	}
	return at == len(p)
}

// appendTo answers a query from the cache, or with the truncation bit alone where the answer is too long.
func (a *cached) appendTo(buf []byte, q *query, limit int, now time.Time) []byte {
	var r response
	r.begin(buf, q, limit)
	rcode := int(a.message[3] & 0xf)
	body := a.message[headerLen+len(q.question):]
	if len(r.buf)+len(body) > r.limit {
		r.truncated = true
		return r.finish(q, flagRecursion, rcode)
	}
	r.buf = append(r.buf, body...)
	for i := range r.counts {
		r.counts[i] = binary.BigEndian.Uint16(a.message[6+2*i:])
	}
	age := uint32(now.Sub(a.stored) / time.Second)
	for _, at := range a.ttls {
		field := r.buf[r.start+int(at):]
		ttl := binary.BigEndian.Uint32(field)
		binary.BigEndian.PutUint32(field, ttl-min(ttl, age))
	}
	flags := uint16(flagRecursion)
	if q.do {
		flags |= binary.BigEndian.Uint16(a.message[2:]) & flagAuthentic
	}
	return r.finish(q, flags, rcode)
}
