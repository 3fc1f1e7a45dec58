package realnode

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/network/networktest"
)

// newMachines makes machines with the addresses 192.0.2.1, 192.0.2.2 and so on, on one switch that leads nowhere.
func newMachines(t *testing.T, count int) []*node {
	t.Helper()
	hub := networktest.New(t)
	lan := networktest.NewSwitch(t, hub, "lan0", "192.0.2.254/24")
	var out []*node
	for i := range count {
		n := newMachine(t)
		lan.Plug(t, fmt.Sprintf("port%d", i+1), n.inside, "up0", fmt.Sprintf("192.0.2.%d/24", i+1))
		n.outside = hub
		out = append(out, n)
	}
	return out
}

const serverURL = "https://" + nodeIP + ":6443"

// TestNodes runs a server and an agent on two machines.
func TestNodes(t *testing.T) {
	machines := newMachines(t, 3)
	n1, n2, n3 := machines[0], machines[1], machines[2]
	n1.serve(t)
	if !t.Run("refused", func(t *testing.T) { testRefused(t, n1, n2) }) {
		return
	}
	token := n1.token(t)
	began := time.Now()
	n2.run(t, "agent", "--data-dir", n2.dir, "--node-name", "n2", "--server", serverURL, "--token", token)
	n1.ready(t, "n2", true)
	t.Logf("joined and ready after %s", time.Since(began))
	n1.importImage(t)
	n2.importImage(t)
	n1.kubectl(t, "cordon", "n1")
	t.Run("streams", func(t *testing.T) {
		for name, f := range map[string]func(*testing.T, *node){
			"streams": testStreams, "logs": testLogs, "folder": testFolder, "disk limits": testDiskLimits, "image volume": testImageVolume,
			"autoscale": testAutoscale,
		} {
			t.Run(name, func(t *testing.T) { f(t, n1) })
		}
	})
	t.Run("proxies", func(t *testing.T) { testProxies(t, n1) })
	t.Run("duplicate", func(t *testing.T) { testDuplicate(t, n1, n2, n3) })
	t.Run("restarts", func(t *testing.T) { testRestarts(t, n1, n2) })
}

// token makes a join token.
func (n *node) token(t *testing.T, flags ...string) string {
	t.Helper()
	out, err := n.keb(t, append([]string{"token", "create", "--data-dir", n.dir}, flags...)...)
	if err != nil {
		t.Fatalf("create a token: %v\n%s", err, out)
	}
	lines := strings.Fields(out) // the hint goes to the other output
	return lines[len(lines)-1]
}

// ready waits until a node is, or is not, ready.
func (n *node) ready(t *testing.T, name string, want bool) *corev1.Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url+"/api/v1/nodes?watch=1&fieldSelector=metadata.name="+name, nil)
	must(t, err)
	resp, err := n.api.Do(req)
	must(t, err)
	defer resp.Body.Close()
	for events := json.NewDecoder(resp.Body); ; {
		var e struct{ Object corev1.Node }
		if err := events.Decode(&e); err != nil {
			t.Fatalf("node %s is not as wanted (ready: %t): %v\n%s", name, want, err, n.kubectl(t, "describe", "node", name))
		}
		for _, c := range e.Object.Status.Conditions {
			if c.Type == corev1.NodeReady && (c.Status == corev1.ConditionTrue) == want && (!want || len(e.Object.Spec.Taints) == 0) {
				return &e.Object
			}
		}
	}
}

// testRefused: who may not join hears in one line why, and keeps nothing.
func testRefused(t *testing.T, server, machine *node) {
	good := server.token(t)
	hash, rest, _ := strings.Cut(strings.TrimPrefix(good, "keb1."), ".")
	revoked := server.token(t)
	if out, err := server.keb(t, "token", "delete", revoked, "--data-dir", server.dir); err != nil || !strings.HasSuffix(out, " is revoked\n") {
		t.Fatalf("delete a token: %v, %q", err, out)
	}
	short := server.token(t, "--ttl", "1ms")
	for _, tc := range []struct{ name, server, token, node, want string }{
		{"no token", serverURL, "nonsense", "n2", "keb: this is no join token"},
		{"wrong secret", serverURL, good[:len(good)-4] + "aaaa", "n2", "keb: the join token is wrong or was revoked; "},
		{"revoked", serverURL, revoked, "n2", "keb: the join token is wrong or was revoked; "},
		{"expired", serverURL, short, "n2", "keb: the join token " + strings.Split(short, ".")[2] + " expired at "},
		{"other cluster", serverURL, "keb1." + strings.Repeat("0", len(hash)) + "." + rest, "n2", "keb: server " + serverURL + " is not the one that the token is for: "},
		{"taken name", serverURL, good, "n1", "keb: node n1 is already in the cluster, and alive; "},
		{"no TLS", "https://" + nodeIP + ":80", good, "n2", "keb: server https://" + nodeIP + ":80 does not speak TLS; "},
		{"nobody", "https://" + nodeIP + ":1", good, "n2", "keb: server https://" + nodeIP + ":1 cannot be reached: connect: connection refused"},
		{"no URL", "192.0.2.1", good, "n2", `keb: server "192.0.2.1" is no address of a server; want https://HOST:6443`},
	} {
		out, err := machine.keb(t, "agent", "--data-dir", filepath.Join(machine.dir, "refused"), "--node-name", tc.node, "--server", tc.server, "--token", tc.token)
		if err == nil || !strings.HasPrefix(out, tc.want) || strings.Count(out, "\n") != 1 {
			t.Errorf("%s: %v, %q, want one line %q", tc.name, err, out, tc.want)
		}
		if _, err := os.Stat(filepath.Join(machine.dir, "refused", "agent")); !os.IsNotExist(err) {
			t.Errorf("%s: an identity stays behind: %v", tc.name, err)
		}
	}
	var nodes corev1.NodeList
	server.get(t, "/api/v1/nodes", &nodes)
	if len(nodes.Items) != 1 {
		t.Errorf("%d nodes after nobody joined", len(nodes.Items))
	}
}

