package lifecycle

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const mi = 1 << 20

// storage is a container with a limit and a request of ephemeral storage; "" for none.
func storage(name, limit, request string) corev1.Container {
	c := corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{}, Requests: corev1.ResourceList{}}}
	if limit != "" {
		c.Resources.Limits[corev1.ResourceEphemeralStorage] = resource.MustParse(limit)
	}
	if request != "" {
		c.Resources.Requests[corev1.ResourceEphemeralStorage] = resource.MustParse(request)
	}
	return c
}

func emptyDir(name, limit string, medium corev1.StorageMedium) corev1.Volume {
	source := &corev1.EmptyDirVolumeSource{Medium: medium}
	if limit != "" {
		source.SizeLimit = ptr.To(resource.MustParse(limit))
	}
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: source}}
}

func TestOverLimit(t *testing.T) {
	disk := func(n int64) ContainerUsage { return ContainerUsage{Disk: n} }
	for name, c := range map[string]struct {
		spec  corev1.PodSpec
		usage Usage
		want  string
	}{
		"no limits": {corev1.PodSpec{Containers: []corev1.Container{storage("a", "", "")}, Volumes: []corev1.Volume{emptyDir("v", "", "")}},
			Usage{Containers: map[string]ContainerUsage{"a": disk(100 * mi)}, Volumes: map[string]int64{"v": 100 * mi}}, ""},
		"volume": {corev1.PodSpec{Containers: []corev1.Container{storage("a", "", "")}, Volumes: []corev1.Volume{emptyDir("u", "1Gi", ""), emptyDir("v", "10Mi", "")}},
			Usage{Volumes: map[string]int64{"u": 100 * mi, "v": 10*mi + 1}}, `Usage of EmptyDir volume "v" exceeds the limit "10Mi". `},
		"volume at its limit": {corev1.PodSpec{Volumes: []corev1.Volume{emptyDir("v", "10Mi", "")}}, Usage{Volumes: map[string]int64{"v": 10 * mi}}, ""},
		"volume in memory":    {corev1.PodSpec{Volumes: []corev1.Volume{emptyDir("v", "10Mi", "Memory")}}, Usage{Volumes: map[string]int64{"v": 11 * mi}}, ""},
		"pod": {corev1.PodSpec{Containers: []corev1.Container{storage("a", "10Mi", ""), storage("b", "20Mi", "")}, Volumes: []corev1.Volume{emptyDir("v", "", "")}},
			Usage{Containers: map[string]ContainerUsage{"a": disk(9 * mi), "b": disk(19 * mi)}, Volumes: map[string]int64{"v": 3 * mi}},
			"Pod ephemeral local storage usage exceeds the total limit of containers 30Mi. "},
		"container": {corev1.PodSpec{Containers: []corev1.Container{storage("a", "10Mi", ""), storage("b", "20Mi", "")}},
			Usage{Containers: map[string]ContainerUsage{"a": disk(11 * mi), "b": disk(1 * mi)}}, `Container a exceeded its local ephemeral storage limit "10Mi". `},
		"within": {corev1.PodSpec{Containers: []corev1.Container{storage("a", "10Mi", "")}},
			Usage{Containers: map[string]ContainerUsage{"a": disk(10 * mi)}}, ""},
		"critical": {corev1.PodSpec{Priority: ptr.To[int32](2000001000), Volumes: []corev1.Volume{emptyDir("v", "10Mi", "")}},
			Usage{Volumes: map[string]int64{"v": 11 * mi}}, ""},
	} {
		got := ""
		if v := OverLimit(&corev1.Pod{Spec: c.spec}, &c.usage); v != nil {
			got = v.Message
			if v.Reason != "Evicted" || !v.Evicted {
				t.Errorf("%s: %+v", name, v)
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestDiskLimits(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{emptyDir("m", "1Mi", "Memory"), emptyDir("d", "", "")}, Containers: []corev1.Container{storage("a", "", "1Mi")}}}
	if v, s := DiskLimits(pod); v || s {
		t.Error("a pod without limits is measured")
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, emptyDir("l", "1Mi", ""))
	pod.Spec.Containers = append(pod.Spec.Containers, storage("b", "1Mi", ""))
	if v, s := DiskLimits(pod); !v || !s {
		t.Error("a pod with limits is not measured")
	}
}

// TestRank has the order in which pods go, and what is said of the first.
func TestRank(t *testing.T) {
	candidate := func(name string, priority int32, request string, used int64) Candidate {
		c := corev1.Container{Name: "main", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}
		if request != "" {
			c.Resources.Requests[corev1.ResourceMemory] = resource.MustParse(request)
		}
		return Candidate{&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Priority: &priority, Containers: []corev1.Container{c}}},
			&Usage{Containers: map[string]ContainerUsage{"main": {Memory: used, Disk: 2 * used}}, Volumes: map[string]int64{"v": mi}, Inodes: 100 - used/mi}}
	}
	unknown := Candidate{Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "unknown"}, Spec: corev1.PodSpec{Priority: ptr.To[int32](7)}}}
	pods := []Candidate{
		candidate("within", 0, "100Mi", 90*mi), candidate("critical", systemCritical, "", 99*mi), candidate("important", 10, "10Mi", 90*mi),
		candidate("little", 0, "10Mi", 20*mi), candidate("much", 0, "10Mi", 50*mi), unknown,
	}
	order := func(short corev1.ResourceName) string {
		var names []string
		for _, c := range Rank(pods, short) {
			names = append(names, c.Pod.Name)
		}
		return strings.Join(names, " ")
	}
	for short, want := range map[corev1.ResourceName]string{
		corev1.ResourceMemory:           "unknown much little important within",
		corev1.ResourceEphemeralStorage: "unknown within much little important",
		ResourceInodes:                  "unknown little much within important",
	} {
		if got := order(short); got != want {
			t.Errorf("%s: %s, want %s", short, got, want)
		}
	}
	v := NodeLow(pods[4], corev1.ResourceMemory, resource.MustParse("100Mi"), resource.MustParse("52Mi"))
	if want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52Mi. Container main was using 50Mi, request is 10Mi, has larger consumption of memory. "; v.Message != want {
		t.Errorf("message %q", v.Message)
	}
	if v := NodeLow(pods[0], corev1.ResourceMemory, resource.MustParse("100Mi"), resource.MustParse("52Mi")); strings.Contains(v.Message, "Container") {
		t.Errorf("a container within its request is blamed: %q", v.Message)
	}
}

