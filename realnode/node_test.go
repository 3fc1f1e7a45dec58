// Package realnode holds the tests of the real thing: a keb server that runs containerd, runc and nftables in network
// namespaces of the test's own, and upstream's kubectl beside it. It has only tests; nothing may import it.
package realnode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kebernetes/kebernetes/bundle"
	"github.com/kebernetes/kebernetes/cli"
	"github.com/kebernetes/kebernetes/network/networktest"
)

// The test program is keb, too, and the janitor, when it is called so.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "keb":
		os.Exit(kebMain())
	case "janitor":
		// Standard input ends with the test or with its process, whatever ends that.
		_, _ = io.Copy(io.Discard, os.Stdin)
		if _, err := os.Stat(os.Args[1]); err != nil {
			os.Exit(0)
		}
		os.Exit(cli.Main([]string{"reset", "--yes", "--data-dir", os.Args[1]}))
	}
	os.Exit(m.Run())
}

const (
	// patience is how long a test waits for what must happen.
	patience = 30 * time.Second
	nodeIP   = "192.0.2.1"
	image    = "keb.local/test:1"
)

// node is a server with its node, alone in a network namespace. What it left is gone after the test.
type node struct {
	dir     string
	inside  *networktest.Namespace // the machine
	outside *networktest.Namespace // its neighbour and gateway, which leads nowhere
	server  *process
	log     string
	api     *http.Client
	url     string
	janitor *process
}

// newNode makes a machine beside a gateway, on which no server runs yet.
func newNode(t *testing.T) *node {
	t.Helper()
	n := newMachine(t)
	n.outside = networktest.New(t)
	networktest.Join(t, n.inside, "up0", nodeIP+"/24", n.outside, "down0", "192.0.2.254/24")
	must(t, n.inside.Do(func() error {
		link, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP("192.0.2.254")})
	}))
	return n
}

// newMachine makes a machine without a link to anywhere.
func newMachine(t *testing.T) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a node needs root")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("no /bin/busybox: apt-get install busybox-static")
	}
	dir, err := os.MkdirTemp("", "realnode")
	must(t, err)
	if err := bundle.Unpack(filepath.Join(dir, "bin"), bundle.Kubectl); err != nil {
		must(t, os.RemoveAll(dir))
		t.Skipf("no bundle: %v", err)
	}
	n := &node{dir: dir, inside: networktest.New(t), log: filepath.Join(dir, "server.log")}
	n.janitor = n.start(t, n.self("janitor", dir))
	t.Cleanup(func() { n.reset(t) })
	return n
}

// reset ends the node and removes what it left. It may be called early to look at what remains.
func (n *node) reset(t *testing.T) {
	t.Helper()
	if n.janitor == nil {
		return
	}
	if t.Failed() {
		log, _ := os.ReadFile(n.log)
		t.Logf("the server's log:\n%s", log)
	}
	j := n.janitor
	n.janitor = nil
	must(t, j.stdin.Close())
	if err := j.wait(patience); err != nil {
		t.Errorf("reset: %v\n%s", err, j.out)
	}
	if n.server != nil {
		_ = n.server.wait(patience)
	}
}

// process is a program that a test started.
type process struct {
	*exec.Cmd
	stdin io.WriteCloser
	out   *bytes.Buffer // what it wrote, once it has ended
	ended chan struct{}
	err   error
}

// wait waits until the process has ended and returns how.
func (p *process) wait(limit time.Duration) error {
	select {
	case <-p.ended:
		return p.err
	case <-time.After(limit):
		return fmt.Errorf("process %d still runs", p.Process.Pid)
	}
}

// self is this program under another name.
func (n *node) self(args ...string) *exec.Cmd {
	return &exec.Cmd{Path: "/proc/self/exe", Args: args, Env: append(os.Environ(), "KEB_DATA_DIR="+n.dir)}
}

// start starts a program on the machine.
func (n *node) start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: cmd, out: new(bytes.Buffer), ended: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout, cmd.Stderr = p.out, p.out
	}
	if cmd.Stdin == nil {
		var err error
		p.stdin, err = cmd.StdinPipe()
		must(t, err)
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	if err := n.inside.Do(cmd.Start); err != nil {
		t.Fatalf("start %v: %v", cmd.Args, err)
	}
	go func() {
		p.err = cmd.Wait()
		if w, ok := cmd.Stdout.(*io.PipeWriter); ok {
			w.Close()
		}
		close(p.ended)
	}()
	return p
}

// serve starts the server and waits until its node is ready.
func (n *node) serve(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	n.run(t, "server", "--data-dir", n.dir, "--node-name", "n1")
	if out, err := n.keb(t, "status", "--wait", patience.String(), "--data-dir", n.dir); err != nil {
		// The server may not have taken its directory yet.
		for end := began.Add(patience); err != nil; out, err = n.keb(t, "status", "--wait", patience.String(), "--data-dir", n.dir) {
			select {
			case <-n.server.ended:
				t.Fatalf("the server ended: %v", n.server.err)
			default:
			}
			if time.Now().After(end) {
				t.Fatalf("the server is not ready: %v\n%s", err, out)
			}
		}
	}
	took := time.Since(began)
	n.connect(t)
	return took
}

