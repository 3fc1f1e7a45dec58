package realnode

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/bundle"
)

const workers = `
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: worker}
spec:
  replicas: 2
  selector: {matchLabels: {app: worker}}
  template:
    metadata: {labels: {app: worker}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: main, image: $IMAGE, command: [hello], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: worker}
spec:
  type: NodePort
  selector: {app: worker}
  ports: [{port: 80, targetPort: 8080, nodePort: 30081}]
`

// workers waits until the ReplicaSet's pods are ready, and returns them.
func (n *node) workers(t *testing.T, wanted func(map[string]*corev1.Pod) bool) map[string]*corev1.Pod {
	t.Helper()
	return n.pods(t, "labelSelector=app=worker", func(pods map[string]*corev1.Pod) bool {
		ready := 0
		for _, p := range pods {
			if strings.HasPrefix(summary(p), "Running ready ") && p.DeletionTimestamp == nil {
				ready++
			}
		}
		return ready == 2 && len(pods) == 2 && (wanted == nil || wanted(pods))
	})
}

func testKilled(t *testing.T, n *node) {
	n.apply(t, workers)
	before := n.workers(t, nil)
	victim := before[slices.Sorted(maps.Keys(before))[0]]
	kill := func() {
		t.Helper()
		p := n.workers(t, nil)[victim.Name]
		pid, err := strconv.Atoi(pids(t, p.Status.ContainerStatuses[0])[0])
		must(t, err)
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	kill()
	after := n.workers(t, func(pods map[string]*corev1.Pod) bool {
		return pods[victim.Name] != nil && pods[victim.Name].Status.ContainerStatuses[0].RestartCount == 1
	})
	c := after[victim.Name].Status.ContainerStatuses[0]
	if last := c.LastTerminationState.Terminated; last == nil || last.ExitCode != 137 || last.Reason != "Error" {
		t.Errorf("last state %+v", last)
	}
	if after[victim.Name].UID != victim.UID || after[victim.Name].Status.PodIP != victim.Status.PodIP {
		t.Error("the pod of a killed container is another one")
	}
	kill()
	n.state(t, victim.Name, "Running main:CrashLoopBackOff*1")

	n.kubectl(t, "delete", "pod", victim.Name)
	replaced := n.workers(t, nil)
	if replaced[victim.Name] != nil {
		t.Error("a deleted pod is still there")
	}
}

// life is what must be the same after keb's death: the processes of each container, its restarts, the pod's identity.
func life(t *testing.T, pods map[string]*corev1.Pod) map[string]string {
	t.Helper()
	out := map[string]string{}
	for name, p := range pods {
		for _, c := range p.Status.ContainerStatuses {
			out[name+"/"+c.Name] = strings.Join(append(pids(t, c), string(p.UID), c.ContainerID, strconv.Itoa(int(c.RestartCount)), p.Status.PodIP), " ")
		}
	}
	return out
}

func testAdoption(t *testing.T, n *node) {
	before := life(t, n.workers(t, nil))
	must(t, n.server.Process.Kill())
	_ = n.server.wait(patience)
	for range 4 {
		if _, err := httpGet(n.outside, "http://"+nodeIP+":30081"); err != nil {
			t.Errorf("with keb gone, pods do not answer: %v", err)
		}
	}
	t.Logf("ready again after %s", n.serve(t))
	if after := life(t, n.workers(t, nil)); !maps.Equal(before, after) {
		t.Errorf("after kill -9 of keb:\n%v\nwant\n%v", after, before)
	}
	n.sh(t, slices.Sorted(maps.Keys(n.workers(t, nil)))[0], "true")

	// While keb is away, one container ends: the next start sees it and starts it again.
	pods := n.workers(t, nil)
	name := slices.Sorted(maps.Keys(pods))[0]
	must(t, n.server.Process.Signal(syscall.SIGTERM))
	if err := n.server.wait(patience); err != nil {
		t.Errorf("SIGTERM ends the server with %v", err)
	}
	pid, err := strconv.Atoi(pids(t, pods[name].Status.ContainerStatuses[0])[0])
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	n.serve(t)
	n.workers(t, func(pods map[string]*corev1.Pod) bool {
		return pods[name] != nil && pods[name].Status.ContainerStatuses[0].RestartCount == 1
	})
}

// runtimePID is the process of containerd.
func (n *node) runtimePID(t *testing.T) int {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(n.hostFile(t, "run/containerd/containerd.pid")))
	must(t, err)
	return pid
}

