package network

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/kebernetes/kebernetes/network/networktest"
)

func TestPool(t *testing.T) {
	for _, test := range []struct {
		prefix string
		first  string
		count  int // of addresses for pods, when few
	}{
		{"10.42.0.0/24", "10.42.0.2", 253},
		{"10.42.0.0/30", "10.42.0.2", 1},
		{"10.42.9.7/29", "10.42.9.2", 5},
		{"fd00:42::/126", "fd00:42::2", 2},
		{"fd00:42::/64", "fd00:42::2", 0},
	} {
		p, err := newPool(netip.MustParsePrefix(test.prefix))
		if err != nil {
			t.Fatal(err)
		}
		first, err := p.take()
		if err != nil || first.String() != test.first {
			t.Errorf("%s: first address %s, %v, want %s", test.prefix, first, err, test.first)
		}
		if test.count == 0 {
			continue
		}
		seen := map[netip.Addr]bool{first: true}
		for range test.count - 1 {
			addr, err := p.take()
			if err != nil || seen[addr] || !p.prefix.Contains(addr) {
				t.Fatalf("%s: took %s after %v: %v", test.prefix, addr, seen, err)
			}
			seen[addr] = true
		}
		if addr, err := p.take(); err == nil {
			t.Errorf("%s: took %s from an empty pool", test.prefix, addr)
		}
		p.release(first)
		if addr, err := p.take(); err != nil || addr != first {
			t.Errorf("%s: took %s, %v, want %s, which was released", test.prefix, addr, err, first)
		}
	}
	for _, prefix := range []string{"10.42.0.0/31", "10.42.0.0/32", "fd00::/127"} {
		if _, err := newPool(netip.MustParsePrefix(prefix)); err == nil {
			t.Errorf("%s: made a pool", prefix)
		}
	}
	p, _ := newPool(netip.MustParsePrefix("10.42.0.0/24"))
	one, _ := p.take()
	p.release(one)
	if next, _ := p.take(); next == one {
		t.Errorf("%s was handed out again at once", one)
	}
}

// node is a Network that runs in a namespace of its own.
type node struct {
	*Network
	ns  *networktest.Namespace
	dir string
	log bytes.Buffer
}