// connect opens the administrator's connection to the cluster.
func (n *node) connect(t *testing.T) {
	t.Helper()
	c, err := clientcmd.BuildConfigFromFlags("", filepath.Join(n.dir, "admin.kubeconfig"))
	must(t, err)
	tls, err := rest.TLSConfigFor(c)
	must(t, err)
	n.url = c.Host
	n.api = &http.Client{Transport: &http.Transport{TLSClientConfig: tls, DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
		return n.inside.Dial(network, "", addr)
	}}}
}

// run starts the machine's server or agent, whose output goes to its log.
func (n *node) run(t *testing.T, args ...string) {
	t.Helper()
	cmd := n.self(append([]string{"keb"}, args...)...)
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	n.server = n.start(t, cmd)
}

// keb runs a verb on the machine.
func (n *node) keb(t *testing.T, args ...string) (string, error) {
	t.Helper()
	p := n.start(t, n.self(append([]string{"keb"}, args...)...))
	err := p.wait(2 * patience)
	return p.out.String(), err
}

// kubectlCmd is a call of kubectl as the administrator.
func (n *node) kubectlCmd(args ...string) *exec.Cmd {
	return &exec.Cmd{Path: filepath.Join(n.dir, "bin", bundle.Kubectl), Args: append([]string{"kubectl"}, args...),
		Env: append(os.Environ(), "KUBECONFIG="+filepath.Join(n.dir, "admin.kubeconfig"), "KUBECACHEDIR="+filepath.Join(n.dir, "kubecache"))}
}

// kubectl runs kubectl and returns what it wrote to both outputs; it must succeed.
func (n *node) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := n.try(t, nil, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// try runs kubectl and returns what it wrote and how it ended.
func (n *node) try(t *testing.T, stdin io.Reader, args ...string) (string, error) {
	t.Helper()
	cmd := n.kubectlCmd(args...)
	cmd.Stdin = stdin
	p := n.start(t, cmd)
	if p.stdin != nil {
		p.stdin.Close()
	}
	if err := p.wait(patience); err != nil {
		_ = p.Process.Kill()
		return p.out.String(), err
	}
	return p.out.String(), nil
}

// apply creates what a manifest says. $IMAGE and $DIR stand for the test's image and the node's directory.
func (n *node) apply(t *testing.T, manifest string) {
	t.Helper()
	manifest = strings.NewReplacer("$IMAGE", image, "$DIR", n.dir).Replace(manifest)
	if out, err := n.try(t, strings.NewReader(manifest), "apply", "-f", "-"); err != nil {
		t.Fatalf("apply: %v\n%s", err, out)
	}
}

// sh runs a shell command in a pod's container and returns what it prints; it must succeed.
func (n *node) sh(t *testing.T, pod, script string, flags ...string) string {
	t.Helper()
	return n.kubectl(t, slices.Concat([]string{"exec", "-q", pod}, flags, []string{"--", "sh", "-c", script})...)
}

// get reads an object.
func (n *node) get(t *testing.T, path string, into any) {
	t.Helper()
	resp, err := n.api.Get(n.url + path)
	must(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("get %s: %s", path, data)
	}
	must(t, json.Unmarshal(data, into))
}

// pod waits until a pod of namespace default is as wanted, and returns it.
func (n *node) pod(t *testing.T, name string, wanted func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	return n.pods(t, "fieldSelector=metadata.name="+name, func(pods map[string]*corev1.Pod) bool {
		return pods[name] != nil && wanted(pods[name])
	})[name]
}

// state waits until a pod's summary is as wanted.
func (n *node) state(t *testing.T, name, want string) *corev1.Pod {
	t.Helper()
	return n.pod(t, name, func(p *corev1.Pod) bool { return summary(p) == want })
}

// pods watches those that a query selects until they are as wanted.
func (n *node) pods(t *testing.T, query string, wanted func(map[string]*corev1.Pod) bool) map[string]*corev1.Pod {
	t.Helper()
	pods, err := n.watch(t.Context(), query, wanted)
	if err == nil {
		return pods
	}
	for _, p := range pods {
		t.Logf("%s: %s\n%s", p.Name, summary(p), n.kubectl(t, "describe", "pod", p.Name))
	}
	t.Fatalf("pods %s: not as wanted: %v", query, err)
	return nil
}

func (n *node) watch(ctx context.Context, query string, wanted func(map[string]*corev1.Pod) bool) (map[string]*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pods := map[string]*corev1.Pod{}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url+"/api/v1/namespaces/default/pods?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&"+query, nil)
	if err != nil {
		return nil, err
	}
	resp, err := n.api.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	synced := false
	for events := json.NewDecoder(resp.Body); ; {
		var e struct {
			Type   string
			Object corev1.Pod
		}
		if err := events.Decode(&e); err != nil {
			return pods, err
		}
		switch e.Type {
		case "ADDED", "MODIFIED":
			pods[e.Object.Name] = &e.Object
		case "DELETED":
			delete(pods, e.Object.Name)
		case "BOOKMARK":
			synced = true
		default:
			return pods, fmt.Errorf("watch event %s", e.Type)
		}
		if synced && wanted(pods) {
			return pods, nil
		}
	}
}

