package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/cri/fake"
)

func TestPodRuns(t *testing.T) {
	simulated(t, fake.Options{}, nil, func(t *testing.T, c *cluster, r *fake.Runtime) {
		p := pod("web", "run")
		side := container("side", "run")
		side.Image = "registry.invalid/side:1" // of the same image, either container may be the one that pulls
		p.Spec.Containers = append(p.Spec.Containers, side)
		c.create(p)
		c.want("web", "Running ready main:running*0 side:running*0")
		got := c.pod("web")
		if got.Status.PodIP == "" || got.Status.HostIP != "192.0.2.1" || got.Status.StartTime == nil || got.Status.QOSClass != corev1.PodQOSBestEffort || got.Status.ObservedGeneration != 1 {
			t.Errorf("status %+v", got.Status)
		}
		var types []string
		for _, k := range got.Status.Conditions {
			types = append(types, string(k.Type)+"="+string(k.Status))
		}
		if s := strings.Join(types, " "); s != "PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True PodScheduled=True" {
			t.Errorf("conditions %s", s)
		}
		if !strings.HasPrefix(got.Status.ContainerStatuses[0].ContainerID, "fake://") || !strings.Contains(got.Status.ContainerStatuses[0].ImageID, "@sha256:") {
			t.Errorf("ids %+v", got.Status.ContainerStatuses[0])
		}
		for _, e := range []string{`Normal Pulling spec.containers{main} Pulling image "registry.invalid/app:1"`, "Normal Created spec.containers{main} Container created",
			"Normal Started spec.containers{main} Container started", "Normal Pulled spec.containers{main} Successfully pulled image"} {
			if !c.events.has(e) {
				t.Errorf("no event %q in %q", e, c.events.list)
			}
		}
		if c.api.statuses > 2 {
			t.Errorf("%d status writes for one start", c.api.statuses)
		}
	})
}

func TestRestartPolicies(t *testing.T) {
	for _, test := range []struct {
		policy  corev1.RestartPolicy
		command string
		after   time.Duration
		want    string
	}{
		{corev1.RestartPolicyNever, "exit 0", 0, "Succeeded main:Completed(0)*0"},
		{corev1.RestartPolicyNever, "exit 3", 0, "Failed main:Error(3)*0"},
		{corev1.RestartPolicyOnFailure, "exit 0", 0, "Succeeded main:Completed(0)*0"},
		{corev1.RestartPolicyOnFailure, "exit 3", time.Second, "Running main:CrashLoopBackOff*1"},
		{corev1.RestartPolicyAlways, "exit 0", time.Second, "Running main:CrashLoopBackOff*1"},
		// Restarts at once, then after 10, 20, 40, 80, 160, 300 and 300 s.
		{corev1.RestartPolicyAlways, "exit 1", 9 * time.Second, "Running main:CrashLoopBackOff*1"},
		{corev1.RestartPolicyAlways, "exit 1", 11 * time.Second, "Running main:CrashLoopBackOff*2"},
		{corev1.RestartPolicyAlways, "exit 1", 71 * time.Second, "Running main:CrashLoopBackOff*4"},
		{corev1.RestartPolicyAlways, "exit 1", 311 * time.Second, "Running main:CrashLoopBackOff*6"},
		{corev1.RestartPolicyAlways, "exit 1", 911 * time.Second, "Running main:CrashLoopBackOff*8"},
		// Runs long enough between failures that the back-off starts anew.
		{corev1.RestartPolicyAlways, "exit-after 11m 1", 22*time.Minute + time.Second, "Running ready main:running*2"},
	} {
		t.Run(fmt.Sprintf("%s %s %v", test.policy, test.command, test.after), func(t *testing.T) {
			simulated(t, fake.Options{}, nil, func(t *testing.T, c *cluster, r *fake.Runtime) {
				p := pod("p", strings.Fields(test.command)...)
				p.Spec.RestartPolicy = test.policy
				c.create(p)
				after(time.Millisecond)
				after(test.after)
				c.want("p", test.want)
				if strings.Contains(test.want, "CrashLoop") {
					s := c.pod("p").Status.ContainerStatuses[0]
					if s.LastTerminationState.Terminated == nil || !strings.Contains(s.State.Waiting.Message, "restarting failed container=main pod=p_default(uid-") {
						t.Errorf("%+v", s)
					}
				}
			})
		})
	}
}

