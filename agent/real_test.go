package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kebernetes/kebernetes/agent/cgroup"
	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/cri/critest"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/volume"
)

// realNode is a node with a containerd of its own; all that it made is gone after the test.
type realNode struct {
	*cluster
	host *critest.Host
	dir  string
}

func newRealNode(t testing.TB) *realNode {
	t.Helper()
	host := critest.Containerd(t)
	dir, err := os.MkdirTemp("", "agenttest")
	if err != nil {
		t.Fatal(err)
	}
	root := "/kebtest-" + filepath.Base(dir)
	var c *cluster
	t.Cleanup(func() {
		c.stop()
		mounter := volume.New(volume.Options{Dir: filepath.Join(dir, "pods")})
		uids, err := mounter.Pods()
		if err != nil {
			t.Error(err)
		}
		for _, uid := range uids {
			if err := mounter.Unmount(context.Background(), uid); err != nil {
				t.Error(err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		tree, err := cgroup.Detect(root)
		if err != nil {
			t.Error(err)
		} else if err := tree.Reset(); err != nil {
			t.Error(err)
		}
	})
	c = newCluster(t, host.Runtime, func(o *Options) {
		o.Capacity = nil
		o.Dir, o.LogDir = filepath.Join(dir, "pods"), filepath.Join(dir, "logs")
		o.CgroupRoot = root
	})
	return &realNode{c, host, dir}
}

// pod is a pod of the test's image.
func (n *realNode) newPod(name string, command ...string) *corev1.Pod {
	p := pod(name, command...)
	p.Spec.Containers[0].Image = n.host.Image
	grace := int64(5)
	p.Spec.TerminationGracePeriodSeconds = &grace
	return p
}

func (n *realNode) put(p *corev1.Pod) {
	n.t.Helper()
	if _, err := client.Create(n.t.Context(), n.client, p); err != nil {
		n.t.Fatal(err)
	}
}

// await waits until the pod's summary is as wanted.
func (n *realNode) await(name, want string) *corev1.Pod {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 30*time.Second)
	defer cancel()
	snapshot := n.client.Snapshot()
	watch, err := n.client.Watch("pods", snapshot.Revision())
	if err != nil {
		n.t.Fatal(err)
	}
	for {
		p := n.pod(name)
		if summary(p) == want {
			return p
		}
		if _, _, err := watch.Next(ctx); err != nil {
			n.t.Fatalf("%s: %s\nwant %s\nevents %q", name, summary(n.pod(name)), want, n.events.list[max(len(n.events.list)-10, 0):])
		}
	}
}

// exec runs the test application in a pod's container and returns what it says.
func (n *realNode) exec(p *corev1.Pod, args ...string) string {
	n.t.Helper()
	_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	resp, err := n.runtime.ExecSync(n.t.Context(), id, append([]string{"/app"}, args...), 10*time.Second)
	if err != nil {
		n.t.Fatalf("%v: %v", args, err)
	}
	return string(resp.Stdout) + string(resp.Stderr)
}

func TestRealPods(t *testing.T) {
	n := newRealNode(t)
	t.Run("environment, files and volumes", func(t *testing.T) { n.t = t; testRealFiles(t, n) })
	t.Run("identity and limits", func(t *testing.T) { n.t = t; testRealSecurity(t, n) })
	t.Run("private images", func(t *testing.T) { n.t = t; testRealPrivateImages(t, n) })
	t.Run("ends", func(t *testing.T) { n.t = t; testRealEnds(t, n) })
	t.Run("probes", func(t *testing.T) { n.t = t; testRealProbes(t, n) })
	t.Run("adoption", func(t *testing.T) { n.t = t; testRealAdoption(t, n) })
}

func testRealFiles(t *testing.T, n *realNode) {
	for _, o := range []client.Object{
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cfg"}, Data: map[string]string{"key": "first", "COLOR": "blue"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Data: map[string][]byte{"pass": []byte("word")}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "my-db"}, Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.7", Ports: []corev1.ServicePort{{Name: "sql", Port: 5432, Protocol: corev1.ProtocolTCP}}}},
	} {
		var k *kinds.Kind
		switch o := o.(type) {
		case *corev1.ConfigMap:
			k = client.KindOf[*corev1.ConfigMap](n.client)
		case *corev1.Secret:
			k = client.KindOf[*corev1.Secret](n.client)
		case *corev1.Service:
			k = client.KindOf[*corev1.Service](n.client)
		default:
			t.Fatalf("%T", o)
		}
		if _, err := n.client.Create(t.Context(), k, o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	p := n.newPod("files", "log", "$(WHO)", "$$(WHO)", "$(NOBODY)")
	p.Spec.Hostname, p.Spec.Subdomain = "web", "shop"
	p.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"a.example", "b.example"}}}
	main := &p.Spec.Containers[0]
	main.Env = []corev1.EnvVar{{Name: "WHO", Value: "you"}, {Name: "GREETING", Value: "hi $(WHO)"},
		{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
		{Name: "PASS", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "pass"}}}}
	main.EnvFrom = []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cfg"}}}}
	main.VolumeMounts = []corev1.VolumeMount{{Name: "cfg", MountPath: "/cfg"}, {Name: "tmp", MountPath: "/scratch"}, {Name: "cfg", MountPath: "/one", SubPath: "key"},
		{Name: "tmp", MountPath: "/sub", SubPathExpr: "dir/$(WHO)"}, {Name: "token", MountPath: "/token", ReadOnly: true}}
	p.Spec.Volumes = []corev1.Volume{
		{Name: "cfg", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cfg"}}}},
		{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}}}},
	}
	n.put(p)
	p = n.await("files", "Running ready main:running*0")
	environment := "\n" + n.exec(p, "env")
	for _, want := range []string{"GREETING=hi you", "IP=" + p.Status.PodIP, "PASS=word", "P_COLOR=blue", "MY_DB_SERVICE_HOST=10.43.0.7", "MY_DB_SERVICE_PORT_SQL=5432", "MY_DB_PORT=tcp://10.43.0.7:5432", "HOSTNAME=web"} {
		if !strings.Contains(environment, "\n"+want+"\n") {
			t.Errorf("no %q in %s", want, environment)
		}
	}
	hosts := n.exec(p, "cat", "/etc/hosts")
	if !strings.HasPrefix(hosts, "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n") ||
		!strings.Contains(hosts, p.Status.PodIP+"\tweb.shop.default.svc.cluster.local\tweb\n") ||
		!strings.HasSuffix(hosts, "\n# Entries added by HostAliases.\n192.0.2.9\ta.example\tb.example\n") {
		t.Errorf("hosts %q", hosts)
	}
	if resolv := n.exec(p, "cat", "/etc/resolv.conf"); !strings.Contains(resolv, "search default.svc.cluster.local svc.cluster.local cluster.local") ||
		!strings.Contains(resolv, "nameserver 10.43.0.10\n") || !strings.Contains(resolv, "options ndots:5") {
		t.Errorf("resolv.conf %q", resolv)
	}
	if got := n.exec(p, "cat", "/cfg/key", "/one", "/token/token"); got != "firstfirsttoken" {
		t.Errorf("volumes hold %q", got)
	}
	n.exec(p, "write", "/sub/file", "data")
	if got := n.exec(p, "cat", "/scratch/dir/you/file"); got != "data" {
		t.Errorf("subPath: %q", got)
	}
	log, err := os.ReadFile(filepath.Join(n.dir, "logs", fmt.Sprintf("default_files_%s", p.UID), "main", "0.log"))
	if err != nil || !strings.HasSuffix(string(log), "stdout F you $(WHO) $(NOBODY)\n") {
		t.Errorf("log %q, %v", log, err)
	}
	changed := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cfg"}, Data: map[string]string{"key": "second"}}
	if _, err := client.Update(t.Context(), n.client, changed); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); n.exec(p, "cat", "/cfg/key") != "second"; {
		if time.Now().After(deadline) {
			t.Fatal("the volume did not follow its ConfigMap")
		}
	}
}