// event waits for an event of a pod with a reason and a message that begins so.
func (n *node) event(t *testing.T, pod, reason, message string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url+"/api/v1/namespaces/default/events?watch=1&fieldSelector=involvedObject.name="+pod+",reason="+reason, nil)
	must(t, err)
	resp, err := n.api.Do(req)
	must(t, err)
	defer resp.Body.Close()
	var seen []string
	for events := json.NewDecoder(resp.Body); ; {
		var e struct{ Object corev1.Event }
		if err := events.Decode(&e); err != nil {
			t.Errorf("pod %s: events %s %q, want %q", pod, reason, seen, message)
			return
		}
		if strings.HasPrefix(e.Object.Message, message) {
			return
		}
		seen = append(seen, e.Object.Message)
	}
}

// summary says how a pod is: "Running ready main:running*0", "Pending main:ErrImagePull*0", "Failed main:Error(3)*0".
func summary(p *corev1.Pod) string {
	words := []string{string(p.Status.Phase)}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			words = append(words, "ready")
		}
	}
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		state := "running"
		switch {
		case c.State.Terminated != nil:
			state = fmt.Sprintf("%s(%d)", c.State.Terminated.Reason, c.State.Terminated.ExitCode)
		case c.State.Waiting != nil:
			state = c.State.Waiting.Reason
		}
		words = append(words, fmt.Sprintf("%s:%s*%d", c.Name, state, c.RestartCount))
	}
	return strings.Join(words, " ")
}

// pids are the processes of a container, found by its control group.
func pids(t *testing.T, c corev1.ContainerStatus) []string {
	t.Helper()
	_, id, _ := strings.Cut(c.ContainerID, "://")
	var found []string
	procs, err := filepath.Glob("/proc/[0-9]*/cgroup")
	must(t, err)
	for _, file := range procs {
		data, err := os.ReadFile(file)
		if err == nil && id != "" && bytes.Contains(data, []byte(id)) {
			found = append(found, strings.Split(file, "/")[2])
		}
	}
	if len(found) == 0 {
		t.Fatalf("container %s has no process", c.ContainerID)
	}
	return found
}

// cgroupFile reads a file of a container's control group, in whichever hierarchy has it.
func cgroupFile(t *testing.T, pid string, names ...string) string {
	t.Helper()
	groups, err := os.ReadFile("/proc/" + pid + "/cgroup")
	must(t, err)
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, name := range names {
			for _, mount := range []string{fields[1], ""} {
				if data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", mount, fields[2], name)); err == nil {
					return strings.TrimSpace(string(data))
				}
			}
		}
	}
	t.Fatalf("no file %v in the control groups of process %s:\n%s", names, pid, groups)
	return ""
}

// importImage stores the test's image on the node.
func (n *node) importImage(t *testing.T) {
	t.Helper()
	if out, err := n.keb(t, "image", "import", testImage(t), "--data-dir", n.dir); err != nil || out != "imported "+image+"\n" {
		t.Fatalf("import the image: %v\n%s", err, out)
	}
}

// testImage builds the test's image: busybox with all its names, and the programs of the examples.
func testImage(t *testing.T) (file string) {
	t.Helper()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./examples/hello", "./examples/fetch")
	build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the examples: %v\n%s", err, out)
	}
	img := bundle.Image{Name: image, Env: []string{"PATH=/bin"}, Cmd: []string{"sleep", "1000000"}, Files: []bundle.File{
		{Path: "tmp", Mode: 0o1777, Dir: true}, {Path: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/:/bin/sh\n")}}}
	for name, file := range map[string]string{"busybox": "/bin/busybox", "hello": filepath.Join(bin, "hello"), "fetch": filepath.Join(bin, "fetch")} {
		data, err := os.ReadFile(file)
		must(t, err)
		img.Files = append(img.Files, bundle.File{Path: "bin/" + name, Mode: 0o755, Data: data})
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	must(t, err)
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "busybox" {
			img.Files = append(img.Files, bundle.File{Path: "bin/" + name, Mode: 0o777, Link: "busybox"})
		}
	}
	var tar bytes.Buffer
	must(t, bundle.WriteImage(&tar, img))
	file = filepath.Join(bin, "image.tar")
	must(t, os.WriteFile(file, tar.Bytes(), 0o600))
	return file
}

// hostFile reads a file of the node's directory.
func (n *node) hostFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(n.dir, name))
	must(t, err)
	return string(data)
}

// exitCode is that of a program that ended with an error.
func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
