package dns

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	miekg "github.com/miekg/dns"
	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

var update = flag.Bool("update", false, "write the results into testdata")

// memory is a client's transport over a bare store: what is put there is seen by the server.
type memory struct {
	client.Transport
	*store.Memory
}

func (m memory) Snapshot() store.Snapshot { return m.Memory.Snapshot() }

func (m memory) Watch(resource string, after int64) (*store.Watch, error) {
	return m.Memory.Watch(resource, after)
}

func newMemory() (memory, *client.Client) {
	m := memory{Memory: store.NewMemory(1)}
	return m, client.New(m, kinds.NewTable(
		&kinds.Kind{Kind: "Service", Resource: "services", Namespaced: true, Versions: []kinds.Version{kinds.V[corev1.Service, corev1.ServiceList]("v1")}},
		&kinds.Kind{Kind: "Namespace", Resource: "namespaces", Versions: []kinds.Version{kinds.V[corev1.Namespace, corev1.NamespaceList]("v1")}},
		&kinds.Kind{Group: "discovery.k8s.io", Kind: "EndpointSlice", Resource: "endpointslices", Namespaced: true,
			Versions: []kinds.Version{kinds.V[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList]("v1")}},
	))
}

func keyOf(obj client.Object) store.Key {
	k := store.Key{Namespace: obj.GetNamespace(), Name: obj.GetName()}
	switch obj.(type) {
	case *corev1.Service:
		k.Resource = "services"
	case *corev1.Namespace:
		k.Resource = "namespaces"
	case *discoveryv1.EndpointSlice:
		k.Resource = "endpointslices.discovery.k8s.io"
	}
	return k
}

func (m memory) put(obj client.Object)    { m.Mirror(store.Put, keyOf(obj), obj, 0) }
func (m memory) remove(obj client.Object) { m.Mirror(store.Delete, keyOf(obj), obj, 0) }

