// Package dns is the cluster's name server, on each node: it answers names of services, endpoints and pods from the shared snapshot,
// and hands all other questions to the node's own name servers. It follows the specification of DNS-based service discovery
// for Kubernetes, version 1.1.0 (https://github.com/kubernetes/dns/blob/master/docs/specification.md).
// Only daemon and agent import it; it imports client.
package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	miekg "github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/kebernetes/kebernetes/client"
)

const (
	// DefaultDomain is the cluster domain.
	DefaultDomain = "cluster.local"
	// udpBuffer is what each UDP socket asks the kernel to hold, some thousand queries; the kernel may give less.
	udpBuffer = 4 << 20
	// udpBatch is how many packets are read and answered at a time.
	udpBatch = 32
	// maxQuery is the longest query read by UDP.
	maxQuery = 1500
	// maxSockets bounds the UDP sockets: each costs 90 kB, and eight answer more than a million queries a second.
	maxSockets = 8
	// maxTCPConns and tcpIdle bound what clients can hold open.
	maxTCPConns = 256
	tcpIdle     = 10 * time.Second
	// maxWaiting bounds the queries by UDP that wait for other servers, some 40 MB; those beyond are told of a failure at once.
	maxWaiting = 4096
)

// Options say what a server answers, where and whom. They are not changed after New.
type Options struct {
	// Client reads services, endpoint slices and namespaces, and must mirror them.
	Client *client.Client
	// Listen is the cluster DNS address and port. The address need not be there yet. Port 0 takes any.
	Listen netip.AddrPort
	// Domain is the cluster domain; "" means DefaultDomain.
	Domain string
	// Ranges are the pod and service ranges of the cluster: reverse names in them are ours, and only clients in them, and on
	// the node itself, are answered.
	Ranges []netip.Prefix
	// ResolvConf names the upstream name servers; "" means /etc/resolv.conf.
	ResolvConf string
	// Forward are other upstream name servers, by the domains whose names they are asked for; the longest domain wins.
	Forward map[string][]netip.AddrPort
	Logger  *slog.Logger
}

// Stats counts what a server did since its start.
type Stats struct {
	Queries   uint64 // that were answered or forwarded
	Forwarded uint64 // of them, to other name servers or their cached answers
	Failures  uint64 // of them, that no name server answered
	Refused   uint64 // from clients that we do not serve
	Malformed uint64
}

// Server is a node's name server.
type Server struct {
	opts     Options
	logger   *slog.Logger
	zone     *zone
	index    index
	upstream *upstream
	udp      []*net.UDPConn
	tcp      *net.TCPListener
	pending  sync.WaitGroup // answers that wait for other servers
	waiting  chan struct{}  // a token for each of them that came by UDP

	queries, forwarded, failures, refused, malformed atomic.Uint64
}

// New returns a server that has its sockets already. It fails when the address is taken.
func New(opts Options) (*Server, error) {
	if opts.Domain == "" {
		opts.Domain = DefaultDomain
	}
	if opts.ResolvConf == "" {
		opts.ResolvConf = "/etc/resolv.conf"
	}
	z, ok := newZone(opts.Domain, opts.Ranges, opts.Listen.Addr())
	if !ok {
		return nil, fmt.Errorf("cluster domain %q: not a domain name", opts.Domain)
	}
	s := &Server{opts: opts, logger: opts.Logger, zone: z, waiting: make(chan struct{}, maxWaiting)}
	var err error
	if s.upstream, err = newUpstream(opts.ResolvConf, opts.Forward, func(a netip.Addr) bool { return a == opts.Listen.Addr() }); err != nil {
		return nil, err
	}
	if err := s.listen(); err != nil {
		s.close()
		return nil, fmt.Errorf("listen for DNS at %s: %w", opts.Listen, err)
	}
	return s, nil
}

// listen opens a UDP socket per processor, among which the kernel spreads clients, and a TCP socket.
func (s *Server) listen() error {
	level, option := unix.SOL_IP, unix.IP_FREEBIND
	if s.opts.Listen.Addr().Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
				// The address may come to the node after us.
				unix.SetsockoptInt(int(fd), level, option, 1))
		}); e != nil {
			return e
		}
		return err
	}}
	// Sharing a port among our own sockets must not hide that another process has it: this socket shares with nobody.
	probe, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(s.opts.Listen))
	if err == nil {
		probe.Close()
	} else if errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	at := s.opts.Listen
	for range min(runtime.GOMAXPROCS(0), maxSockets) {
		conn, err := config.ListenPacket(context.Background(), "udp", at.String())
		if err != nil {
			return err
		}
		s.udp = append(s.udp, conn.(*net.UDPConn))
		// A burst waits rather than being lost: a client whose query is lost waits for seconds.
		if err := conn.(*net.UDPConn).SetReadBuffer(udpBuffer); err != nil {
			return err
		}
		at = conn.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	tcp, err := config.Listen(context.Background(), "tcp", at.String())
	if err != nil {
		return err
	}
	s.tcp = tcp.(*net.TCPListener)
	return nil
}

