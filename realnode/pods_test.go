package realnode

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// eventually waits until a shell command in a pod prints what is wanted.
func (n *node) eventually(t *testing.T, pod, script, want string) {
	t.Helper()
	var got string
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if got = n.sh(t, pod, script); got == want {
			return
		}
	}
	t.Errorf("%s: %s: got %q, want %q", pod, script, got, want)
}

// lines compares what a container says, line by line.
func lines(t *testing.T, got string, want ...string) {
	t.Helper()
	have := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	for i, line := range have {
		have[i] = strings.Join(strings.Fields(line), " ")
	}
	if !slices.Equal(have, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

func testFiles(t *testing.T, n *node) {
	t.Parallel()
	n.apply(t, `
apiVersion: v1
kind: ConfigMap
metadata: {name: files}
data: {color: blue, shape: round}
---
apiVersion: v1
kind: Secret
metadata: {name: files}
stringData: {password: word}
---
apiVersion: v1
kind: Pod
metadata: {name: files, labels: {tier: front}, annotations: {note: "first"}}
spec:
  hostname: web
  subdomain: shop
  terminationGracePeriodSeconds: 0
  hostAliases: [{ip: 198.51.100.7, hostnames: [far.example]}]
  dnsConfig: {options: [{name: timeout, value: "3"}]}
  containers:
  - name: main
    image: $IMAGE
    env:
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: files, key: color}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: files, key: password}}}
    - {name: SENTENCE, value: "$(COLOR) and $(NOBODY) and $$(COLOR)"}
    - {name: CPUS, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
    - {name: WHERE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    envFrom: [{prefix: CM_, configMapRef: {name: files}}]
    resources: {limits: {cpu: 250m, memory: 64Mi}, requests: {cpu: 100m}}
    volumeMounts:
    - {name: config, mountPath: /config}
    - {name: config, mountPath: /one/color, subPath: color}
    - {name: secret, mountPath: /secret, readOnly: true}
    - {name: all, mountPath: /all}
    - {name: about, mountPath: /about}
    - {name: disk, mountPath: /disk}
    - {name: disk, mountPath: /sub, subPathExpr: dir/$(WHERE)}
    - {name: memory, mountPath: /memory}
    - {name: host, mountPath: /host}
  volumes:
  - {name: config, configMap: {name: files}}
  - {name: secret, secret: {secretName: files, defaultMode: 0400, items: [{key: password, path: deep/pw}]}}
  - name: all
    projected:
      sources:
      - {configMap: {name: files, items: [{key: shape, path: shape}]}}
      - {secret: {name: files}}
      - {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
      - {serviceAccountToken: {path: token, audience: somebody, expirationSeconds: 600}}
  - {name: about, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: memory, resourceFieldRef: {containerName: main, resource: limits.memory}}]}}
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: host, hostPath: {path: $DIR/hostpath, type: DirectoryOrCreate}}
`)
	p := n.state(t, "files", "Running ready main:running*0")
	lines(t, n.sh(t, "files", `echo $COLOR $PASSWORD $CM_shape $CPUS $WHERE; echo "$SENTENCE"; cat /config/color /one/color /secret/deep/pw /all/shape /all/password /all/name; echo
stat -Lc '%a %U' /secret/deep/pw; cat /about/labels; echo; cat /about/memory; echo; echo x > /disk/file; echo $(ls /disk) $(ls /disk/dir)
echo y > /sub/z; cat /disk/dir/n1/z; grep -c ' /memory tmpfs .*size=1024k' /proc/mounts; echo h > /host/made; hostname; hostname -f`),
		"blue word round 250 n1", "blue and $(NOBODY) and $(COLOR)", "bluebluewordroundwordfiles",
		"400 root", `tier="front"`, "67108864", "dir file n1",
		"y", "1", "web", "web.shop.default.svc.cluster.local")
	hosts := n.sh(t, "files", "cat /etc/hosts")
	for _, want := range []string{"# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n", "\n" + p.Status.PodIP + "\tweb.shop.default.svc.cluster.local\tweb\n", "\n198.51.100.7\tfar.example\n"} {
		if !strings.Contains(hosts, want) {
			t.Errorf("no %q in /etc/hosts:\n%s", want, hosts)
		}
	}
	lines(t, n.sh(t, "files", "cat /etc/resolv.conf"), "search default.svc.cluster.local svc.cluster.local cluster.local", "nameserver 10.43.0.10", "options ndots:5 timeout:3")

	n.kubectl(t, "patch", "configmap/files", "-p", `{"data":{"color":"green","shape":"square"}}`)
	n.kubectl(t, "patch", "secret/files", "-p", `{"stringData":{"password":"sesame"}}`)
	n.kubectl(t, "label", "pod/files", "tier=back", "--overwrite")
	n.eventually(t, "files", "echo $(cat /config/color /all/shape) $(cat /all/password /secret/deep/pw /about/labels) $(cat /one/color) $COLOR",
		`greensquare sesamesesametier="back" blue blue`+"\n")
}

func testIdentity(t *testing.T, n *node) {
	t.Parallel()
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: identity}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000, supplementalGroups: [4000], seccompProfile: {type: RuntimeDefault}, sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "80"}]}
  containers:
  - name: main
    image: $IMAGE
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 500m, memory: 64Mi}}
    volumeMounts: [{name: data, mountPath: /data}]
  - name: plain
    image: $IMAGE
    securityContext: {runAsUser: 0, seccompProfile: {type: Unconfined}}
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: machine}
spec:
  terminationGracePeriodSeconds: 0
  hostNetwork: true
  hostPID: true
  dnsPolicy: ClusterFirstWithHostNet
  containers:
  - name: main
    image: $IMAGE
    command: [sh, -c, "sleep 1000001"]
    securityContext: {privileged: true}
