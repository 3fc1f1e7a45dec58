package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/network"
	"github.com/kebernetes/kebernetes/network/networktest"
)

// TestFromPods asks at the cluster DNS address, which the node gets only after the server has started, from a pod, from the
// node, and from outside, where nobody shall answer.
func TestFromPods(t *testing.T) {
	m, c := newMemory()
	m.put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.80"}})
	node, outside := networktest.New(t), networktest.New(t)
	networktest.Join(t, node, "up0", "192.0.2.1/24", outside, "up0", "192.0.2.2/24")
	address := netip.MustParseAddrPort("10.43.0.10:53")
	ranges := []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")}
	var s *Server
	if err := node.Do(func() (err error) {
		s, err = New(Options{Client: c, Listen: address, Ranges: ranges, Logger: slog.New(slog.DiscardHandler)})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	n, err := network.New(network.Options{
		PodCIDRs: func(context.Context) ([]netip.Prefix, error) {
			return []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24")}, nil
		},
		ServiceCIDRs: ranges[1:], LocalAddresses: []netip.Addr{address.Addr()},
		Dir: filepath.Join(dir, "links"), Socket: filepath.Join(dir, "s"), NetNS: node.Path, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, component := range []interface {
		Run(context.Context) error
	}{s, n} {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- component.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	<-n.Ready()
	pod := networktest.New(t)
	if _, err := n.Attach(t.Context(), network.Attachment{ContainerID: "p", IfName: "eth0", NetNS: pod.Path}); err != nil {
		t.Fatal(err)
	}
	ask := func(from *networktest.Namespace, transport, local string) (*miekg.Msg, error) {
		conn, err := from.Dial(transport, local, address.String())
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return nil, err
		}
		dc := &miekg.Conn{Conn: conn}
		if err := dc.WriteMsg(new(miekg.Msg).SetQuestion("web.default.svc.cluster.local.", miekg.TypeA)); err != nil {
			return nil, err
		}
		return dc.ReadMsg()
	}
	for _, transport := range []string{"udp", "tcp"} {
		for what, from := range map[string]*networktest.Namespace{"pod": pod, "node": node} {
			got, err := ask(from, transport, "")
			if err != nil || len(got.Answer) != 1 || !got.Answer[0].(*miekg.A).A.Equal(net.IPv4(10, 43, 0, 80)) {
				t.Errorf("%s by %s: %v, %v", what, transport, got, err)
			}
		}
	}
	if err := outside.Do(func() error { return routeVia("up0", "192.0.2.1") }); err != nil {
		t.Fatal(err)
	}
	if got, err := ask(outside, "udp", ""); err == nil {
		t.Errorf("answer to outside: %v", got)
	}
	if s.Stats().Refused == 0 {
		t.Error("the query from outside did not arrive")
	}
}

// routeVia gives the calling namespace a default route.
func routeVia(link, gateway string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(gateway)})
}