func (s *Server) close() {
	for _, conn := range s.udp {
		conn.Close()
	}
	if s.tcp != nil {
		s.tcp.Close()
	}
}

// Name is the component's name in logs.
func (s *Server) Name() string { return "dns" }

// Addr is where the server listens, by UDP and TCP.
func (s *Server) Addr() netip.AddrPort { return s.udp[0].LocalAddr().(*net.UDPAddr).AddrPort() }

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	return Stats{Queries: s.queries.Load(), Forwarded: s.forwarded.Load(), Failures: s.failures.Load(), Refused: s.refused.Load(), Malformed: s.malformed.Load()}
}

// Run answers until ctx ends. Queries that come before Run wait in the sockets.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	defer func() {
		cancel()
		s.close()
		workers.Wait()
		s.pending.Wait()
	}()
	serve := sync.OnceFunc(func() {
		for _, conn := range s.udp {
			workers.Go(func() { s.serveUDP(ctx, conn) })
		}
		workers.Go(func() { s.serveTCP(ctx, &workers) })
	})
	defer context.AfterFunc(ctx, s.close)()
	for ctx.Err() == nil {
		err := s.index.follow(ctx, s.opts.Client, serve)
		if err == nil {
			return nil
		}
		if !errors.Is(err, client.ErrCompacted) {
			return err
		}
	}
	return nil
}

// serves says whether a client is one of ours: everybody else gets no answer, so that nobody can use us to flood others.
func (s *Server) serves(addr netip.Addr) bool {
	return addr.IsLoopback() || addr == s.opts.Listen.Addr() || slices.ContainsFunc(s.opts.Ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// serveUDP answers what comes, as many packets at a time as there are: under load that spares most system calls.
func (s *Server) serveUDP(ctx context.Context, conn *net.UDPConn) {
	batch := ipv4.NewPacketConn(conn) // of IPv6 too: only the options differ
	in, out := make([]ipv4.Message, udpBatch), make([]ipv4.Message, 0, udpBatch)
	answers := make([][]byte, udpBatch)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, maxQuery)}
		answers[i] = make([]byte, 0, maxUDP)
	}
	var q query
	for {
		n, err := batch.ReadBatch(in, 0)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			s.logger.Warn("DNS packet is lost", "error", err)
			continue
		}
		out = out[:0]
		for i := range in[:n] {
			from, packet := in[i].Addr, in[i].Buffers[0][:in[i].N]
			if !s.serves(from.(*net.UDPAddr).AddrPort().Addr().Unmap()) {
				s.refused.Add(1)
				continue
			}
			answer, done := s.respond(answers[i][:0], packet, &q, maxUDP)
			if !done && s.forwardLater(ctx, conn, packet, from) {
				continue
			}
			if !done {
				answer = s.busy(answers[i][:0], &q)
			}
			if len(answer) > 0 {
				answers[i] = answer
				out = append(out, ipv4.Message{Buffers: answers[i : i+1], Addr: from})
			}
		}
		for left := out; len(left) > 0; {
			sent, err := batch.WriteBatch(left, 0)
			if err != nil {
				sent = 1 // a client that is gone asks no more
			}
			left = left[max(sent, 1):]
		}
	}
}

// forwardLater answers a packet when other servers have answered. It returns false when too many wait for that already: for
// the same answer, too, as each holds a few kilobytes.
func (s *Server) forwardLater(ctx context.Context, conn *net.UDPConn, packet []byte, from net.Addr) bool {
	select {
	case s.waiting <- struct{}{}:
	default:
		return false
	}
	packet = slices.Clone(packet)
	s.pending.Go(func() {
		defer func() { <-s.waiting }()
		conn.WriteTo(s.forward(ctx, nil, packet, maxUDP), from)
	})
	return true
}

var errBusy = errors.New("too many queries wait for other servers")

func (s *Server) busy(buf []byte, q *query) []byte {
	var r response
	r.begin(buf, q, min(maxUDP, q.udpSize))
	return s.fail(&r, q, errBusy)
}

func (s *Server) serveTCP(ctx context.Context, workers *sync.WaitGroup) {
	slots := make(chan struct{}, maxTCPConns)
	for {
		slots <- struct{}{} // all slots taken: the next client waits
		conn, err := s.tcp.AcceptTCP()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			s.logger.Warn("DNS connection is lost", "error", err)
			<-slots
			continue
		}
		workers.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			if s.serves(conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()) {
				s.serveConn(ctx, conn)
			} else {
				s.refused.Add(1)
			}
		})
	}
}