func TestInitContainersAndSidecars(t *testing.T) {
	simulated(t, fake.Options{}, nil, func(t *testing.T, c *cluster, r *fake.Runtime) {
		p := pod("p", "exit-after", "10s", "0")
		always := corev1.ContainerRestartPolicyAlways
		sidecar := container("proxy", "run")
		sidecar.RestartPolicy = &always
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.InitContainers = []corev1.Container{container("first", "exit-after", "5s", "0"), sidecar, container("second", "exit-after", "5s", "0")}
		c.create(p)
		c.want("p", "Pending first:running*0 proxy:PodInitializing*0 second:PodInitializing*0 main:PodInitializing*0")
		if m := message(c.pod("p"), corev1.PodInitialized); m != "ContainersNotInitialized containers with incomplete status: [first proxy second]" {
			t.Errorf("initialized: %s", m)
		}
		after(5 * time.Second)
		c.want("p", "Pending first:Completed(0)*0 proxy:running*0 second:running*0 main:PodInitializing*0")
		after(5 * time.Second)
		c.want("p", "Running ready first:Completed(0)*0 proxy:running*0 second:Completed(0)*0 main:running*0")
		after(10 * time.Second)
		c.want("p", "Succeeded first:Completed(0)*0 proxy:Error(143)*0 second:Completed(0)*0 main:Completed(0)*0")
		if m := message(c.pod("p"), corev1.PodReady); m != "PodCompleted " {
			t.Errorf("ready: %s", m)
		}
	})
}

func message(p *corev1.Pod, t corev1.PodConditionType) string {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c.Reason + " " + c.Message
		}
	}
	return "none"
}

func TestInitFailureFailsThePod(t *testing.T) {
	simulated(t, fake.Options{}, nil, func(t *testing.T, c *cluster, r *fake.Runtime) {
		p := pod("p", "run")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.InitContainers = []corev1.Container{container("bad", "exit", "1")}
		c.create(p)
		after(time.Millisecond)
		c.want("p", "Failed bad:Error(1)*0 main:PodInitializing*0")
		q := pod("q", "run")
		q.Spec.InitContainers = []corev1.Container{container("bad", "exit", "1")}
		c.create(q)
		after(11 * time.Second)
		c.want("q", "Pending bad:CrashLoopBackOff*2 main:PodInitializing*0")
	})
}

func TestPullFailures(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	opts := fake.Options{Pull: func(_ context.Context, image string, _ *rt.AuthConfig) error {
		if broken.Load() {
			return errors.New("no such image")
		}
		return nil
	}}
	simulated(t, opts, nil, func(t *testing.T, c *cluster, r *fake.Runtime) {
		c.create(pod("p", "run"))
		c.want("p", "Pending main:ErrImagePull*0")
		after(3 * time.Second)
		c.want("p", "Pending main:ImagePullBackOff*0")
		if m := c.pod("p").Status.ContainerStatuses[0].State.Waiting.Message; m != `Back-off pulling image "registry.invalid/app:1": ErrImagePull: no such image` {
			t.Errorf("message %q", m)
		}
		never := pod("never", "run")
		never.Spec.Containers[0].ImagePullPolicy = corev1.PullNever
		c.create(never)
		c.want("never", "Pending main:ErrImageNeverPull*0")
		odd := pod("odd", "run")
		odd.Spec.Containers[0].Image = "UPPER:1"
		c.create(odd)
		c.want("odd", "Pending main:InvalidImageName*0")
		broken.Store(false)
		after(8 * time.Second)
		c.want("p", "Running ready main:running*0")
		after(3 * time.Second)
		c.want("never", "Running ready main:running*0")
	})
}