func testRealSecurity(t *testing.T, n *realNode) {
	p := n.newPod("secure", "run")
	user, group, fs, yes, no := int64(1000), int64(2000), int64(3000), true, false
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &group, FSGroup: &fs, RunAsNonRoot: &yes, SupplementalGroups: []int64{4000},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}, Sysctls: []corev1.Sysctl{{Name: "kernel.shm_rmid_forced", Value: "1"}}}
	main := &p.Spec.Containers[0]
	main.SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	main.Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
		Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
	}
	main.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	n.put(p)
	p = n.await("secure", "Running ready main:running*0")
	if got := n.exec(p, "id"); got != "1000 2000 [2000 3000 4000]\n" && got != "1000 2000 [3000 4000]\n" && got != "1000 2000 [4000 3000]\n" && got != "1000 2000 [2000 4000 3000]\n" {
		t.Errorf("id %q", got)
	}
	status := n.exec(p, "status")
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000"} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in /proc/self/status:\n%s", want, status)
		}
	}
	if got := n.exec(p, "write", "/new", "x"); !strings.Contains(got, "read-only file system") {
		t.Errorf("write to the root file system: %q", got)
	}
	n.exec(p, "write", "/data/x", "y")
	if got := n.exec(p, "stat", "/data/x"); !strings.HasSuffix(got, " 1000 3000") {
		t.Errorf("a file in the volume is %q", got)
	}
	if got := n.exec(p, "cat", "/proc/sys/kernel/shm_rmid_forced"); got != "1\n" {
		t.Errorf("sysctl %q", got)
	}
	tree, err := cgroup.Detect(n.options.CgroupRoot)
	if err != nil {
		t.Fatal(err)
	}
	group1 := tree.Pod(string(p.UID), corev1.PodQOSBurstable)
	limit := func(file string) string {
		for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory"} {
			if data, err := os.ReadFile(filepath.Join(mount, group1, file)); err == nil {
				return strings.TrimSpace(string(data))
			}
		}
		return ""
	}
	if v1, v2 := limit("memory.limit_in_bytes"), limit("memory.max"); v1+v2 != "134217728" {
		t.Errorf("memory of the pod's group: %q %q", v1, v2)
	}
	if v1, v2 := limit("cpu.cfs_quota_us"), limit("cpu.max"); v1+v2 != "50000" && v1+v2 != "50000 100000" {
		t.Errorf("CPU of the pod's group: %q %q", v1, v2)
	}
	change := n.pod("secure").DeepCopy()
	change.Spec.Containers[0].Resources.Limits[corev1.ResourceCPU] = resource.MustParse("1")
	if _, err := client.Update(t.Context(), n.client, change); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
		s, err := n.runtime.ContainerStatus(t.Context(), id)
		if err == nil && s.GetResources().GetLinux().GetCpuQuota() == 100000 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not resized: %v %v", s.GetResources(), err)
		}
	}
	rooted := n.newPod("rooted", "run")
	rooted.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: &yes}
	n.put(rooted)
	rooted = n.await("rooted", "Pending main:CreateContainerConfigError*0")
	if m := rooted.Status.ContainerStatuses[0].State.Waiting.Message; !strings.HasPrefix(m, "container has runAsNonRoot and image will run as root (pod: \"rooted_default(") {
		t.Errorf("message %q", m)
	}
}