func newNode(t *testing.T, ns *networktest.Namespace, dir string, cidrs ...string) *node {
	t.Helper()
	nd := &node{ns: ns, dir: dir}
	var err error
	nd.Network, err = New(Options{
		PodCIDRs: func(context.Context) ([]netip.Prefix, error) {
			var out []netip.Prefix
			for _, c := range cidrs {
				out = append(out, netip.MustParsePrefix(c))
			}
			return out, nil
		},
		ServiceCIDRs:   []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		LocalAddresses: []netip.Addr{netip.MustParseAddr("10.43.0.10")},
		Dir:            filepath.Join(dir, "links"),
		Socket:         filepath.Join(dir, "net.sock"),
		ConfDir:        filepath.Join(dir, "conf"),
		NetNS:          ns.Path,
		Logger:         slog.New(slog.NewTextHandler(&nd.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return nd
}

func (nd *node) attach(t *testing.T, name string) (*networktest.Namespace, netip.Addr) {
	t.Helper()
	pod := networktest.New(t)
	link, err := nd.Attach(t.Context(), Attachment{ContainerID: name, IfName: "eth0", NetNS: pod.Path})
	if err != nil {
		t.Fatal(err)
	}
	return pod, link.Addresses[0].Address
}

func (nd *node) veths(t *testing.T) int {
	t.Helper()
	links, err := nd.Network.node.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, link := range links {
		if link.Type() == "veth" && link.Attrs().MasterIndex != 0 {
			count++
		}
	}
	return count
}

// TestPodsTalk links pods and sends traffic pod to pod, node to pod, pod to node, with bridge netfilter on and off.
func TestPodsTalk(t *testing.T) {
	for _, bridgeNF := range []string{"0", "1"} {
		t.Run("bridge-nf="+bridgeNF, func(t *testing.T) {
			ns := networktest.New(t)
			if err := ns.Do(func() error {
				const file = "/proc/sys/net/bridge/bridge-nf-call-iptables"
				if _, err := os.Stat(file); err != nil {
					t.Skip("kernel without bridge netfilter")
				}
				return os.WriteFile(file, []byte(bridgeNF), 0)
			}); err != nil {
				t.Fatal(err)
			}
			nd := newNode(t, ns, t.TempDir(), "10.42.0.0/24")
			if err := nd.setUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			a, addrA := nd.attach(t, "a")
			b, addrB := nd.attach(t, "b")
			a.ServeName(t, 80, "a")
			b.ServeName(t, 80, "b")
			ns.ServeName(t, 80, "node")
			for _, test := range []struct {
				from *networktest.Namespace
				to   string
				name string
				seen string
			}{
				{a, addrB.String(), "b", addrA.String()},
				{b, addrA.String(), "a", addrB.String()},
				{a, addrA.String(), "a", addrA.String()},
				{a, "127.0.0.1", "a", "127.0.0.1"},
				{ns, addrA.String(), "a", "10.42.0.1"},
				{a, "10.42.0.1", "node", addrA.String()},
				{b, "10.43.0.10", "node", addrB.String()},
			} {
				for _, network := range []string{"tcp", "udp"} {
					if network == "udp" && test.name == "node" {
						continue // a socket of no address answers from the gateway
					}
					name, seen, err := test.from.Ask(network, "", test.to+":80")
					if err != nil || name != test.name || seen.Addr().String() != test.seen {
						t.Errorf("%s %s: %s saw %s, %v; want %s to see %s", network, test.to, name, seen, err, test.name, test.seen)
					}
				}
			}
		})
	}
}

func TestDualStack(t *testing.T) {
	ns := networktest.New(t)
	nd := newNode(t, ns, t.TempDir(), "10.42.0.0/24", "fd00:42::/64")
	if err := nd.setUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, _ := nd.attach(t, "a")
	b, _ := nd.attach(t, "b")
	b.ServeName(t, 80, "b")
	if name, seen, err := a.Ask("tcp", "", "[fd00:42::3]:80"); err != nil || name != "b" || seen.Addr().String() != "fd00:42::2" {
		t.Errorf("%s saw %s, %v; want b to see fd00:42::2", name, seen, err)
	}
}

// TestRecovery starts again over what a crash left: links of live pods stay and keep their addresses, all others go.
func TestRecovery(t *testing.T) {
	ns, dir := networktest.New(t), t.TempDir()
	nd := newNode(t, ns, dir, "10.42.0.0/29")
	if err := nd.setUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	live, liveAddr := nd.attach(t, "live")
	dead, _ := nd.attach(t, "dead")
	nd.attach(t, "lost")
	// "dead" has a file but no namespace, "lost" has a link but no file, "half" has a file but no link.
	dead.Close()
	os.Remove(nd.sandboxFile("lost.eth0"))
	half := &sandbox{Attachment: Attachment{ContainerID: "half", IfName: "eth0", NetNS: live.Path}, Link: "keb00", Addresses: []netip.Addr{netip.MustParseAddr("10.42.0.6")}}
	if err := nd.saveSandbox(half); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(nd.opts.Dir, "torn.json"), []byte("{"), 0o600)
	os.WriteFile(filepath.Join(nd.opts.Dir, "torn.json.new"), nil, 0o600)

	nd = newNode(t, ns, dir, "10.42.0.0/29")
	for range 2 { // the second time there is nothing to mend
		if err := nd.setUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := nd.veths(t); got != 1 {
		t.Errorf("%d links on the bridge, want 1", got)
	}
	if files, _ := os.ReadDir(nd.opts.Dir); len(files) != 1 || files[0].Name() != "live.eth0.json" {
		t.Errorf("files left: %v, want live.eth0.json", files)
	}
	live.ServeName(t, 80, "live")
	if name, _, err := ns.Ask("tcp", "", liveAddr.String()+":80"); err != nil || name != "live" {
		t.Errorf("live pod after recovery: %q, %v", name, err)
	}
	for i := range 4 { // of five addresses one is taken
		if _, addr := nd.attach(t, fmt.Sprint(i)); addr == liveAddr {
			t.Errorf("address %s of a live pod was handed out again", addr)
		}
	}
	if err := nd.Check(t.Context(), Attachment{ContainerID: "live", IfName: "eth0"}); err != nil {
		t.Errorf("check of a live pod: %v", err)
	}
}

// TestReset leaves nothing, and works where nothing is.
func TestReset(t *testing.T) {
	ns, dir := networktest.New(t), t.TempDir()
	nd := newNode(t, ns, dir, "10.42.0.0/24")
	if err := nd.setUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	nd.attach(t, "a")
	for range 2 {
		if err := Reset(nd.opts); err != nil {
			t.Fatal(err)
		}
	}
	links, err := nd.Network.node.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	if len(links) != 1 || links[0].Attrs().Name != "lo" {
		t.Errorf("%d links after reset, want lo alone", len(links))
	}
	if _, err := os.Stat(nd.opts.Dir); !os.IsNotExist(err) {
		t.Errorf("state after reset: %v", err)
	}
}

// TestUplinkMTU takes the MTU of the link with the default route.
func TestUplinkMTU(t *testing.T) {
	ns, outside := networktest.New(t), networktest.New(t)
	networktest.Join(t, ns, "up0", "192.0.2.1/24", outside, "up0", "192.0.2.2/24")
	if err := ns.Do(func() error {
		link, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMTU(link, 1400); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: netip.MustParseAddr("192.0.2.2").AsSlice()})
	}); err != nil {
		t.Fatal(err)
	}
	nd := newNode(t, ns, t.TempDir(), "10.42.0.0/24")
	if err := nd.setUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	link, err := nd.Attach(t.Context(), Attachment{ContainerID: "a", IfName: "eth0", NetNS: networktest.New(t).Path})
	if err != nil || link.MTU != 1400 {
		t.Errorf("link %+v, %v; want MTU 1400", link, err)
	}
}

// TestPlugin runs keb-cni as a runtime does, against a running node.
func TestPlugin(t *testing.T) {
	dir := t.TempDir()
	plugin := filepath.Join(dir, "keb-cni")
	if out, err := exec.Command("go", "build", "-o", plugin, "../cmd/keb-cni").CombinedOutput(); err != nil {
		t.Fatalf("build keb-cni: %v\n%s", err, out)
	}
	pod := networktest.New(t)
	nd := newNode(t, networktest.New(t), dir, "10.42.0.0/24")
	conf := func(version string) string {
		return fmt.Sprintf(`{"cniVersion":%q,"name":"keb","type":"keb-cni","socket":%q,"cni.dev/valid-attachments":[]}`, version, nd.opts.Socket)
	}
	call := func(command, conf string) (string, error) {
		cmd := exec.Command(plugin)
		cmd.Stdin = strings.NewReader(conf)
		cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=" + pod.Path,
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web", "CNI_PATH=" + dir}
		out, err := cmd.Output()
		return strings.TrimSpace(strings.ReplaceAll(string(out), pod.Path, "NETNS")), err
	}
	for _, test := range []struct{ command, want string }{
		{"ADD", `{"cniVersion":"1.0.0","code":11,"msg":"ask keb at ` + nd.opts.Socket + `: no such file or directory"}`},
		{"STATUS", `{"cniVersion":"1.0.0","code":50,"msg":"keb does not answer"}`},
	} {
		if out, err := call(test.command, conf("1.0.0")); err == nil || out != test.want {
			t.Errorf("%s without keb: %s, %v; want %s", test.command, out, err, test.want)
		}
	}
	if out, err := call("DEL", conf("1.0.0")); err != nil || out != "" {
		t.Errorf("DEL without keb: %s, %v", out, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	if err := nd.setUp(ctx); err != nil {
		t.Fatal(err)
	}
	go func() { ended <- nd.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	waitForSocket(t, nd)

	add := `"interfaces":[{"name":"` + (&Attachment{ContainerID: "c1", IfName: "eth0"}).linkName() + `","mac":"MAC"%[1]s},` +
		`{"name":"eth0","mac":"02:6b:0a:2a:00:0%[2]d"%[1]s,"sandbox":"NETNS"}],"ips":[{"interface":1,"address":"10.42.0.%[2]d/32","gateway":"10.42.0.1"}],` +
		`"routes":[{"dst":"0.0.0.0/0","gw":"10.42.0.1"}]}`
	for _, test := range []struct{ command, version, want string }{
		{"VERSION", "", versionsAnswer},
		{"STATUS", "1.1.0", ""},
		{"CHECK", "1.1.0", `{"cniVersion":"1.1.0","code":100,"msg":"sandbox c1 has no link eth0"}`},
		{"ADD", "1.0.0", `{"cniVersion":"1.0.0",` + fmt.Sprintf(add, "", 2)},
		{"CHECK", "1.0.0", ""},
		{"ADD", "1.1.0", `{"cniVersion":"1.1.0",` + fmt.Sprintf(add, `,"mtu":1500`, 3)},
		{"DEL", "1.1.0", ""},
		{"DEL", "1.1.0", ""},
		{"CHECK", "1.0.0", `{"cniVersion":"1.0.0","code":100,"msg":"sandbox c1 has no link eth0"}`},
		{"ADD", "1.1.0", `{"cniVersion":"1.1.0",` + fmt.Sprintf(add, `,"mtu":1500`, 4)},
		{"GC", "1.1.0", ""},
		{"CHECK", "1.1.0", `{"cniVersion":"1.1.0","code":100,"msg":"sandbox c1 has no link eth0"}`},
		{"ADD", "0.2.0", `{"cniVersion":"1.0.0","code":1,"msg":"CNI version \"0.2.0\" is not one of 1.0.0, 1.1.0"}`},
		{"DANCE", "1.1.0", `{"cniVersion":"1.1.0","code":4,"msg":"CNI command \"DANCE\" is unknown"}`},
	} {
		out, err := call(test.command, conf(test.version))
		var result cniResult
		if json.Unmarshal([]byte(out), &result) == nil && len(result.Interfaces) > 0 {
			out = strings.Replace(out, result.Interfaces[0].MAC, "MAC", 1)
		}
		if out != test.want {
			t.Errorf("%s %s:\n got %s, %v\nwant %s", test.command, test.version, out, err, test.want)
		}
		if failed := strings.Contains(test.want, `"code"`); (err != nil) != failed {
			t.Errorf("%s %s: exit %v, want failure %v", test.command, test.version, err, failed)
		}
	}
	if got := nd.veths(t); got != 0 {
		t.Errorf("%d links on the bridge, want 0", got)
	}
}

const versionsAnswer = `{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}`

// waitForSocket waits until the node has written the CNI configuration, which it does when it listens.
func waitForSocket(t *testing.T, nd *node) {
	t.Helper()
	for {
		if _, err := os.Stat(confFile(nd.opts.ConfDir)); err == nil {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatal("no CNI configuration was written")
		default:
		}
	}
}

func TestBadRequests(t *testing.T) {
	nd := &Network{logger: slog.New(slog.DiscardHandler), sandboxes: map[string]*sandbox{}}
	conf := `{"cniVersion":"1.1.0"}`
	for _, test := range []struct {
		request string
		code    int
	}{
		{"", codeDecode},
		{"ADD\x00a\x00b\x00", codeDecode},
		{"ADD\x00c\x00/ns\x00eth0\x00\x00\x00nonsense", codeDecode},
		{"ADD\x00../c\x00/ns\x00eth0\x00\x00\x00" + conf, codeInvalidEnv},
		{"ADD\x00\x00/ns\x00eth0\x00\x00\x00" + conf, codeInvalidEnv},
		{"DEL\x00c\x00/ns\x00a-name-that-is-too-long\x00\x00\x00" + conf, codeInvalidEnv},
		{"DEL\x00c\x00/ns\x00eth/0\x00\x00\x00" + conf, codeInvalidEnv},
	} {
		if _, failure := nd.answer(t.Context(), []byte(test.request)); failure == nil || failure.Code != test.code {
			t.Errorf("%q: %+v, want code %d", test.request, failure, test.code)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("DEL\x00c\x00/ns\x00eth0\x00K8S_POD_NAME=a;=;\x00\x00{\"cniVersion\":\"1.1.0\"}"))
	f.Add([]byte("GC\x00\x00\x00\x00\x00\x00{\"cniVersion\":\"1.1.0\",\"cni.dev/valid-attachments\":[{}]}"))
	nd := &Network{logger: slog.New(slog.DiscardHandler), sandboxes: map[string]*sandbox{}}
	f.Fuzz(func(t *testing.T, request []byte) {
		if bytes.HasPrefix(request, []byte("ADD\x00")) {
			return // changes the kernel
		}
		nd.answer(t.Context(), request)
	})
}

func BenchmarkAttach(b *testing.B) {
	ns, pod := networktest.New(b), networktest.New(b)
	nd, err := New(Options{
		PodCIDRs: func(context.Context) ([]netip.Prefix, error) {
			return []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24")}, nil
		},
		Dir: b.TempDir(), NetNS: ns.Path, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := nd.setUp(b.Context()); err != nil {
		b.Fatal(err)
	}
	a := Attachment{ContainerID: "a", IfName: "eth0", NetNS: pod.Path}
	for b.Loop() {
		if _, err := nd.Attach(b.Context(), a); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := nd.Detach(b.Context(), a); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