// testProxies: the API server reaches the node's API and its pods through the agent.
func testProxies(t *testing.T, n *node) {
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: far}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE, command: [hello], env: [{name: POD_NAME, value: far}, {name: GREETING, value: Hi}], ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: far}
spec: {selector: {app: far}, ports: [{port: 80, targetPort: 8080}]}
`)
	far := n.state(t, "far", "Running ready main:running*0")
	var nodes corev1.NodeList
	n.get(t, "/api/v1/nodes", &nodes)
	for _, node := range nodes.Items {
		inside := netip.MustParsePrefix(node.Spec.PodCIDR).Contains(netip.MustParseAddr(far.Status.PodIP))
		if inside != (node.Name == "n2") {
			t.Errorf("pod of n2 has address %s, node %s has %s", far.Status.PodIP, node.Name, node.Spec.PodCIDR)
		}
	}
	for path, want := range map[string]string{
		"/api/v1/nodes/n2/proxy/healthz":                         "ok",
		"/api/v1/nodes/n2/proxy/metrics":                         "go_goroutines",
		"/api/v1/nodes/n2/proxy/stats/summary":                   `"nodeName":"n2"`,
		"/api/v1/namespaces/default/pods/far/proxy/":             "far",
		"/api/v1/namespaces/default/pods/http:far:8080/proxy/":   "far",
		"/api/v1/namespaces/default/services/far:80/proxy/hello": "far",
	} {
		if out, err := n.try(t, nil, "get", "--raw", path); err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v, %q, want %q", path, err, out, want)
		}
	}
	if out, err := n.try(t, nil, "get", "--raw", "/api/v1/nodes/n9/proxy/healthz"); err == nil || !strings.Contains(out, `nodes "n9" not found`) {
		t.Errorf("a node that is not there: %v, %q", err, out)
	}
}

// testDuplicate: a copy of a node's identity does not become a second machine of that name.
func testDuplicate(t *testing.T, server, n, other *node) {
	must(t, os.MkdirAll(filepath.Join(other.dir, "agent"), 0o700))
	for _, name := range []string{"node.pem", "cluster.json"} {
		must(t, os.WriteFile(filepath.Join(other.dir, "agent", name), []byte(n.hostFile(t, "agent/"+name)), 0o600))
	}
	out, err := other.keb(t, "agent", "--data-dir", other.dir, "--runtime-endpoint", "unix:///no/such.sock")
	if err == nil || !strings.Contains(out, "keb: tunnel: node n2 is connected from 192.0.2.2:") {
		t.Errorf("a copied identity: %v, %q", err, out)
	}
	out, err = other.keb(t, "agent", "--data-dir", filepath.Join(other.dir, "other"), "--node-name", "n2", "--server", serverURL, "--token", server.token(t))
	if err == nil || out != "keb: node n2 is already in the cluster, and alive; choose another --node-name\n" {
		t.Errorf("another machine of the same name: %v, %q", err, out)
	}
}

// testRestarts: agent and server come back, in any order, and pods do not notice.
func testRestarts(t *testing.T, server, n *node) {
	before := server.state(t, "far", "Running ready main:running*0")
	logs := func() (string, error) { return server.try(t, nil, "logs", "far") }
	must(t, n.server.Process.Signal(syscall.SIGKILL))
	<-n.server.ended
	server.await(t, "the server notices", func() bool {
		out, err := logs()
		return err != nil && strings.Contains(out, "node n2 is not connected")
	})
	n.run(t, "agent", "--data-dir", n.dir)
	server.await(t, "logs of a node that is back", func() bool { _, err := logs(); return err == nil })

	must(t, server.server.Process.Signal(syscall.SIGKILL))
	<-server.server.ended
	server.serve(t)
	server.await(t, "logs after the server's restart", func() bool { _, err := logs(); return err == nil })
	server.ready(t, "n2", true)
	after := server.state(t, "far", "Running ready main:running*0")
	if before.Status.ContainerStatuses[0].ContainerID != after.Status.ContainerStatuses[0].ContainerID {
		t.Error("the container is another one")
	}
	if log := n.hostFile(t, "server.log"); bytes.Contains([]byte(log), []byte("level=ERROR")) {
		t.Errorf("the agent's log has errors:\n%s", log)
	}
}

// await tries until something is so.
func (n *node) await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !so(); {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}