func testRealEnds(t *testing.T, n *realNode) {
	p := n.newPod("message", "message", "/dev/termination-log", "the end", "3")
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	n.put(p)
	p = n.await("message", "Failed main:Error(3)*0")
	if m := p.Status.ContainerStatuses[0].State.Terminated.Message; m != "the end" {
		t.Errorf("termination message %q", m)
	}
	fallback := n.newPod("fallback", "cat", "/does/not/exist")
	fallback.Spec.RestartPolicy = corev1.RestartPolicyNever
	fallback.Spec.Containers[0].TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	n.put(fallback)
	fallback = n.await("fallback", "Failed main:Error(1)*0")
	if m := fallback.Status.ContainerStatuses[0].State.Terminated.Message; m != "open /does/not/exist: no such file or directory\n" {
		t.Errorf("fallback message %q", m)
	}
	bad := n.newPod("bad", "run")
	bad.Spec.Containers[0].Command = []string{"/no/such/program"}
	n.put(bad)
	bad = n.await("bad", "Running main:CrashLoopBackOff*1")
	if last := bad.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.Reason != "StartError" || last.ExitCode != 128 {
		t.Errorf("last state %+v", last)
	}
	missing := n.newPod("missing", "run")
	missing.Spec.Containers[0].Image = n.host.Registry + "/missing:1"
	n.put(missing)
	n.await("missing", "Pending main:ErrImagePull*0")
	for _, name := range []string{"message", "fallback", "bad", "missing"} {
		if err := client.Remove[*corev1.Pod](t.Context(), n.client, "default", name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		n.await(name, "gone")
	}
}

func testRealProbes(t *testing.T, n *realNode) {
	p := n.newPod("probed", "serve", "127.0.0.1:38561")
	p.Spec.HostNetwork = true
	main := &p.Spec.Containers[0]
	get := func(path string) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(38561), Host: "127.0.0.1"}}
	}
	main.ReadinessProbe = &corev1.Probe{ProbeHandler: get("/"), PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 3, SuccessThreshold: 1}
	main.StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Host: "127.0.0.1", Port: intstr.FromInt32(38561)}}, PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 9, SuccessThreshold: 1}
	n.put(p)
	p = n.await("probed", "Running ready main:running*0")
	if p.Status.PodIP != "192.0.2.1" {
		t.Errorf("address %s on the host's network", p.Status.PodIP)
	}
	if hosts := n.exec(p, "cat", "/etc/hosts"); !strings.HasPrefix(hosts, "# Kubernetes-managed hosts file (host network).\n") {
		t.Errorf("hosts %q", hosts)
	}
	sick := n.newPod("sick", "run")
	sick.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/app", "exit", "1"}}}, PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 1, SuccessThreshold: 1}
	n.put(sick)
	n.await("sick", "Running ready main:running*1")
}

