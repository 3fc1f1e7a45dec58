package realnode

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestShop is the walk of examples/shop: what its customers were told stays true whatever falls over.
func TestShop(t *testing.T) {
	n := newNode(t)
	n.openShop(t)
	c := newCustomer(t, n)
	defer c.leave()
	for _, fault := range []struct {
		name string
		make func(*testing.T)
	}{
		{"the database's pod is deleted", func(t *testing.T) { n.kubectl(t, "delete", "pod", "database-0", "--namespace", "shop") }},
		{"the database's node is lost, and started again", func(t *testing.T) {
			var pod corev1.Pod
			n.get(t, "/api/v1/namespaces/shop/pods/database-0", &pod)
			n.killNode(t, pod.Spec.NodeName)
			n.up(t)
		}},
		{"the server is killed, and started again", func(t *testing.T) {
			pid, err := strconv.Atoi(n.hostFile(t, "keb.lock"))
			must(t, err)
			must(t, syscall.Kill(pid, syscall.SIGKILL))
			n.up(t)
		}},
	} {
		if !t.Run(fault.name, func(t *testing.T) {
			fault.make(t)
			c.served(t)
		}) {
			return
		}
	}
	t.Run("rolling updates", func(t *testing.T) { testShopRollouts(t, n) })
	c.served(t)
	c.leave()
	if out, err := n.keb(t, "down", "--data-dir", n.dir); err != nil || out != "" {
		t.Errorf("down: %v\n%s", err, out)
	}
	if left := n.upTraces(t); len(left) != 0 {
		t.Errorf("down leaves\n%s", strings.Join(left, "\n"))
	}
}

// openShop runs examples/shop/run.sh.
func (n *node) openShop(t *testing.T) {
	t.Helper()
	for _, program := range []string{"openssl", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s: make tools", program)
		}
	}
	self, err := os.Executable()
	must(t, err)
	bin := t.TempDir()
	must(t, os.Symlink(self, filepath.Join(bin, "keb")))
	for _, archive := range []string{"shop.tar", "postgres.tar"} {
		built, err := filepath.Abs(filepath.Join("../bin", archive))
		must(t, err)
		if _, err := os.Stat(built); err != nil {
			t.Skipf("no image of the shop: make images (%v)", err)
		}
		must(t, os.Symlink(built, filepath.Join(bin, archive)))
	}
	began := time.Now()
	p := n.start(t, &exec.Cmd{Path: "examples/shop/run.sh", Args: []string{"run.sh"}, Dir: "..", Env: append(os.Environ(), "KEB_DATA_DIR="+n.dir, "BIN="+bin)})
	if err := p.wait(4 * patience); err != nil || !strings.Contains(p.out.String(), `{"count":1,`) {
		t.Fatalf("the shop does not open: %v\n%s", err, p.out)
	}
	t.Logf("the shop opened after %s", time.Since(began))
	n.connect(t)
}

// up starts what does not run of the cluster of several nodes.
func (n *node) up(t *testing.T) {
	t.Helper()
	if out, err := n.keb(t, "up", "--data-dir", n.dir); err != nil {
		t.Fatalf("up: %v\n%s", err, out)
	}
}

// killNode kills all that runs on a node of the cluster, containers too, as when its machine loses its power.
func (n *node) killNode(t *testing.T, name string) {
	t.Helper()
	dir := n.dir
	if name != "node-1" {
		dir = filepath.Join(n.dir, "nodes", name)
	}
	holder, err := os.ReadFile(filepath.Join(dir, "keb.lock"))
	must(t, err)
	group := "/" + nodeGroup(dir) + "/"
	for left := 1; left > 0; {
		left = 0
		procs, err := filepath.Glob("/proc/[0-9]*")
		must(t, err)
		for _, proc := range procs {
			pid, err := strconv.Atoi(filepath.Base(proc))
			must(t, err)
			exe, err := os.Readlink(proc + "/exe")
			if err != nil {
				continue // it ended, or is the kernel's
			}
			groups, _ := os.ReadFile(proc + "/cgroup")
			if filepath.Dir(exe) == filepath.Join(dir, "bin") || strings.Contains(string(groups), group) || strconv.Itoa(pid) == string(holder) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				left++
			}
		}
	}
}

// customer orders at the shop again and again, and remembers what it was promised.
type customer struct {
	http    *http.Client
	stop    context.CancelFunc
	ended   sync.WaitGroup
	mu      sync.Mutex
	promise map[string]bool // by order's id
	turn    *sync.Cond      // of mu: an order was acknowledged
}