func TestMissingConfigMapIsAwaited(t *testing.T) {
	simulated(t, fake.Options{}, nil, func(t *testing.T, c *cluster, r *fake.Runtime) {
		p := pod("p", "run")
		p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cfg"}}}}
		c.create(p)
		c.want("p", "Pending main:CreateContainerConfigError*0")
		if m := c.pod("p").Status.ContainerStatuses[0].State.Waiting.Message; m != `configmap "cfg" not found` {
			t.Errorf("message %q", m)
		}
		if _, err := client.Create(t.Context(), c.client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cfg"}, Data: map[string]string{"A": "b"}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c.want("p", "Running ready main:running*0")
	})
}

func TestDeletion(t *testing.T) {
	var withdrawn atomic.Int32
	change := func(o *Options) {
		o.Withdraw = func(ctx context.Context, p *corev1.Pod) {
			time.Sleep(2 * time.Second)
			withdrawn.Add(1)
		}
	}
	simulated(t, fake.Options{}, change, func(t *testing.T, c *cluster, r *fake.Runtime) {
		c.create(pod("nice", "run"))
		c.create(pod("stubborn", "stubborn"))
		c.create(pod("forced", "stubborn"))
		c.create(pod("gone", "run"))
		c.create(pod("snatched", "run"))
		c.api.snatched = "snatched"
		c.delete("snatched", nil)
		c.delete("nice", nil)
		c.delete("stubborn", nil)
		c.delete("forced", nil)
		zero := int64(0)
		c.delete("gone", &zero)
		after(time.Second)
		c.want("nice", "Running ready main:running*0")
		after(1500 * time.Millisecond)
		c.want("nice", "gone")
		if withdrawn.Load() != 5 {
			t.Errorf("%d of 5 pods were withdrawn before SIGTERM", withdrawn.Load())
		}
		one := int64(1)
		c.delete("forced", &one)
		after(3 * time.Second)
		c.want("forced", "gone")
		after(20 * time.Second)
		c.want("stubborn", "Running ready main:running*0")
		after(10 * time.Second)
		c.want("stubborn", "gone")
		if left, _ := r.ListPodSandbox(t.Context(), nil); len(left) > 0 {
			t.Errorf("sandboxes left: %v", left)
		}
		if !c.events.has("Normal Killing spec.containers{main} Stopping container main") {
			t.Errorf("events %q", c.events.list)
		}
	})
}

func TestProbesAndHooks(t *testing.T) {
	var healthy atomic.Bool
	healthy.Store(true)
	opts := fake.Options{Behave: func(_ *rt.PodSandboxConfig, config *rt.ContainerConfig) fake.Behaviour {
		b := fake.Command(config.Command)
		b.Exec = func(cmd []string) (string, int32, error) {
			switch cmd[0] {
			case "healthy":
				if !healthy.Load() {
					return "sick", 1, nil
				}
			case "slow":
				time.Sleep(3 * time.Second)
			case "fail":
				return "", 1, nil
			}
			return "", 0, nil
		}
		return b
	}}
	exec := func(cmd string) corev1.ProbeHandler {
		return corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{cmd}}}
	}
	simulated(t, opts, nil, func(t *testing.T, c *cluster, r *fake.Runtime) {
		p := pod("p", "run")
		main := &p.Spec.Containers[0]
		main.ReadinessProbe = &corev1.Probe{ProbeHandler: exec("healthy"), InitialDelaySeconds: 5, PeriodSeconds: 2, TimeoutSeconds: 1, FailureThreshold: 2, SuccessThreshold: 1}
		main.LivenessProbe = &corev1.Probe{ProbeHandler: exec("healthy"), PeriodSeconds: 10, TimeoutSeconds: 1, FailureThreshold: 3, SuccessThreshold: 1}
		main.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"slow"}}},
			PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 4}}}
		c.create(p)
		c.want("p", "Pending main:ContainerCreating*0")
		after(3 * time.Second)
		c.want("p", "Running main:running*0")
		if m := message(c.pod("p"), corev1.ContainersReady); m != "ContainersNotReady containers with unready status: [main]" {
			t.Errorf("containers ready: %s", m)
		}
		after(3 * time.Second)
		c.want("p", "Running ready main:running*0")
		healthy.Store(false)
		after(2 * time.Second)
		c.want("p", "Running ready main:running*0")
		after(2 * time.Second)
		c.want("p", "Running main:running*0")
		if !c.events.has("Warning Unhealthy spec.containers{main} Readiness probe failed: sick") {
			t.Errorf("events %q", c.events.list)
		}
		after(29 * time.Second)
		if !c.events.has("Normal Killing spec.containers{main} Container main failed liveness probe, will be restarted") {
			t.Errorf("events %q", c.events.list)
		}
		healthy.Store(true)
		after(15 * time.Second)
		c.want("p", "Running ready main:running*1")
		bad := pod("bad", "run")
		bad.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"fail"}}}}
		c.create(bad)
		after(time.Second)
		c.want("bad", "Running main:CrashLoopBackOff*1")
	})
}