func testRuntimeKilled(t *testing.T, n *node) {
	before := life(t, n.workers(t, nil))
	old := n.runtimePID(t)
	must(t, syscall.Kill(old, syscall.SIGKILL))
	// A new pod needs the runtime back.
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: later}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: $IMAGE}]}
`)
	n.state(t, "later", "Running ready main:running*0")
	if got := n.kubectl(t, "get", "events", "--field-selector=involvedObject.name=later,type=Warning", "-o", "name"); got != "No resources found in default namespace.\n" && got != "" {
		t.Errorf("a pod that only waits for the runtime gets warnings: %s", got)
	}
	if n.runtimePID(t) == old {
		t.Error("containerd is not another process")
	}
	if out, err := n.keb(t, "status", "--wait", "20s", "--data-dir", n.dir); err != nil {
		t.Errorf("the node does not get ready again: %s", out)
	}
	if after := life(t, n.workers(t, nil)); !maps.Equal(before, after) {
		t.Errorf("after kill -9 of containerd:\n%v\nwant\n%v", after, before)
	}
	n.kubectl(t, "delete", "pod/later")
}

// traces is all that a node may leave on its machine.
func (n *node) traces(t *testing.T) []string {
	t.Helper()
	var out []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, n.dir) {
			out = append(out, "mount "+strings.Fields(line)[4])
		}
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	own := strconv.Itoa(os.Getpid())
	for _, file := range procs {
		args, err := os.ReadFile(file)
		if pid := strings.Split(file, "/")[2]; err == nil && pid != own && bytes.Contains(args, []byte(n.dir)) && !bytes.HasPrefix(args, []byte("janitor")) {
			out = append(out, "process "+string(bytes.ReplaceAll(args, []byte{0}, []byte{' '})))
		}
	}
	must(t, n.inside.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if name := l.Attrs().Name; name != "lo" && name != "up0" {
				out = append(out, "link "+name)
			}
		}
		if err != nil {
			return err
		}
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		for _, r := range routes {
			if r.Dst != nil && !strings.HasPrefix(r.Dst.String(), "192.0.2.") && r.Dst.String() != "0.0.0.0/0" {
				out = append(out, "route "+r.Dst.String())
			}
		}
		if err != nil {
			return err
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		for _, table := range tables {
			out = append(out, "table "+table.Name)
		}
		return err
	}))
	if entries, err := os.ReadDir(n.dir); err == nil && len(entries) > 0 {
		out = append(out, "directory "+n.dir)
	}
	return out
}

// groups lists the control groups at the top of each hierarchy.
func groups(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"/sys/fs/cgroup/keb*", "/sys/fs/cgroup/*/keb*", "/run/netns/cni-*", "/run/containerd/s/*", "/var/log/pods", "/var/log/containers", "/var/lib/containerd", "/var/run/keb*", "/run/keb*", "/var/lib/cni"} {
		found, err := filepath.Glob(pattern)
		must(t, err)
		out = append(out, found...)
	}
	return out
}

func testReset(t *testing.T, n *node, before []string) {
	bystander := exec.Command("/bin/busybox", "sleep", "1000002")
	must(t, bystander.Start())
	defer func() { _ = bystander.Process.Kill(); _ = bystander.Wait() }()
	neighbour := n.start(t, exec.Command("/bin/busybox", "sleep", "1000003"))
	defer func() { _ = neighbour.Process.Kill(); _ = neighbour.wait(patience) }()
	var sockets []string
	boots, err := filepath.Glob(filepath.Join(n.dir, "run/containerd/io.containerd.runtime.v2.task/*/*/bootstrap.json"))
	must(t, err)
	for _, boot := range boots {
		data, err := os.ReadFile(boot)
		must(t, err)
		if _, rest, ok := strings.Cut(string(data), "unix://"); ok {
			path, _, _ := strings.Cut(rest, `"`)
			sockets = append(sockets, path)
		}
	}
	made := slices.DeleteFunc(groups(t), func(s string) bool { return slices.Contains(before, s) })
	pods := n.workers(t, nil)
	var processes []string
	for _, p := range pods {
		processes = append(processes, pids(t, p.Status.ContainerStatuses[0])...)
	}
	if kinds := strings.Join(n.traces(t), "\n"); !strings.Contains(kinds, "mount ") || !strings.Contains(kinds, "process ") || !strings.Contains(kinds, "link keb0") || !strings.Contains(kinds, "table keb") {
		t.Errorf("a running node leaves no traces, so that their absence would prove nothing:\n%s", kinds)
	}
	began := time.Now()
	if out, err := n.keb(t, "reset", "--yes", "--data-dir", n.dir); err != nil {
		t.Errorf("reset: %v\n%s", err, out)
	}
	t.Logf("reset took %s", time.Since(began))
	if left := n.traces(t); len(left) > 0 {
		t.Errorf("reset leaves\n%s", strings.Join(left, "\n"))
	}
	if _, err := os.Stat(n.dir); !os.IsNotExist(err) {
		t.Errorf("reset leaves %s: %v", n.dir, err)
	}
	for _, path := range append(made, sockets...) {
		if _, err := os.Stat(path); err == nil && strings.Contains(path, "keb-") || err == nil && slices.Contains(sockets, path) {
			t.Errorf("reset leaves %s", path)
		}
	}
	for _, pid := range processes {
		if _, err := os.Stat("/proc/" + pid); err == nil {
			t.Errorf("reset leaves process %s of a pod", pid)
		}
	}
	for _, p := range []int{bystander.Process.Pid, neighbour.Process.Pid} {
		if err := syscall.Kill(p, 0); err != nil {
			t.Errorf("reset ended a process that is not its own: %v", err)
		}
	}
	if out, err := n.keb(t, "reset", "--yes", "--data-dir", n.dir); err == nil || !strings.HasPrefix(out, "keb: nothing to reset: ") {
		t.Errorf("a second reset: %v, %q", err, out)
	}
}

// A start on an empty disk after a reset is like the first; what a killed server left is removed as well.
func testResetAfterCrash(t *testing.T, n *node) {
	must(t, bundle.Unpack(filepath.Join(n.dir, "bin"), bundle.Kubectl))
	t.Logf("ready after %s", n.serve(t))
	n.importImage(t)
	n.apply(t, workers)
	n.workers(t, nil)
	must(t, n.server.Process.Kill())
	_ = n.server.wait(patience)
	if out, err := n.keb(t, "reset", "--yes", "--data-dir", n.dir); err != nil {
		t.Errorf("reset: %v\n%s", err, out)
	}
	if left := n.traces(t); len(left) > 0 {
		t.Errorf("reset leaves\n%s", strings.Join(left, "\n"))
	}
}