---
apiVersion: v1
kind: Pod
metadata: {name: noroot}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsNonRoot: true}
  containers: [{name: main, image: $IMAGE}]
`)
	p := n.state(t, "identity", "Running ready main:running*0 plain:running*0")
	lines(t, n.sh(t, "identity", `id -u; id -g; id -G | tr ' ' '\n' | sort | tr '\n' ' '; echo; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/1/status; touch /new 2>&1; touch /data/new && stat -c '%u %g' /data/new; cat /proc/sys/net/ipv4/ip_unprivileged_port_start`, "-c", "main"),
		"1000", "2000", "2000 3000 4000", "CapEff: 0000000000000000", "CapBnd: 0000000000000400", "NoNewPrivs: 1", "Seccomp: 2", "touch: /new: Read-only file system", "1000 3000", "80")
	lines(t, n.sh(t, "identity", "id -u; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/1/status", "-c", "plain"), "0", "CapEff: 00000000a80425fb", "NoNewPrivs: 0", "Seccomp: 0")
	pid := pids(t, p.Status.ContainerStatuses[0])[0]
	for _, limit := range []struct {
		v1, v2   string
		want, or string
	}{
		{"memory.limit_in_bytes", "memory.max", "67108864", ""},
		{"cpu.cfs_quota_us", "cpu.max", "50000", "50000 100000"},
		{"cpu.shares", "cpu.weight", "102", "4"},
	} {
		if got := cgroupFile(t, pid, limit.v1, limit.v2); got != limit.want && got != limit.or {
			t.Errorf("%s is %q, want %q", limit.v1, got, limit.want)
		}
	}
	n.kubectl(t, "patch", "pod/identity", "--subresource=resize", "-p", `{"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"1"}}}]}}`)
	for end := time.Now().Add(patience); ; {
		if got := cgroupFile(t, pid, "cpu.cfs_quota_us", "cpu.max"); got == "100000" || got == "100000 100000" {
			break
		} else if time.Now().After(end) {
			t.Fatalf("after a resize the quota is %q", got)
		}
	}
	m := n.state(t, "machine", "Running ready main:running*0")
	if m.Status.PodIP != nodeIP {
		t.Errorf("on the host's network a pod has address %q", m.Status.PodIP)
	}
	lines(t, n.sh(t, "machine", "ip -o -4 addr show up0 | grep -o '192[^ ]*' | head -1; grep -aqs '^keb.server' /proc/[0-9]*/cmdline && echo sees keb; grep CapEff /proc/self/status | grep -c ffffff; grep nameserver /etc/resolv.conf; head -1 /etc/hosts"),
		nodeIP+"/24", "sees keb", "1", "nameserver 10.43.0.10", "# Kubernetes-managed hosts file (host network).")
	noroot := n.state(t, "noroot", "Pending main:CreateContainerConfigError*0")
	if got := noroot.Status.ContainerStatuses[0].State.Waiting.Message; !strings.HasPrefix(got, `container has runAsNonRoot and image will run as root (pod: "noroot_default(`) {
		t.Errorf("message %q", got)
	}
}