func TestAdoption(t *testing.T) {
	simulated(t, fake.Options{}, nil, func(t *testing.T, c *cluster, r *fake.Runtime) {
		c.create(pod("stay", "run"))
		c.create(pod("crash", "exit-after", "1m", "1"))
		c.create(pod("orphan", "run"))
		done := pod("done", "exit", "0")
		done.Spec.RestartPolicy = corev1.RestartPolicyNever
		c.create(done)
		after(90 * time.Second)
		c.want("crash", "Running ready main:running*1")
		before := c.pod("stay").Status.ContainerStatuses[0].ContainerID
		c.stop()
		foreign, err := r.RunPodSandbox(t.Context(), &rt.PodSandboxConfig{Metadata: &rt.PodSandboxMetadata{Name: "other", Uid: "x"}}, "")
		if err != nil {
			t.Fatal(err)
		}
		zero := int64(0)
		c.delete("orphan", &zero)
		writes := c.api.statuses
		c.start()
		after(time.Second)
		c.want("stay", "Running ready main:running*0")
		c.want("done", "Succeeded main:Completed(0)*0")
		if now := c.pod("stay").Status.ContainerStatuses[0].ContainerID; now != before {
			t.Errorf("container %s was replaced by %s", before, now)
		}
		if n := c.api.statuses - writes; n != 0 {
			t.Errorf("%d statuses were written though nothing changed", n)
		}
		sandboxes, err := r.ListPodSandbox(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range sandboxes {
			names = append(names, s.Metadata.Name)
		}
		slices.Sort(names)
		if strings.Join(names, " ") != "crash done other stay" {
			t.Errorf("sandboxes %v; the orphan must go, what is not ours must stay", names)
		}
		// Back-offs do not outlive the agent, as upstream's do not.
		after(time.Minute)
		c.want("crash", "Running ready main:running*2")
		if err := r.RemovePodSandbox(t.Context(), foreign); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSandboxDies(t *testing.T) {
	simulated(t, fake.Options{}, nil, func(t *testing.T, c *cluster, r *fake.Runtime) {
		p := pod("p", "run")
		p.Spec.InitContainers = []corev1.Container{container("init", "exit", "0")}
		c.create(p)
		after(time.Second)
		c.want("p", "Running ready init:Completed(0)*0 main:running*0")
		ip := c.pod("p").Status.PodIP
		sandboxes, _ := r.ListPodSandbox(t.Context(), nil)
		if err := r.StopPodSandbox(t.Context(), sandboxes[0].Id); err != nil {
			t.Fatal(err)
		}
		after(time.Second)
		c.want("p", "Running ready init:Completed(0)*1 main:running*1")
		if now := c.pod("p").Status.PodIP; now == ip || now == "" {
			t.Errorf("address %s after %s", now, ip)
		}
	})
}

func TestRejection(t *testing.T) {
	simulated(t, fake.Options{}, nil, func(t *testing.T, c *cluster, r *fake.Runtime) {
		big := pod("big", "run")
		big.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5")}
		c.create(big)
		if s := c.pod("big").Status; s.Phase != corev1.PodFailed || s.Reason != "OutOfcpu" ||
			s.Message != "Pod was rejected: Node didn't have enough resource: cpu, requested: 5000, used: 0, capacity: 4000" {
			t.Errorf("%s %s %s", s.Phase, s.Reason, s.Message)
		}
		for _, name := range []string{"one", "two"} {
			p := pod(name, "run")
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080}}
			c.create(p)
		}
		c.want("one", "Running ready main:running*0")
		if s := c.pod("two").Status; s.Phase != corev1.PodFailed || s.Reason != "NodePorts" || len(s.ContainerStatuses) > 0 {
			t.Errorf("%s %s %s %v", s.Phase, s.Reason, s.Message, s.ContainerStatuses)
		}
		wrong := pod("wrong", "run")
		wrong.Spec.NodeSelector = map[string]string{"no": "such"}
		c.create(wrong)
		if s := c.pod("wrong").Status; s.Reason != "NodeAffinity" {
			t.Errorf("%s %s %s", s.Phase, s.Reason, s.Message)
		}
	})
}

func TestDeadline(t *testing.T) {
	simulated(t, fake.Options{}, nil, func(t *testing.T, c *cluster, r *fake.Runtime) {
		p := pod("p", "run")
		limit := int64(10)
		p.Spec.ActiveDeadlineSeconds = &limit
		c.create(p)
		after(9 * time.Second)
		c.want("p", "Running ready main:running*0")
		after(2 * time.Second)
		c.want("p", "Failed main:Error(143)*0")
		if s := c.pod("p").Status; s.Reason != "DeadlineExceeded" || s.Message != "Pod was active on the node longer than the specified deadline" {
			t.Errorf("%s %s", s.Reason, s.Message)
		}
	})
}

func TestImageChangeEphemeralAndResize(t *testing.T) {
	simulated(t, fake.Options{}, nil, func(t *testing.T, c *cluster, r *fake.Runtime) {
		p := pod("p", "run")
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}}
		c.create(p)
		change := func(f func(*corev1.Pod)) {
			t.Helper()
			q := c.pod("p").DeepCopy()
			f(q)
			if _, err := client.Update(t.Context(), c.client, q); err != nil {
				t.Fatal(err)
			}
			after(time.Second)
		}
		change(func(q *corev1.Pod) { q.Spec.Containers[0].Image = "registry.invalid/app:2" })
		c.want("p", "Running ready main:running*1")
		if g := c.pod("p").Status.ObservedGeneration; g != 2 {
			t.Errorf("observed generation %d", g)
		}
		change(func(q *corev1.Pod) {
			q.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon(container("debug", "run"))}}
		})
		c.want("p", "Running ready main:running*1 debug:running*0")
		change(func(q *corev1.Pod) {
			q.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}
		})
		c.want("p", "Running ready main:running*1 debug:running*0")
		got := c.pod("p").Status.ContainerStatuses[0]
		if q := got.Resources.Requests[corev1.ResourceCPU]; q.String() != "500m" {
			t.Errorf("resources %v", got.Resources)
		}
		id := strings.TrimPrefix(got.ContainerID, "fake://")
		if s, err := r.ContainerStatus(t.Context(), id); err != nil || s.Resources.Linux.CpuShares != 512 {
			t.Errorf("runtime has %v, %v", s, err)
		}
		change(func(q *corev1.Pod) {
			q.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50")}
		})
		if m := message(c.pod("p"), corev1.PodResizePending); !strings.HasPrefix(m, "Infeasible Node didn't have enough capacity: cpu, requested: 50000, capacity: 4000") {
			t.Errorf("condition %s", m)
		}
	})
}

