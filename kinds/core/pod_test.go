package core

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/kebernetes/kebernetes/kinds"
)

func object[T any](t *testing.T, manifest string) *T {
	t.Helper()
	obj := new(T)
	if err := yaml.UnmarshalStrict([]byte(manifest), obj); err != nil {
		t.Fatal(err)
	}
	return obj
}

// The cells that kubectl shows after the name, up to the age.
func TestPodCells(t *testing.T) {
	now := metav1.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct{ name, pod, want string }{
		{"new", `{spec: {containers: [{}]}, status: {phase: Pending}}`, "0/1 Pending 0"},
		{"gated", `{spec: {containers: [{}]}, status: {phase: Pending, conditions: [{type: PodScheduled, reason: SchedulingGated}]}}`, "0/1 SchedulingGated 0"},
		{"evicted", `{spec: {containers: [{}]}, status: {phase: Failed, reason: Evicted}}`, "0/1 Evicted 0"},
		{"running", `{spec: {containers: [{}]}, status: {phase: Running, containerStatuses: [{ready: true, restartCount: 3, state: {running: {}}}]}}`, "1/1 Running 3"},
		{"restarted", `{spec: {containers: [{}]}, status: {phase: Running, containerStatuses: [{ready: true, restartCount: 1, state: {running: {}},
			lastState: {terminated: {finishedAt: "2030-01-01T11:55:00Z"}}}]}}`, "1/1 Running 1 (5m ago)"},
		{"crashing", `{spec: {containers: [{}, {}]}, status: {phase: Running, containerStatuses: [{state: {waiting: {reason: CrashLoopBackOff}}}, {ready: true, state: {running: {}}}]}}`, "1/2 CrashLoopBackOff 0"},
		{"one of two done", `{spec: {containers: [{}, {}]}, status: {phase: Running, conditions: [{type: Ready, status: "True"}],
			containerStatuses: [{state: {terminated: {reason: Completed}}}, {ready: true, state: {running: {}}}]}}`, "1/2 Running 0"},
		{"one of two done, unready", `{spec: {containers: [{}, {}]}, status: {phase: Running,
			containerStatuses: [{state: {terminated: {reason: Completed}}}, {ready: true, state: {running: {}}}]}}`, "1/2 NotReady 0"},
		{"killed", `{spec: {containers: [{}]}, status: {phase: Failed, containerStatuses: [{state: {terminated: {signal: 9}}}]}}`, "0/1 Signal:9 0"},
		{"failed", `{spec: {containers: [{}]}, status: {phase: Failed, containerStatuses: [{state: {terminated: {exitCode: 2}}}]}}`, "0/1 ExitCode:2 0"},
		{"initialising", `{spec: {initContainers: [{name: a}, {name: b}], containers: [{}]}, status: {phase: Pending,
			initContainerStatuses: [{name: a, restartCount: 2, state: {terminated: {}}}, {name: b, state: {running: {}}}]}}`, "0/1 Init:1/2 2"},
		{"init fails", `{spec: {initContainers: [{name: a}], containers: [{}]}, status: {phase: Pending, initContainerStatuses: [{name: a, state: {terminated: {exitCode: 1, reason: Error}}}]}}`, "0/1 Init:Error 0"},
		{"init waits", `{spec: {initContainers: [{name: a}], containers: [{}]}, status: {phase: Pending, initContainerStatuses: [{name: a, state: {waiting: {reason: ImagePullBackOff}}}]}}`, "0/1 Init:ImagePullBackOff 0"},
		{"sidecar", `{spec: {initContainers: [{name: a, restartPolicy: Always}], containers: [{}]}, status: {phase: Running,
			initContainerStatuses: [{name: a, ready: true, started: true, restartCount: 4, state: {running: {}}}], containerStatuses: [{ready: true, state: {running: {}}}]}}`, "2/2 Running 4"},
		{"past init restarts do not count", `{spec: {initContainers: [{name: a}], containers: [{}]}, status: {phase: Running,
			initContainerStatuses: [{name: a, restartCount: 4, state: {terminated: {}}}], containerStatuses: [{ready: true, restartCount: 1, state: {running: {}}}]}}`, "1/1 Running 1"},
		{"going", `{metadata: {deletionTimestamp: "2030-01-01T11:00:00Z"}, spec: {containers: [{}]}, status: {phase: Running}}`, "0/1 Terminating 0"},
		{"going, long done", `{metadata: {deletionTimestamp: "2030-01-01T11:00:00Z"}, spec: {containers: [{}]}, status: {phase: Succeeded}}`, "0/1 Succeeded 0"},
		{"on a lost node", `{metadata: {deletionTimestamp: "2030-01-01T11:00:00Z"}, spec: {containers: [{}]}, status: {phase: Running, reason: NodeLost}}`, "0/1 Unknown 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cells := podCells(object[corev1.Pod](t, c.pod), now)
			got := strings.Join([]string{cells[1].(string), cells[2].(string), cells[3].(string)}, " ")
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestPodWideCells(t *testing.T) {
	pod := object[corev1.Pod](t, `{spec: {nodeName: n1, readinessGates: [{conditionType: a}, {conditionType: b}], containers: [{}]},
		status: {podIPs: [{ip: 192.0.2.1}], nominatedNodeName: m, conditions: [{type: a, status: "True"}]}}`)
	got := podCells(pod, metav1.Now())[5:]
	want := []any{"192.0.2.1", "n1", "m", "1/2"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("cell %d: got %v, want %v", i, got[i], want[i])
		}
	}
	if columns := podColumns(); len(columns) != len(got)+5 {
		t.Errorf("%d columns for %d cells", len(columns), len(got)+5)
	}
}

func TestPodGrace(t *testing.T) {
	for _, c := range []struct {
		name, pod string
		asked     *int64
		want      int64
	}{
		{"not scheduled", `{spec: {terminationGracePeriodSeconds: 30}}`, nil, 0},
		{"as the pod says", `{spec: {nodeName: n1, terminationGracePeriodSeconds: 30}}`, nil, 30},
		{"as the client says", `{spec: {nodeName: n1, terminationGracePeriodSeconds: 30}}`, ptr.To[int64](5), 5},
		{"killed", `{spec: {nodeName: n1, terminationGracePeriodSeconds: 30}}`, ptr.To[int64](0), 0},
		{"negative", `{spec: {nodeName: n1, terminationGracePeriodSeconds: -5}}`, nil, 1},
		{"done", `{spec: {nodeName: n1, terminationGracePeriodSeconds: 30}, status: {phase: Succeeded}}`, nil, 0},
		{"failed", `{spec: {nodeName: n1, terminationGracePeriodSeconds: 30}, status: {phase: Failed}}`, ptr.To[int64](5), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := &metav1.DeleteOptions{GracePeriodSeconds: c.asked}
			if got := podGrace(object[corev1.Pod](t, c.pod), opts); got != c.want || *opts.GracePeriodSeconds != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// change applies one of a kind's preparations to a new and an old object and prints the result.
func change[T any](t *testing.T, prepare func(obj, old kinds.Object), obj, old string) string {
	t.Helper()
	o, before := any(object[T](t, obj)).(kinds.Object), any(object[T](t, old)).(kinds.Object)
	prepare(o, before)
	out, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestPodPrepare(t *testing.T) {
	k := Pod()
	const old = `{metadata: {name: p, resourceVersion: "1", labels: {a: b}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {phase: Running, qosClass: Burstable, observedGeneration: 3, conditions: [{type: Ready, observedGeneration: 2}]}}`
	const update = `{metadata: {name: p, resourceVersion: "2", labels: {a: c}, ownerReferences: [{name: o, kind: K, apiVersion: v1, uid: u}]},
		spec: {nodeName: m, containers: [{name: c, image: j, resources: {requests: {cpu: 1}}}], ephemeralContainers: [{name: e}]}, status: {phase: Failed, conditions: [{type: Ready}]}}`
	for _, c := range []struct {
		name       string
		prepare    func(obj, old kinds.Object)
		has, lacks []string
	}{
		{"the main resource keeps the status", k.PrepareUpdate, []string{"image: j", "phase: Running", "a: c"}, []string{"phase: Failed"}},
		{"status keeps the spec and the owners", k.Subresource("status").PrepareUpdate,
			[]string{"image: i", "phase: Failed", "a: c", "observedGeneration: 3", "observedGeneration: 2", "qosClass: Burstable"}, []string{"ownerReferences", "nodeName: m"}},
		{"ephemeralcontainers keeps all else", k.Subresource("ephemeralcontainers").PrepareUpdate,
			[]string{"image: i", "name: e", "phase: Running", "a: b", `resourceVersion: "2"`}, []string{"cpu"}},
		{"resize keeps all but resources", k.Subresource("resize").PrepareUpdate,
			[]string{"image: i", `cpu: "1"`, "phase: Running", "a: b", `resourceVersion: "2"`}, []string{"name: e"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := change[corev1.Pod](t, c.prepare, update, old)
			for _, s := range c.has {
				if !strings.Contains(got, s) {
					t.Errorf("lacks %q:\n%s", s, got)
				}
			}
			for _, s := range c.lacks {
				if strings.Contains(got, s) {
					t.Errorf("has %q:\n%s", s, got)
				}
			}
		})
	}
}

func TestPodCreate(t *testing.T) {
	pod := object[corev1.Pod](t, `{metadata: {creationTimestamp: "2030-01-01T00:00:00Z", labels: {rev: r1}}, spec: {schedulingGates: [{name: g}], containers: [{name: c, image: i}],
		affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: z, labelSelector: {}, matchLabelKeys: [rev, none], mismatchLabelKeys: [rev]}]}}},
		status: {phase: Running, podIP: 192.0.2.1}}`)
	k := Pod()
	k.Default(pod)
	k.PrepareCreate(pod)
	k.PrepareCreate(pod)
	if pod.Status.Phase != corev1.PodPending || pod.Status.QOSClass != corev1.PodQOSBestEffort || pod.Status.PodIP != "" {
		t.Errorf("status %+v", pod.Status)
	}
	if c := pod.Status.Conditions; len(c) != 1 || c[0].Reason != "SchedulingGated" || !c[0].LastTransitionTime.Equal(&pod.CreationTimestamp) {
		t.Errorf("conditions %+v", c)
	}
	selector := pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector
	if got := metav1.FormatLabelSelector(selector); got != "rev in (r1),rev notin (r1)" {
		t.Errorf("selector %s", got)
	}
}

func TestPodAddresses(t *testing.T) {
	for _, c := range []struct{ status, want string }{
		{`{podIP: 192.0.2.1}`, "192.0.2.1 192.0.2.1"},
		{`{podIPs: [{ip: 192.0.2.1}, {ip: "2001:db8::1"}]}`, "192.0.2.1 192.0.2.1,2001:db8::1"},
		{`{podIP: 192.0.2.9, podIPs: [{ip: 192.0.2.1}, {ip: "2001:db8::1"}]}`, "192.0.2.9 192.0.2.9"},
	} {
		pod := object[corev1.Pod](t, `{status: `+c.status+`}`)
		defaultPod(pod)
		var ips []string
		for _, ip := range pod.Status.PodIPs {
			ips = append(ips, ip.IP)
		}
		if got := pod.Status.PodIP + " " + strings.Join(ips, ","); got != c.want {
			t.Errorf("%s: got %q, want %q", c.status, got, c.want)
		}
	}
}

func TestPodTemplate(t *testing.T) {
	k := PodTemplate()
	old := object[corev1.PodTemplate](t, `{metadata: {name: t}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}, {name: d, image: j}]}}}`)
	k.Default(old)
	if errs := k.Validate(old); len(errs) > 0 {
		t.Error(errs)
	}
	if old.Template.Spec.EnableServiceLinks != nil || old.Template.Spec.DNSPolicy != corev1.DNSClusterFirst {
		t.Errorf("spec %+v", old.Template.Spec)
	}
	if got := fmt.Sprint(k.Cells(old, metav1.Now())); got != "[t c,d i,j a=b]" {
		t.Errorf("cells %s", got)
	}
	changed := old.DeepCopy()
	changed.Labels = map[string]string{"x": "y"}
	if k.SpecChanged(changed, old) {
		t.Error("a label of the object counts as a change of the template")
	}
	changed.Template.Spec.Containers[0].Image = ""
	if !k.SpecChanged(changed, old) {
		t.Error("a change of the template does not count")
	}
	if got := texts(k.ValidateUpdate(changed, old)); got != "template.spec.containers[0].image: Required value" {
		t.Errorf("errors %s", got)
	}
}
