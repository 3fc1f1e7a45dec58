package realnode

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const houses = `
apiVersion: v1
kind: Pod
metadata: {name: house}
spec:
  terminationGracePeriodSeconds: 0
  hostname: villa
  securityContext:
    sysctls: [{name: kernel.shm_rmid_forced, value: "1"}, {name: net.ipv4.ip_local_port_range, value: "40000 40100"}]
  containers:
  - {name: main, image: $IMAGE}
  - {name: other, image: $IMAGE}
---
apiVersion: v1
kind: Pod
metadata: {name: open}
spec:
  terminationGracePeriodSeconds: 0
  hostNetwork: true
  hostPID: true
  hostIPC: true
  containers: [{name: main, image: $IMAGE}]
---
apiVersion: v1
kind: Pod
metadata: {name: kin}
spec:
  terminationGracePeriodSeconds: 0
  shareProcessNamespace: true
  containers:
  - {name: main, image: $IMAGE, securityContext: {capabilities: {add: [SYS_PTRACE]}}}
`

// testSandboxes looks at what a pod's containers share, and that it outlives the runtime and is replaced when it is gone itself.
func testSandboxes(t *testing.T, n *node) {
	n.apply(t, houses)
	house := n.state(t, "house", "Running ready main:running*0 other:running*0")
	open := n.state(t, "open", "Running ready main:running*0")
	kin := n.state(t, "kin", "Running ready main:running*0")
	own := func(kind string) string {
		link, err := os.Readlink("/proc/self/ns/" + kind)
		must(t, err)
		return link
	}
	in := func(pod, kind, container string) string {
		return strings.TrimSpace(n.sh(t, pod, "readlink /proc/self/ns/"+kind, "-c", container))
	}
	for kind, shared := range map[string]bool{"ipc": true, "uts": true, "net": true, "pid": false, "mnt": false} {
		main, other := in("house", kind, "main"), in("house", kind, "other")
		if (main == other) != shared || main == own(kind) {
			t.Errorf("%s namespaces: %s and %s, the machine's is %s", kind, main, other, own(kind))
		}
	}
	for _, kind := range []string{"ipc", "uts", "pid"} {
		if got := in("open", kind, "main"); got != own(kind) {
			t.Errorf("%s namespace of a pod on its machine: %s, want %s", kind, got, own(kind))
		}
	}
	lines(t, n.sh(t, "house", "hostname; cat /etc/hostname /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range /proc/sys/net/ipv4/ip_unprivileged_port_start; echo kept > /dev/shm/it", "-c", "main"),
		"villa", "villa", "1", "40000 40100", "0")
	shared := func() {
		t.Helper()
		for _, c := range []string{"main", "other"} {
			lines(t, n.sh(t, "house", "cat /dev/shm/it; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; cat /etc/hostname; grep -c ^nameserver /etc/resolv.conf", "-c", c), "kept", "65536", "villa", "1")
		}
	}
	shared()
	n.sh(t, "kin", "for i in 1 2 3; do sh -c 'sleep 0 &'; done")
	n.eventually(t, "kin", "ps -o stat,args | grep -c '^Z'; true", "0\n")
	if out, err := n.try(t, nil, "exec", "kin", "--", "ls", "-A", "/proc/1/root/"); err != nil || out != "" {
		t.Errorf("the files of the pod's own process: %q, %v", out, err)
	}
	first := pausePID(t, house)
	powerless(t, first)
	powerless(t, pausePID(t, kin))

	n.killRuntime(t)
	main, err := strconv.Atoi(pids(t, house.Status.ContainerStatuses[0])[0])
	must(t, err)
	must(t, syscall.Kill(main, syscall.SIGKILL))
	again := n.state(t, "house", "Running ready main:running*1 other:running*0")
	if got := pausePID(t, again); got != first || again.Status.PodIP != house.Status.PodIP {
		t.Errorf("after kill -9 of containerd the pod's process is %d at %s, want %d at %s", got, again.Status.PodIP, first, house.Status.PodIP)
	}
	shared()

	pause := pausePID(t, kin)
	must(t, syscall.Kill(pause, syscall.SIGKILL))
	n.replaced(t, "kin", pause)
	pause = pausePID(t, open)
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pause))
	must(t, err)
	shim, err := strconv.Atoi(strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[1])
	must(t, err)
	must(t, syscall.Kill(shim, syscall.SIGKILL))
	n.replaced(t, "open", pause)

	n.kubectl(t, "delete", "pod", "house", "open", "kin", "--timeout=30s")
	for _, pattern := range []string{"containerd/io.containerd.grpc.v1.cri/sandboxes/*", "run/containerd/io.containerd.grpc.v1.cri/sandboxes/*"} {
		links, err := filepath.Glob(filepath.Join(n.dir, pattern))
		must(t, err)
		for _, link := range links {
			if _, err := os.Stat(link); err != nil {
				t.Errorf("a pod that is gone leaves %s", link)
			}
		}
	}
}

// killRuntime kills containerd and waits until another one serves.
func (n *node) killRuntime(t *testing.T) {
	t.Helper()
	old := n.runtimePID(t)
	must(t, syscall.Kill(old, syscall.SIGKILL))
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: probe}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: $IMAGE}]}
`)
	n.state(t, "probe", "Running ready main:running*0")
	n.kubectl(t, "delete", "pod/probe")
}

// replaced waits until a pod runs in another sandbox than that of a process, which is gone.
func (n *node) replaced(t *testing.T, pod string, old int) {
	t.Helper()
	n.pod(t, pod, func(p *corev1.Pod) bool {
		found := pausePIDs(t, p)
		return strings.HasPrefix(summary(p), "Running ready ") && len(found) == 1 && found[0] != old
	})
}

// pausePID is the process of a pod's sandbox.
func pausePID(t *testing.T, p *corev1.Pod) int {
	t.Helper()
	found := pausePIDs(t, p)
	if len(found) != 1 {
		t.Fatalf("pod %s has the processes %v of its own, want one", p.Name, found)
	}
	return found[0]
}

func pausePIDs(t *testing.T, p *corev1.Pod) []int {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/comm")
	must(t, err)
	var found []int
	for _, file := range procs {
		dir := filepath.Dir(file)
		comm, _ := os.ReadFile(file)
		groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if string(comm) == "pause\n" && bytes.Contains(groups, []byte("/pod"+string(p.UID))) {
			pid, err := strconv.Atoi(filepath.Base(dir))
			must(t, err)
			found = append(found, pid)
		}
	}
	return found
}

// powerless checks that a process could do nothing if it were taken over.
func powerless(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for _, want := range []string{"Uid:\t65535\t65535\t65535\t65535\n", "Gid:\t65535\t65535\t65535\t65535\n", "Groups:\t \n", "CapPrm:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !bytes.Contains(status, []byte(want)) {
			t.Errorf("the status of a pod's own process lacks %q:\n%s", want, status)
		}
	}
	if files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err != nil || len(files) > 0 {
		t.Errorf("a pod's own process has open files: %v, %v", files, err)
	}
}