func newCustomer(t *testing.T, n *node) *customer {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(n.hostFile(t, "shop.crt"))) {
		t.Fatal("the shop has no certificate")
	}
	c := &customer{promise: map[string]bool{}, http: &http.Client{Timeout: 7 * time.Second, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		ForceAttemptHTTP2: true,
		DialContext: func(_ context.Context, network, _ string) (net.Conn, error) {
			return n.inside.Dial(network, "", "10.44.0.11:443")
		},
	}}}
	c.turn = sync.NewCond(&c.mu)
	ctx, stop := context.WithCancel(t.Context())
	c.stop = stop
	for i := range 2 {
		c.ended.Go(func() { c.order(ctx, i) })
	}
	return c
}

// order places one order after the other; one that was not acknowledged is placed again.
func (c *customer) order(ctx context.Context, number int) {
	for i := 0; ctx.Err() == nil; {
		id := fmt.Sprintf("%d-%d", number, i)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://shop.example/api/orders", strings.NewReader(`{"id":"`+id+`","item":"bread","quantity":2}`))
		if err == nil {
			var resp *http.Response
			if resp, err = c.http.Do(req); err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err == nil && resp.StatusCode == http.StatusCreated {
					c.mu.Lock()
					c.promise[id] = true
					c.turn.Broadcast()
					c.mu.Unlock()
					i++
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond): // a person is slower
		}
	}
}

// leave ends the orders.
func (c *customer) leave() {
	c.stop()
	c.ended.Wait()
	c.http.CloseIdleConnections()
}

// served waits until orders are acknowledged that were placed from now on, and looks whether all that ever were are there.
func (c *customer) served(t *testing.T) {
	t.Helper()
	began := time.Now()
	c.mu.Lock()
	late := time.AfterFunc(2*patience, c.turn.Broadcast)
	// Those under way may have been answered before.
	for want := len(c.promise) + 5; len(c.promise) < want && time.Since(began) < 2*patience; {
		c.turn.Wait()
	}
	late.Stop()
	took := time.Since(began)
	promised := make([]string, 0, len(c.promise))
	for id := range c.promise {
		promised = append(promised, id)
	}
	c.mu.Unlock()
	if took >= 2*patience {
		t.Fatalf("the shop takes no orders after %s", took)
	}
	t.Logf("orders are taken again after %s; %d were acknowledged so far", took, len(promised))
	resp, err := c.http.Get("https://shop.example/api/orders?limit=1000000")
	must(t, err)
	defer resp.Body.Close()
	var kept struct{ Orders []struct{ ID string } }
	must(t, json.NewDecoder(resp.Body).Decode(&kept))
	have := map[string]bool{}
	for _, o := range kept.Orders {
		have[o.ID] = true
	}
	for _, id := range promised {
		if !have[id] {
			t.Errorf("order %s was acknowledged and is lost", id)
		}
	}
}

// slowest is how long an answer may take on a machine that has much else to do: late is not lost.
const slowest = time.Minute

// testShopRollouts: customers at 500 requests a second notice nothing of a new version, whichever way they come.
func testShopRollouts(t *testing.T, n *node) {
	load := filepath.Join(t.TempDir(), "load")
	build := exec.Command("go", "build", "-o", load, "./examples/load")
	build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the load: %v\n%s", err, out)
	}
	for version, way := range [][]string{
		{"-at", "10.44.0.11:443", "-ca", filepath.Join(n.dir, "shop.crt"), "https://shop.example/"},
		{"-at", "10.44.0.12:443", "-ca", filepath.Join(n.dir, "shop.crt"), "https://shop.example/"},
		{"-reuse=false", "http://10.44.0.11:30090/"},
		{"-reuse=false", "http://10.44.0.13:30090/"},
	} {
		p := n.start(t, &exec.Cmd{Path: load, Args: append([]string{"load", "-rate", "500", "-for", "1m", "-deadline", slowest.String()}, way...)})
		n.kubectl(t, "set", "env", "deployment/front", fmt.Sprintf("VERSION=%d", version+2), "--namespace", "shop")
		n.kubectl(t, "rollout", "status", "deployment/front", "--namespace", "shop", "--timeout=60s")
		must(t, p.Process.Signal(syscall.SIGINT))
		if err := p.wait(slowest + patience); err != nil {
			t.Errorf("%v: %v\n%s", way, err, p.out)
			continue
		}
		t.Logf("%v: %s", way, p.out)
	}
}