func testOrder(t *testing.T, n *node) {
	t.Parallel()
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: order}
spec:
  terminationGracePeriodSeconds: 10
  initContainers:
  - {name: first, image: $IMAGE, command: [sh, -c, "echo first >> /log/log"], volumeMounts: [{name: log, mountPath: /log}]}
  - {name: side, image: $IMAGE, restartPolicy: Always, command: [sh, -c, "echo side >> /log/log; trap 'echo side ends >> /log/log; exit 0' TERM; while :; do sleep 0.1; done"], volumeMounts: [{name: log, mountPath: /log}],
     startupProbe: {exec: {command: [grep, -q, side, /log/log]}, periodSeconds: 1}}
  - {name: second, image: $IMAGE, command: [sh, -c, "echo second >> /log/log"], volumeMounts: [{name: log, mountPath: /log}]}
  containers:
  - name: main
    image: $IMAGE
    command: [sh, -c, "echo main >> /log/log; trap 'echo main ends >> /log/log; exit 0' TERM; while :; do sleep 0.1; done"]
    lifecycle:
      postStart: {exec: {command: [sh, -c, "echo started >> /log/log"]}}
      preStop: {exec: {command: [sh, -c, "echo stopping >> /log/log"]}}
    volumeMounts: [{name: log, mountPath: /log}]
  volumes: [{name: log, hostPath: {path: $DIR/order, type: DirectoryOrCreate}}]
`)
	n.state(t, "order", "Running ready first:Completed(0)*0 side:running*0 second:Completed(0)*0 main:running*0")
	n.kubectl(t, "delete", "pod/order", "--timeout=30s")
	got := strings.Split(strings.TrimSpace(n.hostFile(t, "order/log")), "\n")
	if i := slices.Index(got, "started"); i >= 0 {
		got = slices.Delete(got, i, i+1) // beside main's own start
	} else {
		t.Error("postStart did not run")
	}
	if want := []string{"first", "side", "second", "main", "stopping", "main ends", "side ends"}; !slices.Equal(got, want) {
		t.Errorf("order %q, want %q", got, want)
	}
}

func testProbes(t *testing.T, n *node) {
	t.Parallel()
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: $IMAGE
    command: [sh, -c, "touch /alive /ready; exec hello"]
    startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
    livenessProbe: {exec: {command: [cat, /alive]}, periodSeconds: 1, failureThreshold: 1}
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
  - name: other
    image: $IMAGE
    command: [sh, -c, "touch /ready; sleep 1000000"]
    readinessProbe: {exec: {command: [cat, /ready]}, periodSeconds: 1, failureThreshold: 1}
`)
	n.state(t, "probed", "Running ready main:running*0 other:running*0")
	n.sh(t, "probed", "rm /ready", "-c", "other")
	n.state(t, "probed", "Running main:running*0 other:running*0")
	n.event(t, "probed", "Unhealthy", "Readiness probe failed: cat: can't open '/ready': No such file or directory\n")
	n.sh(t, "probed", "touch /ready", "-c", "other")
	n.state(t, "probed", "Running ready main:running*0 other:running*0")
	n.sh(t, "probed", "rm /alive", "-c", "main")
	p := n.state(t, "probed", "Running ready main:running*1 other:running*0")
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 137 && last.ExitCode != 0 {
		t.Errorf("last state %+v", last)
	}
	n.event(t, "probed", "Killing", "Container main failed liveness probe, will be restarted")
}

