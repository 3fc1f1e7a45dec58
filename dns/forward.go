package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

const (
	// maxForwards bounds the questions to upstream servers under way; those beyond are refused at once.
	maxForwards = 1000
	// serverTime is how long one upstream server has to answer, forwardTime all of them: clients ask again after 5 s.
	serverTime  = 2 * time.Second
	forwardTime = 4500 * time.Millisecond
	// configAge is how old our knowledge of resolv.conf may be.
	configAge = 5 * time.Second
)

var errNoUpstream = errors.New("no upstream name server")

// upstream asks the node's own name servers. Safe for concurrent use.
type upstream struct {
	file   string              // resolv.conf
	byName map[string][]string // servers of their own, by domains on the wire, in lower case
	self   func(netip.Addr) bool
	cache  cache
	flight singleflight.Group
	slots  chan struct{}

	mu      sync.Mutex
	servers []string
	read    time.Time
	mtime   time.Time
}

func newUpstream(file string, forward map[string][]netip.AddrPort, self func(netip.Addr) bool) (*upstream, error) {
	u := &upstream{file: file, self: self, byName: map[string][]string{}, cache: cache{answers: map[cacheKey]*cached{}}, slots: make(chan struct{}, maxForwards)}
	for domain, servers := range forward {
		wire, ok := wireName(domain)
		if !ok {
			return nil, fmt.Errorf("forward %q: not a domain name", domain)
		}
		for _, at := range servers {
			u.byName[wire] = append(u.byName[wire], at.String())
		}
	}
	return u, nil
}

// resolve returns the upstream answer to a query. Queries for the same at once are asked once.
func (u *upstream) resolve(ctx context.Context, q *query) (*cached, error) {
	if a := u.cache.get(q, time.Now()); a != nil {
		return a, nil
	}
	key := keyFor(q)
	result, err, _ := u.flight.Do(fmt.Sprintf("%s %d %t %t", key.name, key.qtype, key.do, key.cd), func() (any, error) {
		select {
		case u.slots <- struct{}{}:
			defer func() { <-u.slots }()
		default:
			return nil, errors.New("too many questions to upstream name servers")
		}
		ctx, cancel := context.WithTimeout(ctx, forwardTime)
		defer cancel()
		m, err := u.exchange(ctx, q)
		if err != nil {
			return nil, err
		}
		a := newCached(m, time.Now())
		if a == nil || len(a.message) < headerLen+len(q.question) {
			return nil, errors.New("upstream answer cannot be passed on")
		}
		u.cache.put(key, a)
		return a, nil
	})
	if err != nil {
		return nil, err
	}
	return result.(*cached), nil
}

// exchange asks one server after the other, by TCP where the answer does not fit into UDP.
func (u *upstream) exchange(ctx context.Context, q *query) (*miekg.Msg, error) {
	name, _, err := miekg.UnpackDomainName(q.wire(), 0)
	if err != nil {
		return nil, err
	}
	question := &miekg.Msg{Question: []miekg.Question{{Name: name, Qtype: q.qtype, Qclass: miekg.ClassINET}}}
	question.RecursionDesired, question.CheckingDisabled = true, q.flags&flagCheckingDisabled != 0
	question.SetEdns0(maxUDP, q.do)
	servers, err := u.serversFor(q)
	if err != nil {
		return nil, err
	}
	err = errNoUpstream
	for _, server := range servers {
		for _, network := range []string{"udp", "tcp"} {
			question.Id = miekg.Id()
			var m *miekg.Msg
			c := miekg.Client{Net: network, Timeout: serverTime, UDPSize: maxUDP}
			if m, _, err = c.ExchangeContext(ctx, question, server); err != nil {
				break
			}
			if m.Truncated && network == "udp" {
				continue
			}
			if len(m.Question) != 1 || miekg.CanonicalName(m.Question[0].Name) != name || m.Question[0].Qtype != q.qtype {
				err = fmt.Errorf("%s answered another question", server)
				break
			}
			if m.Rcode == miekg.RcodeServerFailure || m.Rcode == miekg.RcodeRefused {
				err = fmt.Errorf("%s answered %s", server, miekg.RcodeToString[m.Rcode])
				break
			}
			return m, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return nil, err
}

// serversFor returns the servers to ask: those of the longest domain that the name is in, else the node's own.
func (u *upstream) serversFor(q *query) ([]string, error) {
	if len(u.byName) > 0 {
		for _, at := range q.labels[:q.labelNum] {
			if servers := u.byName[string(q.name[at:q.nameLen])]; servers != nil {
				return servers, nil
			}
		}
	}
	return u.current()
}

// current returns the node's own upstream servers, reading resolv.conf again after it changed. We ourselves are none of them.
func (u *upstream) current() ([]string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	if !u.read.IsZero() && now.Sub(u.read) < configAge {
		return u.servers, nil
	}
	info, err := os.Stat(u.file)
	if err != nil {
		return nil, fmt.Errorf("upstream name servers: %w", err)
	}
	u.read = now
	if info.ModTime().Equal(u.mtime) {
		return u.servers, nil
	}
	conf, err := miekg.ClientConfigFromFile(u.file)
	if err != nil {
		return nil, fmt.Errorf("upstream name servers: %w", err)
	}
	u.mtime = info.ModTime()
	servers := slices.DeleteFunc(conf.Servers, func(s string) bool {
		addr, err := netip.ParseAddr(s)
		return err != nil || u.self(addr.WithZone(""))
	})
	u.servers = make([]string, len(servers))
	for i, s := range servers {
		u.servers[i] = net.JoinHostPort(s, conf.Port)
	}
	return u.servers, nil
}
