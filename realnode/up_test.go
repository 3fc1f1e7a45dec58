package realnode

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/cli"
)

const everywhere = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: main, image: $IMAGE, imagePullPolicy: Never, command: [hello], env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}, {name: GREETING, value: Hi}], ports: [{containerPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
`

// TestUp runs a cluster of several nodes on one machine, which lies in a namespace of the test.
func TestUp(t *testing.T) {
	n := newNode(t)
	up := func(flags ...string) (string, error) {
		return n.keb(t, append([]string{"up", "--data-dir", n.dir}, flags...)...)
	}
	mustUp := func(nodes int, flags ...string) {
		t.Helper()
		began := time.Now()
		out, err := up(flags...)
		if err != nil || strings.Count(out, "Ready") != nodes {
			t.Fatalf("up %v: %v\n%s", flags, err, out)
		}
		t.Logf("up %v took %s", flags, time.Since(began))
		n.connect(t)
	}
	// Whatever a killed one has done, the next one goes on.
	cmd := n.self("keb", "up", "--data-dir", n.dir, "--nodes", "2")
	cmd.Env = append(cmd.Env, killSelfAfter+"=300ms")
	if err := n.start(t, cmd).wait(patience); err == nil {
		t.Error("a killed up went well")
	}
	mustUp(2, "--nodes", "2")
	if out, err := n.keb(t, "image", "import", "--data-dir", n.dir, testImage(t)); err != nil || out != "imported "+image+" on node-1\nimported "+image+" on node-2\n" {
		t.Fatalf("import the image: %v\n%s", err, out)
	}
	if out, err := n.keb(t, "image", "list", "--data-dir", n.dir); err != nil || !strings.Contains(out, "node-1   "+image+" ") || !strings.Contains(out, "node-2   "+image+" ") {
		t.Errorf("list the images: %v\n%s", err, out)
	}
	n.apply(t, everywhere)
	first := n.webs(t, 2)
	testWays(t, n, first)
	testUpRefused(t, n)

	for _, victim := range []string{"nodes/node-2", "."} {
		pid, err := strconv.Atoi(n.hostFile(t, victim+"/keb.lock"))
		must(t, err)
		must(t, syscall.Kill(pid, syscall.SIGKILL))
		n.await(t, "status says what does not run", func() bool {
			out, err := n.keb(t, "status", "--data-dir", n.dir)
			return err != nil && strings.Contains(out, " does not run; `keb up` starts it\n")
		})
		mustUp(2)
	}
	for name, p := range n.webs(t, 2) {
		if was := first[name]; was == nil || was.Status.ContainerStatuses[0].ContainerID != p.Status.ContainerStatuses[0].ContainerID {
			t.Errorf("the pod on %s is another one", name)
		}
	}

	if out, err := n.keb(t, "down", "--keep-data", "--data-dir", n.dir); err != nil {
		t.Fatalf("down: %v\n%s", err, out)
	}
	if left := n.upTraces(t); len(left) != 1 || left[0] != "directory "+n.dir {
		t.Errorf("down --keep-data leaves\n%s", strings.Join(left, "\n"))
	}
	mustUp(3, "--nodes", "3")
	if out, err := n.keb(t, "image", "import", "--data-dir", n.dir, testImage(t)); err != nil || strings.Count(out, "\n") != 3 {
		t.Fatalf("import the image: %v\n%s", err, out)
	}
	n.webs(t, 3)
	began := time.Now()
	if out, err := n.keb(t, "down", "--data-dir", n.dir); err != nil || out != "" {
		t.Fatalf("down: %v\n%s", err, out)
	}
	t.Logf("down took %s", time.Since(began))
	if left := n.upTraces(t); len(left) != 0 {
		t.Errorf("down leaves\n%s", strings.Join(left, "\n"))
	}
	if out, err := n.keb(t, "down", "--data-dir", n.dir); err == nil || out != "keb: `keb up` made no cluster in "+n.dir+"\n" {
		t.Errorf("a second down: %v, %q", err, out)
	}
}

// killSelfAfter is the environment variable that makes this program, as keb, end as by SIGKILL after a while.
const killSelfAfter = "REALNODE_KILL_SELF_AFTER"

// kebMain is keb, which may be told to end in the midst of what it does.
func kebMain() int {
	if after, err := time.ParseDuration(os.Getenv(killSelfAfter)); err == nil {
		if err := os.Unsetenv(killSelfAfter); err != nil { // its children go on
			return 1
		}
		time.AfterFunc(after, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) })
	}
	return cli.Main(os.Args[1:])
}

// webs waits until there is a web pod on each node, and returns them by node.
func (n *node) webs(t *testing.T, nodes int) map[string]*corev1.Pod {
	t.Helper()
	out := map[string]*corev1.Pod{}
	n.pods(t, "labelSelector=app=web", func(pods map[string]*corev1.Pod) bool {
		clear(out)
		for _, p := range pods {
			if strings.HasPrefix(summary(p), "Running ready main:running") {
				out[p.Spec.NodeName] = p
			}
		}
		return len(out) == nodes && len(pods) == nodes
	})
	return out
}

// testWays: the machine reaches all nodes and their pods reach each other and what it reaches, under its address; nobody else
// reaches the nodes.
func testWays(t *testing.T, n *node, pods map[string]*corev1.Pod) {
	for _, address := range []string{"10.44.0.11:30080", "10.44.0.12:30080"} {
		seen := map[string]bool{}
		n.await(t, "all pods answer at "+address, func() bool {
			if out, err := httpGet(n.inside, "http://"+address); err == nil {
				seen[strings.Fields(out)[2]] = true
			}
			return seen["node-1"] && seen["node-2"]
		})
	}
	must(t, n.outside.Do(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4(10, 44, 0, 0), Mask: net.CIDRMask(24, 32)}, Gw: net.ParseIP(nodeIP)})
	}))
	n.outside.ServeName(t, 7, "outside")
	for name, p := range pods {
		script := fmt.Sprintf("wget -q -O - http://%s:8080 && nc 192.0.2.254 7", pods["node-1"].Status.PodIP)
		if out := n.sh(t, p.Name, script); !strings.Contains(out, "Hi from node-1 ") || !strings.Contains(out, "outside "+nodeIP+":") {
			t.Errorf("pod on %s reaches %q", name, out)
		}
	}
	if conn, err := n.outside.Dial("tcp", "", "10.44.0.11:6443"); err == nil {
		conn.Close()
		t.Error("a neighbour of the machine reaches a node")
	}
	resp, err := n.api.Get(n.url + "/readyz")
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the API answers the machine %s", resp.Status)
	}
}

// testUpRefused: what cannot be is said in one line.
func testUpRefused(t *testing.T, n *node) {
	foreign := t.TempDir()
	must(t, os.WriteFile(filepath.Join(foreign, "letter.txt"), nil, 0o600))
	server := t.TempDir()
	must(t, os.Mkdir(filepath.Join(server, "store"), 0o700))
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"up", "--data-dir", n.dir, "--nodes", "1"}, "keb: the cluster in " + n.dir + " has 2 nodes, and keeps them; `keb down` removes it as a whole\n"},
		{[]string{"up", "--data-dir", n.dir, "--nodes", "0"}, "keb: --nodes is 0, want 1 to 99 (see `keb up --help`)\n"},
		{[]string{"up", "--data-dir", foreign}, "keb: " + foreign + " holds other files, as letter.txt; choose another --data-dir\n"},
		{[]string{"up", "--data-dir", server}, "keb: " + server + " holds the cluster of `keb server`; choose another --data-dir, or remove that cluster with `keb reset`\n"},
		{[]string{"down", "--data-dir", foreign}, "keb: `keb up` made no cluster in " + foreign + "\n"},
		{[]string{"server", "--data-dir", n.dir}, "keb: data directory " + n.dir + " is that of a cluster of 2 nodes on this machine; `keb up` starts it\n"},
	} {
		if out, err := n.keb(t, tc.args...); err == nil || out != tc.want {
			t.Errorf("keb %v: %v, %q, want %q", tc.args, err, out, tc.want)
		}
	}
}

// upTraces are the traces of a cluster of several nodes on the machine.
func (n *node) upTraces(t *testing.T) []string {
	t.Helper()
	out := n.traces(t)
	for _, dir := range []string{"", "/nodes/node-2", "/nodes/node-3"} {
		group := nodeGroup(n.dir + dir)
		for _, pattern := range []string{"/run/netns/" + group + "*", "/sys/fs/cgroup/" + group, "/sys/fs/cgroup/*/" + group} {
			found, err := filepath.Glob(pattern)
			must(t, err)
			out = append(out, found...)
		}
	}
	must(t, n.inside.Do(func() error {
		on, err := os.ReadFile("/proc/sys/net/ipv4/conf/up0/forwarding")
		if err == nil && strings.TrimSpace(string(on)) != "0" {
			out = append(out, "forwarding on up0")
		}
		return err
	}))
	return out
}

// nodeGroup is the name of the control group of a data directory's containers.
func nodeGroup(dir string) string {
	id := sha256.Sum256([]byte(dir))
	return fmt.Sprintf("keb-%x", id[:4])
}