func testFaults(t *testing.T, n *node) {
	t.Parallel()
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: message}
spec:
  restartPolicy: Never
  containers: [{name: main, image: $IMAGE, command: [sh, -c, "echo -n the end > /dev/termination-log; exit 3"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: fallback}
spec:
  restartPolicy: Never
  containers: [{name: main, image: $IMAGE, command: [sh, -c, "echo last words; exit 4"], terminationMessagePolicy: FallbackToLogsOnError}]
---
apiVersion: v1
kind: Pod
metadata: {name: noimage}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "127.0.0.1:1/missing:1"}]
---
apiVersion: v1
kind: Pod
metadata: {name: neverimage}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "keb.local/missing:1", imagePullPolicy: Never}]
---
apiVersion: v1
kind: Pod
metadata: {name: badname}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "Not An Image"}]
---
apiVersion: v1
kind: Pod
metadata: {name: nocommand}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE, command: [/no/such/program]}]
---
apiVersion: v1
kind: Pod
metadata: {name: nokey}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE, env: [{name: A, valueFrom: {configMapKeyRef: {name: nowhere, key: a}}}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: novolume}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE, volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, configMap: {name: nowhere}}]
---
apiVersion: v1
kind: Pod
metadata: {name: badhostpath}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE, volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, hostPath: {path: $DIR/nowhere, type: Directory}}]
`)
	for name, want := range map[string]struct{ state, message string }{
		"message":  {"Failed main:Error(3)*0", "the end"},
		"fallback": {"Failed main:Error(4)*0", "last words\n"},
	} {
		p := n.state(t, name, want.state)
		if got := p.Status.ContainerStatuses[0].State.Terminated.Message; got != want.message {
			t.Errorf("%s: termination message %q, want %q", name, got, want.message)
		}
	}
	waiting := func(name, state, message string) {
		t.Helper()
		p := n.state(t, name, state)
		if got := p.Status.ContainerStatuses[0].State.Waiting.Message; !strings.Contains(got, message) {
			t.Errorf("%s: message %q, want %q", name, got, message)
		}
	}
	waiting("neverimage", "Pending main:ErrImageNeverPull*0", `Container image "keb.local/missing:1" is not present with pull policy of Never`)
	waiting("badname", "Pending main:InvalidImageName*0", `Failed to apply default image tag "Not An Image": couldn't parse image name "Not An Image": invalid reference format`)
	waiting("nokey", "Pending main:CreateContainerConfigError*0", `configmap "nowhere" not found`)
	waiting("noimage", "Pending main:ErrImagePull*0", `failed to pull and unpack image "127.0.0.1:1/missing:1"`)
	for pod, events := range map[string]map[string]string{
		"noimage":     {"Pulling": `Pulling image "127.0.0.1:1/missing:1"`, "Failed": `Failed to pull image "127.0.0.1:1/missing:1": `, "BackOff": `Back-off pulling image "127.0.0.1:1/missing:1"`},
		"novolume":    {"FailedMount": `MountVolume.SetUp failed for volume "v" : configmap "nowhere" not found`},
		"badhostpath": {"FailedMount": `MountVolume.SetUp failed for volume "v" : hostPath type check failed: ` + n.dir + "/nowhere is not a directory"},
	} {
		for reason, message := range events {
			n.event(t, pod, reason, message)
		}
	}
	n.pod(t, "noimage", func(p *corev1.Pod) bool { return summary(p) == "Pending main:ImagePullBackOff*0" })
	n.state(t, "novolume", "Pending main:ContainerCreating*0")
	p := n.pod(t, "nocommand", func(p *corev1.Pod) bool {
		return strings.HasPrefix(summary(p), "Running main:") && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].LastTerminationState.Terminated != nil
	})
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last.Reason != "StartError" || last.ExitCode != 128 || !strings.Contains(last.Message, "no such file or directory") {
		t.Errorf("nocommand: last state %+v", last)
	}
	n.kubectl(t, "create", "configmap", "nowhere", "--from-literal=a=b")
	n.state(t, "novolume", "Running ready main:running*0")
	n.state(t, "nokey", "Running ready main:running*0")
	n.kubectl(t, "delete", "pod", "message", "fallback", "noimage", "neverimage", "badname", "nocommand", "nokey", "novolume", "badhostpath", "--timeout=30s")
}

// A container that keeps ending is started again at once, then after ten seconds, as upstream's back-off has it.
func testCrashLoop(t *testing.T, n *node) {
	t.Parallel()
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE, command: [sh, -c, "echo round; exit 1"]}]
`)
	var waiting string
	var ended, again time.Time
	n.pod(t, "crash", func(p *corev1.Pod) bool {
		if len(p.Status.ContainerStatuses) == 0 {
			return false
		}
		c := p.Status.ContainerStatuses[0]
		if c.RestartCount == 1 && c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff" {
			waiting, ended = c.State.Waiting.Message, c.LastTerminationState.Terminated.FinishedAt.Time
		}
		if c.State.Running != nil {
			again = c.State.Running.StartedAt.Time
		} else if c.State.Terminated != nil {
			again = c.State.Terminated.StartedAt.Time
		} else if c.LastTerminationState.Terminated != nil {
			again = c.LastTerminationState.Terminated.StartedAt.Time
		}
		return c.RestartCount == 2
	})
	if !strings.HasPrefix(waiting, "back-off 10s restarting failed container=main pod=crash_default(") {
		t.Errorf("message %q", waiting)
	}
	// Times in the API are whole seconds.
	if wait := again.Sub(ended); wait < 9*time.Second || wait > 14*time.Second {
		t.Errorf("restarted after %s, want 10s", wait)
	}
	n.event(t, "crash", "BackOff", "Back-off restarting failed container main in pod crash_default(")
	if got := n.kubectl(t, "logs", "crash", "--previous"); got != "round\n" {
		t.Errorf("the previous container's log is %q", got)
	}
	n.kubectl(t, "delete", "pod/crash", "--timeout=30s")
}