func testRealAdoption(t *testing.T, n *realNode) {
	n.put(n.newPod("stay", "run"))
	n.put(n.newPod("orphan", "run"))
	before := n.await("stay", "Running ready main:running*0").Status.ContainerStatuses[0].ContainerID
	n.await("orphan", "Running ready main:running*0")
	n.stop()
	zero := int64(0)
	if err := client.Remove[*corev1.Pod](t.Context(), n.client, "default", "orphan", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.put(n.newPod("next", "run"))
	n.await("next", "Running ready main:running*0")
	n.want("stay", "Running ready main:running*0")
	if now := n.pod("stay").Status.ContainerStatuses[0].ContainerID; now != before {
		t.Errorf("%s was replaced by %s", before, now)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		sandboxes, err := n.runtime.ListPodSandbox(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		left := false
		for _, s := range sandboxes {
			left = left || s.Metadata.Name == "orphan"
		}
		if !left {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the orphan's sandbox stays")
		}
	}
	for _, p := range client.List[*corev1.Pod](n.client, n.client.Snapshot(), "", nil) {
		if err := client.Remove[*corev1.Pod](t.Context(), n.client, "default", p.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"stay", "next", "files", "secure", "rooted", "probed", "sick"} {
		n.await(p, "gone")
	}
}

// BenchmarkPodStart is create → Ready, one pod after the other, and beside it what the runtime alone needs for a pod's calls.
func BenchmarkPodStart(b *testing.B) {
	n := newRealNode(b)
	n.put(n.newPod("warm", "run"))
	n.await("warm", "Running ready main:running*0")
	i := 0
	for b.Loop() {
		i++
		name := fmt.Sprintf("p%d", i)
		n.put(n.newPod(name, "run"))
		n.await(name, "Running ready main:running*0")
		b.StopTimer()
		zero := int64(0)
		if err := client.Remove[*corev1.Pod](b.Context(), n.client, "default", name, metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			b.Fatal(err)
		}
		for sandboxes := 2; sandboxes > 1; {
			list, err := n.runtime.ListPodSandbox(b.Context(), nil)
			if err != nil {
				b.Fatal(err)
			}
			sandboxes = len(list)
		}
		b.StartTimer()
	}
}