// serveConn answers one query after the other until the client falls silent.
func (s *Server) serveConn(ctx context.Context, conn net.Conn) {
	var q query
	var length [2]byte
	for {
		if err := conn.SetDeadline(time.Now().Add(tcpIdle)); err != nil {
			return
		}
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		packet := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, packet); err != nil {
			return
		}
		out := make([]byte, 2, 512)
		answer, done := s.respond(out, packet, &q, maxTCP)
		if !done {
			answer = s.forward(ctx, out, packet, maxTCP)
		}
		if len(answer) <= 2 {
			return
		}
		binary.BigEndian.PutUint16(answer, uint16(len(answer)-2))
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

// respond appends the answer to a packet to buf. It is not done when other servers must be asked; forward does that. It appends
// nothing to what deserves no answer.
func (s *Server) respond(buf, packet []byte, q *query, limit int) (out []byte, done bool) {
	err := q.parse(packet)
	if errors.Is(err, errNotQuery) {
		s.malformed.Add(1)
		return buf, true
	}
	if limit == maxUDP {
		limit = min(limit, q.udpSize)
	}
	refuse := func(rcode int) ([]byte, bool) {
		var r response
		r.begin(buf, q, max(limit, headerLen+optLen+len(q.question)))
		return r.finish(q, flagRecursion, rcode), true
	}
	s.queries.Add(1)
	switch {
	case err != nil:
		s.malformed.Add(1)
		q.edns, q.question = false, nil
		return refuse(miekg.RcodeFormatError)
	case q.opcode() != miekg.OpcodeQuery:
		return refuse(miekg.RcodeNotImplemented)
	case q.version != 0:
		return refuse(miekg.RcodeBadVers)
	case q.qclass != miekg.ClassINET && q.qclass != miekg.ClassANY, q.qtype == miekg.TypeAXFR, q.qtype == miekg.TypeIXFR:
		return refuse(miekg.RcodeRefused)
	}
	var r response
	r.begin(buf, q, limit)
	o := s.zone.answer(&r, s.view(), q, questionName)
	if o.notOurs {
		if a := s.upstream.cache.get(q, time.Now()); a != nil {
			s.forwarded.Add(1)
			return a.appendTo(buf, q, limit, time.Now()), true
		}
		return nil, false
	}
	if o.chase != "" {
		return nil, false
	}
	return s.finish(&r, q, o), true
}

func (s *Server) view() *view {
	return &view{snapshot: s.opts.Client.Snapshot(), index: &s.index}
}

func (s *Server) finish(r *response, q *query, o outcome) []byte {
	if o.rcode == miekg.RcodeServerFailure {
		return s.fail(r, q, errAlias)
	}
	if o.soa >= 0 {
		pointer := [2]byte{0xc0 | byte((headerLen+o.soa)>>8), byte(headerLen + o.soa)}
		s.zone.soa(r, authority, string(pointer[:]))
	}
	return r.finish(q, flagAuthoritative|flagRecursion, o.rcode)
}

// forward is respond for what needs other servers: names outside of the cluster, and aliases that lead there.
func (s *Server) forward(ctx context.Context, buf, packet []byte, limit int) []byte {
	var q query
	if err := q.parse(packet); err != nil {
		return buf
	}
	if limit == maxUDP {
		limit = min(limit, q.udpSize)
	}
	s.forwarded.Add(1)
	var r response
	r.begin(buf, &q, limit)
	o := s.zone.answer(&r, s.view(), &q, questionName)
	if o.notOurs {
		a, err := s.upstream.resolve(ctx, &q)
		if err == nil {
			return a.appendTo(buf, &q, limit, time.Now())
		}
		return s.fail(&r, &q, err)
	}
	if o.chase != "" {
		rcode, err := s.chase(ctx, &r, &q, o.chase)
		if err != nil {
			return s.fail(&r, &q, err)
		}
		o.rcode = rcode
	}
	return s.finish(&r, &q, o)
}

func (s *Server) fail(r *response, q *query, err error) []byte {
	s.failures.Add(1)
	s.logger.Debug("DNS query failed", "error", err)
	r.begin(r.buf[:r.start], q, r.limit-r.start+optLen)
	return r.finish(q, flagRecursion, miekg.RcodeServerFailure)
}

var errAlias = errors.New("alias leads nowhere")

// chase appends the records of an alias's target, and returns what other servers say of it.
func (s *Server) chase(ctx context.Context, r *response, q *query, target string) (rcode int, err error) {
	wire, ok := wireName(target)
	if !ok {
		return 0, errAlias
	}
	var next query
	if err := next.parse(queryFor(wire, q.qtype)); err != nil {
		return 0, err
	}
	a, err := s.upstream.resolve(ctx, &next)
	if err != nil {
		return 0, err
	}
	var m miekg.Msg
	if err := m.Unpack(a.message); err != nil {
		return 0, err
	}
	age := uint32(time.Since(a.stored) / time.Second)
	for _, rr := range m.Answer {
		rr.Header().Ttl -= min(rr.Header().Ttl, age)
		if !r.rr(answer, rr) {
			break
		}
	}
	return m.Rcode, nil
}