func TestAdmitUnder(t *testing.T) {
	effort := &corev1.Pod{Status: corev1.PodStatus{QOSClass: corev1.PodQOSBestEffort}}
	burstable := &corev1.Pod{Status: corev1.PodStatus{QOSClass: corev1.PodQOSBurstable}}
	tolerant := &corev1.Pod{Status: corev1.PodStatus{QOSClass: corev1.PodQOSBestEffort},
		Spec: corev1.PodSpec{Tolerations: []corev1.Toleration{{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists}}}}
	crit := &corev1.Pod{Spec: corev1.PodSpec{Priority: ptr.To[int32](systemCritical)}, Status: corev1.PodStatus{QOSClass: corev1.PodQOSBestEffort}}
	memory, disk := []corev1.NodeConditionType{corev1.NodeMemoryPressure}, []corev1.NodeConditionType{corev1.NodeDiskPressure}
	for name, c := range map[string]struct {
		pod      *corev1.Pod
		pressure []corev1.NodeConditionType
		taken    bool
	}{
		"none": {effort, nil, true}, "memory, best effort": {effort, memory, false}, "memory, burstable": {burstable, memory, true},
		"memory, tolerant": {tolerant, memory, true}, "disk, burstable": {burstable, disk, false}, "disk, critical": {crit, disk, true},
	} {
		v := AdmitUnder(c.pod, c.pressure)
		if (v == nil) != c.taken {
			t.Errorf("%s: %+v", name, v)
		}
		if v != nil && (v.Reason != "Evicted" || v.Evicted) {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if v := AdmitUnder(burstable, disk); v.Message != "Pod was rejected: The node had condition: [DiskPressure]. " {
		t.Errorf("%q", v.Message)
	}
}

// TestEvictedEnds: an evicted pod gets a second, fails with the reason, and carries the condition of a disruption.
func TestEvictedEnds(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}, TerminationGracePeriodSeconds: ptr.To[int64](30)},
		Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	s := NewState()
	s.StartTime = now
	s.Sandboxes = []Sandbox{{ID: "s", Ready: true}}
	s.Containers["main"] = []*Container{{ID: "c", Name: "main", Sandbox: "s", Phase: Running, CreatedAt: now, StartedAt: now}}
	s.Verdict = evicted("too much")
	plan := Next(pod, s, now)
	if plan.Kill == nil || plan.Kill.Grace != 1 || len(plan.Actions) != 1 || plan.Actions[0].Verb != StopContainer || plan.Actions[0].Message != "" {
		t.Fatalf("%+v", plan)
	}
	s.Kill = plan.Kill
	s.Containers["main"][0].Phase, s.Containers["main"][0].ExitCode = Exited, 137
	status := Status(pod, s, Host{}, now)
	if status.Phase != corev1.PodFailed || status.Reason != "Evicted" || status.Message != "too much" {
		t.Errorf("%s %s %q", status.Phase, status.Reason, status.Message)
	}
	c := have(status.Conditions, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason != corev1.PodReasonTerminationByKubelet || c.Message != "too much" {
		t.Errorf("condition %+v", c)
	}
}