func TestNodeAndLease(t *testing.T) {
	simulated(t, fake.Options{}, nil, func(t *testing.T, c *cluster, r *fake.Runtime) {
		n, ok := client.From[*corev1.Node](c.client, c.client.Snapshot(), "", "n1")
		if !ok {
			t.Fatal("no node")
		}
		var got []string
		for _, k := range n.Status.Conditions {
			got = append(got, fmt.Sprintf("%s=%s %s: %s", k.Type, k.Status, k.Reason, k.Message))
		}
		want := []string{"MemoryPressure=False KubeletHasSufficientMemory: kubelet has sufficient memory available",
			"DiskPressure=False KubeletHasNoDiskPressure: kubelet has no disk pressure",
			"PIDPressure=False KubeletHasSufficientPID: kubelet has sufficient PID available", "Ready=True KubeletReady: kubelet is posting ready status"}
		if !slices.Equal(got, want) {
			t.Errorf("conditions %q", got)
		}
		changed := n.DeepCopy()
		changed.Status.Capacity["example.com/dongle"] = resource.MustParse("3")
		if _, err := client.UpdateStatus(t.Context(), c.client, changed); err != nil {
			t.Fatal(err)
		}
		after(6 * time.Minute)
		n, _ = client.From[*corev1.Node](c.client, c.client.Snapshot(), "", "n1")
		if q := n.Status.Allocatable["example.com/dongle"]; q.Value() != 3 {
			t.Errorf("a foreign resource was lost: %v", n.Status.Allocatable)
		}
		l, ok := client.From[*coordinationv1.Lease](c.client, c.client.Snapshot(), "kube-node-lease", "n1")
		if !ok || time.Since(l.Spec.RenewTime.Time) > 10*time.Second || *l.Spec.LeaseDurationSeconds != 40 || *l.Spec.HolderIdentity != "n1" {
			t.Errorf("lease %+v", l)
		}
	})
}