// load puts the objects of a YAML stream.
func (m memory) load(t testing.TB, data []byte) {
	t.Helper()
	for _, doc := range bytes.Split(data, []byte("---\n")) {
		var kind metav1.TypeMeta
		err := yaml.Unmarshal(doc, &kind)
		var obj client.Object
		switch kind.Kind {
		case "Service":
			obj = &corev1.Service{}
		case "Namespace":
			obj = &corev1.Namespace{}
		case "EndpointSlice":
			obj = &discoveryv1.EndpointSlice{}
		}
		if err == nil {
			err = yaml.UnmarshalStrict(doc, obj)
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		m.put(obj)
	}
}

// start runs a server for the cluster 10.42.0.0/16, 10.43.0.0/16 whose upstream answers as handler does.
func start(t testing.TB, c *client.Client, handler miekg.HandlerFunc) *Server {
	t.Helper()
	s, err := New(Options{Client: c, Listen: netip.MustParseAddrPort("127.0.0.1:0"), Logger: slog.New(slog.DiscardHandler),
		Ranges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd00:42::/56")}})
	if err != nil {
		t.Fatal(err)
	}
	if handler != nil {
		s.upstream.set(serveUpstream(t, handler))
	} else {
		s.upstream.set()
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// set takes the place of reading resolv.conf.
func (u *upstream) set(servers ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.servers, u.read = servers, time.Now().Add(time.Hour)
}

// serveUpstream runs another name server, by UDP and TCP, and returns its address.
func serveUpstream(t testing.TB, handler miekg.HandlerFunc) string {
	t.Helper()
	for {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err != nil {
			tcp.Close() // the port is another's by UDP
			continue
		}
		for _, srv := range []*miekg.Server{{Listener: tcp, Handler: handler}, {PacketConn: udp, Handler: handler}} {
			go srv.ActivateAndServe()
		}
		t.Cleanup(func() { tcp.Close(); udp.Close() })
		return tcp.Addr().String()
	}
}

// ask sends one query, "tcp" or "udp", and returns the answer.
func (s *Server) ask(t testing.TB, network, name string, qtype uint16, edit ...func(*miekg.Msg)) *miekg.Msg {
	t.Helper()
	m := new(miekg.Msg).SetQuestion(miekg.Fqdn(name), qtype)
	for _, e := range edit {
		e(m)
	}
	c := miekg.Client{Net: network, Timeout: 6 * time.Second, UDPSize: miekg.MinMsgSize}
	if opt := m.IsEdns0(); opt != nil {
		c.UDPSize = opt.UDPSize()
	}
	got, _, err := c.Exchange(m, s.Addr().String())
	if err != nil {
		t.Fatalf("%s %s: %v", name, miekg.TypeToString[qtype], err)
	}
	return got
}

// TestNames runs the scripts of testdata: objects.yaml, and queries with the answers that they get, by UDP and by TCP.
func TestNames(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(err, files)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			script, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			m, c := newMemory()
			m.load(t, script.Files[0].Data)
			s := start(t, c, exampleOrg)
			var got []string
			for line := range strings.Lines(string(script.Files[1].Data)) {
				fields := strings.Fields(line)
				if fields[0] != "?" {
					continue
				}
				udp := render(s.ask(t, "udp", fields[1], miekg.StringToType[fields[2]]))
				if tcp := render(s.ask(t, "tcp", fields[1], miekg.StringToType[fields[2]])); tcp != udp {
					t.Errorf("%s by TCP: %s\nby UDP: %s", line, tcp, udp)
				}
				got = append(got, line+udp)
			}
			all := strings.Join(got, "")
			if *update {
				script.Files[1].Data = []byte(all)
				if err := os.WriteFile(file, txtar.Format(script), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(string(script.Files[1].Data), all); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// render prints an answer, its records sorted, as their order is left to chance.
func render(m *miekg.Msg) string {
	var lines []string
	for i, section := range [][]miekg.RR{m.Answer, m.Ns, m.Extra} {
		var part []string
		for _, rr := range section {
			part = append(part, strings.ReplaceAll(rr.String(), "\t", " "))
		}
		slices.Sort(part)
		for _, p := range part {
			lines = append(lines, "  "+[]string{"", "authority: ", "additional: "}[i]+p+"\n")
		}
	}
	head := miekg.RcodeToString[m.Rcode]
	for _, f := range []struct {
		on   bool
		name string
	}{{m.Authoritative, "aa"}, {m.RecursionAvailable, "ra"}, {m.Truncated, "tc"}} {
		if f.on {
			head += " " + f.name
		}
	}
	return "  " + head + "\n" + strings.Join(lines, "")
}

// exampleOrg is the world outside: www.example.org has addresses, nothing else is there.
func exampleOrg(w miekg.ResponseWriter, q *miekg.Msg) {
	m := new(miekg.Msg).SetReply(q)
	m.RecursionAvailable = true
	switch name := strings.ToLower(q.Question[0].Name); {
	case name == "www.example.org." && q.Question[0].Qtype == miekg.TypeA:
		for _, s := range []string{"www.example.org. 300 IN CNAME web.example.org.", "web.example.org. 20 IN A 203.0.113.7"} {
			m.Answer = append(m.Answer, rr(s))
		}
	default:
		if name != "www.example.org." {
			m.Rcode = miekg.RcodeNameError
		}
		m.Ns = []miekg.RR{rr("example.org. 600 IN SOA ns.example.org. root.example.org. 1 2 3 4 17")}
	}
	w.WriteMsg(m)
}

func rr(s string) miekg.RR {
	rr, err := miekg.NewRR(s)
	if err != nil {
		panic(err)
	}
	return rr
}

// headless returns a headless service and its slice with n endpoints.
func headless(name string, n int) (*corev1.Service, *discoveryv1.EndpointSlice) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}}
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4,
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: name, corev1.IsHeadlessService: ""}}}
	for i := range n {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.42.%d.%d", i>>8, i&255)}})
	}
	return svc, slice
}

// TestChanges sees records come, change and go.
func TestChanges(t *testing.T) {
	m, c := newMemory()
	s := start(t, c, nil)
	const name = "web.default.svc.cluster.local"
	svc, slice := headless("web", 2)
	until := func(what, name string, qtype uint16, rcode, answers int) {
		t.Helper()
		for {
			got := s.ask(t, "udp", name, qtype)
			if got.Rcode == rcode && len(got.Answer) == answers {
				return
			}
			if t.Context().Err() != nil {
				t.Fatalf("%s: %s", what, render(got))
			}
		}
	}
	until("before", name, miekg.TypeA, miekg.RcodeNameError, 0)
	m.put(svc)
	until("service without endpoints", name, miekg.TypeA, miekg.RcodeNameError, 0)
	m.put(slice)
	until("two endpoints", name, miekg.TypeA, miekg.RcodeSuccess, 2)
	until("address of an endpoint", "1.0.42.10.in-addr.arpa", miekg.TypePTR, miekg.RcodeSuccess, 1)
	less := slice.DeepCopy()
	less.Endpoints[1].Conditions.Ready = new(false)
	m.put(less)
	until("one is not ready", name, miekg.TypeA, miekg.RcodeSuccess, 1)
	until("address of one that is not ready", "1.0.42.10.in-addr.arpa", miekg.TypePTR, miekg.RcodeNameError, 0)
	fixed := svc.DeepCopy()
	fixed.Spec.ClusterIP = "10.43.0.80"
	m.put(fixed)
	until("address of a service", "80.0.43.10.in-addr.arpa", miekg.TypePTR, miekg.RcodeSuccess, 1)
	m.remove(less)
	m.remove(fixed)
	until("after", name, miekg.TypeA, miekg.RcodeNameError, 0)
	until("address after", "80.0.43.10.in-addr.arpa", miekg.TypePTR, miekg.RcodeNameError, 0)
	s.index.mu.RLock()
	defer s.index.mu.RUnlock()
	if n := len(s.index.services) + len(s.index.clusterIPs) + len(s.index.headless); n != 0 {
		t.Errorf("%d entries are left in the index", n)
	}
}

// TestSizes cuts answers to what the client takes, and sends all by TCP.
func TestSizes(t *testing.T) {
	m, c := newMemory()
	svc, slice := headless("many", 100)
	m.put(svc)
	m.put(slice)
	long := func(w miekg.ResponseWriter, q *miekg.Msg) {
		reply := new(miekg.Msg).SetReply(q)
		for i := range 100 {
			reply.Answer = append(reply.Answer, rr(fmt.Sprintf("%s 60 IN A 203.0.113.%d", q.Question[0].Name, i)))
		}
		if w.RemoteAddr().Network() == "udp" {
			reply.Truncate(int(q.IsEdns0().UDPSize()))
		}
		w.WriteMsg(reply)
	}
	s := start(t, c, long)
	size := func(n uint16) func(*miekg.Msg) { return func(m *miekg.Msg) { m.SetEdns0(n, false) } }
	for _, test := range []struct {
		network string
		name    string
		edit    func(*miekg.Msg)
		limit   int
		answers int
	}{
		{"udp", "many.default.svc.cluster.local", func(*miekg.Msg) {}, 512, 29},
		{"udp", "many.default.svc.cluster.local", size(1000), 1000, 58},
		{"udp", "many.default.svc.cluster.local", size(4096), maxUDP, 73},
		{"tcp", "many.default.svc.cluster.local", func(*miekg.Msg) {}, maxTCP, 100},
		{"udp", "many.example.org", func(*miekg.Msg) {}, 512, 0},
		{"tcp", "many.example.org", func(*miekg.Msg) {}, maxTCP, 100},
	} {
		got := s.ask(t, test.network, test.name, miekg.TypeA, test.edit)
		seen := map[string]bool{}
		for _, rr := range got.Answer {
			seen[rr.(*miekg.A).A.String()] = true
		}
		got.Compress = true
		if len(seen) != test.answers || got.Truncated != (test.answers < 100) || got.Len() > test.limit {
			t.Errorf("%s %s within %d: %d different answers of %d in %d bytes, truncated %v; want %d", test.network, test.name, test.limit, len(seen), len(got.Answer), got.Len(), got.Truncated, test.answers)
		}
	}
}

// TestSpread starts the answers anywhere.
func TestSpread(t *testing.T) {
	m, c := newMemory()
	svc, slice := headless("web", 3)
	m.put(svc)
	m.put(slice)
	s := start(t, c, nil)
	first := map[string]bool{}
	for range 200 {
		first[s.ask(t, "udp", "web.default.svc.cluster.local", miekg.TypeA).Answer[0].(*miekg.A).A.String()] = true
	}
	if len(first) != 3 {
		t.Errorf("first answers: %v, want each of 3", first)
	}
}

// TestUpstream forwards once, answers from the cache with what is left of the TTL, and names its failure.
func TestUpstream(t *testing.T) {
	_, c := newMemory()
	var asked atomic.Int32
	s := start(t, c, func(w miekg.ResponseWriter, q *miekg.Msg) {
		asked.Add(1)
		exampleOrg(w, q)
	})
	for range 3 {
		for _, name := range []string{"www.example.org", "WWW.eXample.org", "nowhere.example.org"} {
			got := s.ask(t, "udp", name, miekg.TypeA)
			if got.Question[0].Name != name+"." {
				t.Errorf("%s: answer to question %s", name, got.Question[0].Name)
			}
			if rcode := map[bool]int{true: miekg.RcodeNameError, false: miekg.RcodeSuccess}[name == "nowhere.example.org"]; got.Rcode != rcode {
				t.Errorf("%s: %s", name, render(got))
			}
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("upstream was asked %d times, want 2", n)
	}
	s.upstream.cache.mu.Lock()
	for key, a := range s.upstream.cache.answers {
		older := *a
		older.stored = a.stored.Add(-7 * time.Second)
		s.upstream.cache.answers[key] = &older
	}
	s.upstream.cache.mu.Unlock()
	if got := s.ask(t, "udp", "www.example.org", miekg.TypeA); got.Answer[1].Header().Ttl != 13 {
		t.Errorf("7 s later: %s", render(got))
	}

	s.upstream.set(serveUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		w.WriteMsg(new(miekg.Msg).SetRcode(q, miekg.RcodeServerFailure))
	}), serveUpstream(t, exampleOrg))
	if got := s.ask(t, "udp", "other.example.org", miekg.TypeA); got.Rcode != miekg.RcodeNameError {
		t.Errorf("with a first server that fails: %s", render(got))
	}
	s.upstream.set()
	if got := s.ask(t, "udp", "another.example.org", miekg.TypeA); got.Rcode != miekg.RcodeServerFailure {
		t.Errorf("without servers: %s", render(got))
	}
	if stats := s.Stats(); stats.Failures != 1 || stats.Forwarded < 11 {
		t.Errorf("stats: %+v", stats)
	}
}

// TestFlood answers those at once for whom there is no more room among the waiting, and everybody else as ever.
func TestFlood(t *testing.T) {
	m, c := newMemory()
	svc, slice := headless("web", 1)
	m.put(svc)
	m.put(slice)
	s := start(t, c, exampleOrg)
	for range cap(s.waiting) {
		s.waiting <- struct{}{}
	}
	if got := s.ask(t, "udp", "www.example.org", miekg.TypeA); got.Rcode != miekg.RcodeServerFailure || got.Question[0].Name != "www.example.org." {
		t.Errorf("one too many: %s", render(got))
	}
	if got := s.ask(t, "udp", "web.default.svc.cluster.local", miekg.TypeA); len(got.Answer) != 1 {
		t.Errorf("a name of ours beside it: %s", render(got))
	}
	<-s.waiting
	for range 3 {
		if got := s.ask(t, "udp", "www.example.org", miekg.TypeA); got.Rcode != miekg.RcodeSuccess {
			t.Errorf("with room for one: %s", render(got))
		}
	}
}

// TestForward asks for names in certain domains elsewhere.
func TestForward(t *testing.T) {
	says := func(text string) string {
		return serveUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
			m := new(miekg.Msg).SetReply(q)
			m.Answer = []miekg.RR{&miekg.TXT{Hdr: miekg.RR_Header{Name: q.Question[0].Name, Rrtype: miekg.TypeTXT, Class: miekg.ClassINET, Ttl: 5}, Txt: []string{text}}}
			w.WriteMsg(m)
		})
	}
	at := func(text string) []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(says(text))} }
	u, err := newUpstream("", map[string][]netip.AddrPort{"Example": at("short"), "deep.example": at("long"), "168.192.in-addr.arpa": at("reverse")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	u.set(says("node"))
	for name, want := range map[string]string{
		"example": "short", "a.eXample": "short", "xdeep.example": "short", "deep.example": "long", "a.b.deep.example": "long",
		"1.0.168.192.in-addr.arpa": "reverse", "example.org": "node", "badexample": "node",
	} {
		wire, _ := wireName(name)
		var q query
		if err := q.parse(queryFor(wire, miekg.TypeTXT)); err != nil {
			t.Fatal(err)
		}
		m, err := u.exchange(t.Context(), &q)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Answer[0].(*miekg.TXT).Txt[0]; got != want {
			t.Errorf("%s: asked %s, want %s", name, got, want)
		}
	}
	if _, err := newUpstream("", map[string][]netip.AddrPort{"a..b": nil}, nil); err == nil {
		t.Error("took a domain that is none")
	}
}

func TestResolvConf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	u, err := newUpstream(file, nil, func(a netip.Addr) bool { return a == netip.MustParseAddr("10.43.0.10") })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.current(); err == nil {
		t.Error("read a file that is not there")
	}
	for i, test := range []struct{ text, want string }{
		{"nameserver 192.0.2.1\nnameserver 10.43.0.10\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\n", "192.0.2.1:53 [fe80::1%eth0]:53 [2001:db8::1]:53"},
		{"search example.org\n", ""},
	} {
		if err := os.WriteFile(file, []byte(test.text), 0o644); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(1e9+int64(i), 0)
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
		u.read = time.Time{}
		if got, err := u.current(); err != nil || strings.Join(got, " ") != test.want {
			t.Errorf("servers %v, %v; want %s", got, err, test.want)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := cache{answers: map[cacheKey]*cached{}}
	now := time.Now()
	for i := range 3 * cacheSize {
		c.put(cacheKey{name: fmt.Sprint(i)}, &cached{stored: now, expires: now.Add(time.Second)})
	}
	if len(c.answers) > cacheSize {
		t.Errorf("%d answers, want %d at most", len(c.answers), cacheSize)
	}
}

// TestStrangers answers only clients in the cluster's ranges, and those not wrongly.
func TestStrangers(t *testing.T) {
	_, c := newMemory()
	s := start(t, c, nil)
	for addr, want := range map[string]bool{"10.42.3.4": true, "10.43.0.10": true, "127.0.0.1": true, "192.0.2.1": false, "8.8.8.8": false, "fd00:42::1": true, "2001:db8::1": false} {
		if got := s.serves(netip.MustParseAddr(addr)); got != want {
			t.Errorf("serves %s: %v, want %v", addr, got, want)
		}
	}
	for _, test := range []struct {
		what  string
		edit  func(*miekg.Msg)
		rcode int
	}{
		{"opcode", func(m *miekg.Msg) { m.Opcode = miekg.OpcodeNotify }, miekg.RcodeNotImplemented},
		{"class", func(m *miekg.Msg) { m.Question[0].Qclass = miekg.ClassCHAOS }, miekg.RcodeRefused},
		{"two questions", func(m *miekg.Msg) { m.Question = append(m.Question, m.Question[0]) }, miekg.RcodeFormatError},
		{"transfer", func(m *miekg.Msg) { m.Question[0].Qtype = miekg.TypeAXFR }, miekg.RcodeRefused},
		{"EDNS version", func(m *miekg.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, miekg.RcodeBadVers},
	} {
		if got := s.ask(t, "udp", "cluster.local", miekg.TypeA, test.edit); got.Rcode != test.rcode {
			t.Errorf("%s: %s", test.what, render(got))
		}
	}
	conn, err := net.Dial("udp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reply := new(miekg.Msg).SetReply(new(miekg.Msg).SetQuestion("cluster.local.", miekg.TypeA))
	packed, _ := reply.Pack()
	conn.Write(packed) // an answer gets none, or two servers would talk for ever
	question, _ := new(miekg.Msg).SetQuestion("cluster.local.", miekg.TypeSOA).Pack()
	conn.Write(question)
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	if err != nil || !bytes.Equal(buf[:2], question[:2]) {
		t.Errorf("first answer: % x, %v; want that to the question", buf[:n], err)
	}
	if _, err := New(s.opts); err != nil {
		t.Errorf("port 0 a second time: %v", err)
	}
	opts := s.opts
	opts.Listen = s.Addr()
	if _, err := New(opts); err == nil {
		t.Error("two servers at one address")
	}
}

func FuzzRespond(f *testing.F) {
	m, c := newMemory()
	m.load(f, []byte("kind: Service\nmetadata: {namespace: default, name: web}\nspec: {clusterIP: 10.43.0.80, ports: [{name: http, port: 80, protocol: TCP}]}\n---\n"+
		"kind: Service\nmetadata: {namespace: default, name: loop}\nspec: {type: ExternalName, externalName: loop.default.svc.cluster.local}\n"))
	svc, slice := headless("many", 100)
	m.put(svc)
	m.put(slice)
	s, err := New(Options{Client: c, Listen: netip.MustParseAddrPort("127.0.0.1:0"), Ranges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/15")}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	s.close()
	s.index.fill(c, c.Snapshot())
	for _, name := range []string{"web.default.svc.cluster.local.", "_http._tcp.web.default.svc.cluster.local.", "many.default.svc.cluster.local.",
		"loop.default.svc.cluster.local.", "1-2-3-4.default.pod.cluster.local.", "80.0.43.10.in-addr.arpa.", "."} {
		for _, qtype := range []uint16{miekg.TypeA, miekg.TypeSRV, miekg.TypePTR, miekg.TypeANY} {
			packed, _ := new(miekg.Msg).SetQuestion(name, qtype).SetEdns0(1232, true).Pack()
			f.Add(packed)
		}
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		var q query
		for _, limit := range []int{maxUDP, maxTCP} {
			out, done := s.respond([]byte("xx"), packet, &q, limit)
			if !done || len(out) == 2 {
				continue
			}
			if len(out)-2 > limit {
				t.Fatalf("answer of %d bytes, limit %d", len(out)-2, limit)
			}
			var got miekg.Msg
			if err := got.Unpack(out[2:]); err != nil && len(q.question) > 0 {
				t.Fatalf("answer cannot be read: %v\n% x", err, out[2:])
			}
		}
	})
}
