package scheduler

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller/controllertest"
)

// resources reads "cpu=2 memory=4Gi pods=10".
func resources(text string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for _, part := range strings.Fields(text) {
		name, value, _ := strings.Cut(part, "=")
		list[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return list
}

func node(name string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status:     corev1.NodeStatus{Allocatable: resources("cpu=4 memory=8Gi ephemeral-storage=100Gi pods=110")},
	}
	for _, f := range change {
		f(n)
	}
	return n
}

func allocatable(text string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		for name, q := range resources(text) {
			n.Status.Allocatable[name] = q
		}
	}
}

func label(key, value string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[key] = value }
}

func zone(name string) func(*corev1.Node) { return label(corev1.LabelTopologyZone, name) }

func taint(key, value string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: value, Effect: effect})
	}
}

func cordoned(n *corev1.Node) {
	n.Spec.Unschedulable = true
	taint(corev1.TaintNodeUnschedulable, "", corev1.TaintEffectNoSchedule)(n)
}

func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Generation: 1},
		Spec:       corev1.PodSpec{SchedulerName: corev1.DefaultSchedulerName, Containers: []corev1.Container{{Name: "c"}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func requests(text string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = resources(text) }
}

func on(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func port(ip string, number int32, protocol corev1.Protocol) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{HostIP: ip, HostPort: number, Protocol: protocol})
	}
}

func owned(by string) func(*corev1.Pod) {
	yes := true
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{"rs": by}
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: by, UID: types.UID(by), Controller: &yes}}
	}
}

func tolerating(key string, op corev1.TolerationOperator, value string, effect corev1.TaintEffect) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: op, Value: value, Effect: effect})
	}
}

func selects(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{key: value} }
}

func affinity(p *corev1.Pod) *corev1.NodeAffinity {
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
	}
	return p.Spec.Affinity.NodeAffinity
}

func requires(terms ...corev1.NodeSelectorTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		affinity(p).RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: terms}
	}
}

func prefers(weight int32, term corev1.NodeSelectorTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		a := affinity(p)
		a.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PreferredDuringSchedulingIgnoredDuringExecution, corev1.PreferredSchedulingTerm{Weight: weight, Preference: term})
	}
}

func expression(key string, op corev1.NodeSelectorOperator, values ...string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}
}

func field(op corev1.NodeSelectorOperator, values ...string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: op, Values: values}}}
}

// world is a scheduler's view of a cluster, for one decision.
type world struct {
	*Scheduler
	*columns
	api *api
}

func build(nodes []*corev1.Node, running []*corev1.Pod, others ...func(*world)) *world {
	a := newAPI()
	s, err := New(Options{Client: a.Client(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	w := &world{s, s.columns, a}
	for _, name := range []string{"rs", "other"} {
		controllertest.Put(a.API, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"rs": name}}}})
	}
	for _, n := range nodes {
		w.setNode(n)
	}
	for _, add := range others {
		add(w)
	}
	for _, p := range running {
		w.columns.place(s.placedAt(p, p.Spec.NodeName, false))
	}
	return w
}

// has adds an object that is neither node nor pod.
func has[T client.Object](o T) func(*world) {
	return func(w *world) {
		controllertest.Put(w.api.API, o)
		switch o := any(o).(type) {
		case *corev1.Namespace:
			w.setNamespace(o.Name, o.Labels)
		case *storagev1.CSINode:
			w.setLimits(o.Name, limitsOf(o))
		}
	}
}

// schedule places n pods like p. It returns where they went, of those that found no place the reason once, and who has to make way.
func (w *world) schedule(p *corev1.Pod, n int) (nodes []string, why string, victims []string) {
	var run []*entry
	for range n {
		one := p.DeepCopy()
		one.UID = types.UID(fmt.Sprint(p.UID, len(w.placed)+len(run)))
		run = append(run, w.queue.put(one, w.read))
	}
	b := &batch{victims: map[*entry][]*placed{}}
	w.Scheduler.place(b, run, time.Time{})
	for _, found := range b.bound {
		nodes = append(nodes, found.node)
	}
	for _, found := range b.waiting {
		nodes = append(nodes, found.node)
		for _, p := range found.promises {
			if p.volume != nil {
				nodes = append(nodes, p.volume.Name)
			}
		}
	}
	for _, e := range b.refused {
		why = e.refusal.message
		for _, v := range b.victims[e] {
			victims = append(victims, v.pod.Name)
		}
	}
	slices.Sort(victims)
	return nodes, why, victims
}

func priority(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }

func TestPreemption(t *testing.T) {
	since := func(minute int) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			at := metav1.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC)
			p.Status.StartTime = &at
		}
	}
	half, whole := requests("cpu=2"), requests("cpu=4")
	for name, c := range map[string]struct {
		nodes   []*corev1.Node
		running []*corev1.Pod
		pod     *corev1.Pod
		n       int
		want    string
	}{
		"the lowest priority goes": {[]*corev1.Node{node("a"), node("b")},
			[]*corev1.Pod{pod("x", whole, on("a"), priority(5)), pod("y", whole, on("b"), priority(3))}, pod("p", whole, priority(9)), 1, "y"},
		"as few as needed": {[]*corev1.Node{node("a")},
			[]*corev1.Pod{pod("x", half, on("a"), priority(5)), pod("y", half, on("a"), priority(3))}, pod("p", half, priority(9)), 1, "y"},
		"of one priority the youngest": {[]*corev1.Node{node("a")},
			[]*corev1.Pod{pod("x", half, on("a"), since(1)), pod("y", half, on("a"), since(2)), pod("z", requests("cpu=0"), on("a"))}, pod("p", half, priority(9)), 1, "y"},
		"the node where the fewest go": {[]*corev1.Node{node("a"), node("b")},
			[]*corev1.Pod{pod("x", half, on("a")), pod("y", half, on("a")), pod("z", whole, on("b"))}, pod("p", whole, priority(9)), 1, "z"},
		"nobody of the same priority": {[]*corev1.Node{node("a")}, []*corev1.Pod{pod("x", whole, on("a"), priority(9))}, pod("p", whole, priority(9)), 1, ""},
		"nobody in vain":              {[]*corev1.Node{node("a")}, []*corev1.Pod{pod("x", half, on("a"), priority(1)), pod("y", half, on("a"), priority(9))}, pod("p", whole, priority(9)), 1, ""},
		"one for each of several":     {[]*corev1.Node{node("a"), node("b"), node("c")}, []*corev1.Pod{pod("x", whole, on("a")), pod("y", whole, on("b")), pod("z", whole, on("c"), priority(1))}, pod("p", whole, priority(9)), 2, "x y"},
		"two on one node":             {[]*corev1.Node{node("a")}, []*corev1.Pod{pod("x", whole, on("a"))}, pod("p", half, priority(9)), 2, "x"},
		"a host port":                 {[]*corev1.Node{node("a")}, []*corev1.Pod{pod("x", port("", 80, "TCP"), on("a")), pod("y", on("a"))}, pod("p", port("", 80, "TCP"), priority(9)), 1, "x"},
	} {
		t.Run(name, func(t *testing.T) {
			w := build(c.nodes, c.running)
			before := fmt.Sprint(w.used, w.usedScore, w.ports)
			_, why, victims := w.schedule(c.pod, c.n)
			if got := strings.Join(victims, " "); got != c.want {
				t.Errorf("victims %q, want %q (%s)", got, c.want, why)
			}
			if after := fmt.Sprint(w.used, w.usedScore, w.ports); after != before {
				t.Errorf("columns changed from %s to %s", before, after)
			}
		})
	}
}

func TestPreemptionSparesWhatBudgetsProtect(t *testing.T) {
	app := func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} }
	w := build([]*corev1.Node{node("a"), node("b")}, []*corev1.Pod{
		pod("x", requests("cpu=4"), on("a"), app), pod("y", requests("cpu=4"), on("b"), priority(5))})
	p := pod("p", requests("cpu=4"), priority(9))
	for _, c := range []struct {
		allowed int32
		paid    map[string]metav1.Time
		want    string
	}{{0, nil, "y"}, {1, nil, "x"}, {0, map[string]metav1.Time{"x": {}}, "x"}} {
		limits := budgets([]*policyv1.PodDisruptionBudget{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default"},
			Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}},
			Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: c.allowed, DisruptedPods: c.paid},
		}})
		r := w.picker.begin(subject{class: w.classes.of(p), kin: w.kinOf(p)})
		found, _ := w.picker.preempt(r, 9, limits)
		w.picker.end(r)
		if got := found.victims[0].pod.Name; got != c.want {
			t.Errorf("%d allowed: %s goes, want %s", c.allowed, got, c.want)
		}
	}
}

func TestFilters(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	for name, c := range map[string]struct {
		nodes   []*corev1.Node
		running []*corev1.Pod
		pod     *corev1.Pod
		want    string // the node, or the reason
	}{
		"no nodes": {nil, nil, pod("p"), "no nodes available to schedule pods"},
		"fits":     {[]*corev1.Node{node("a")}, nil, pod("p", requests("cpu=4 memory=8Gi")), "a"},
		"cpu is taken": {[]*corev1.Node{node("a")}, []*corev1.Pod{pod("r", requests("cpu=1"), on("a"))}, pod("p", requests("cpu=3500m")),
			"0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		"cpu and memory are never enough": {[]*corev1.Node{node("a")}, nil, pod("p", requests("cpu=5 memory=9Gi")),
			"0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		"never to preempt": {[]*corev1.Node{node("a", allocatable("pods=1"))}, []*corev1.Pod{pod("r", on("a"))},
			pod("p", func(p *corev1.Pod) { never := corev1.PreemptNever; p.Spec.PreemptionPolicy = &never }),
			"0/1 nodes are available: 1 Too many pods. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."},
		"pods are counted":  {[]*corev1.Node{node("a", allocatable("pods=1")), node("b")}, []*corev1.Pod{pod("r", on("a"))}, pod("p"), "b"},
		"extended resource": {[]*corev1.Node{node("a"), node("b", allocatable("example.com/gpu=2"))}, nil, pod("p", requests("example.com/gpu=2")), "b"},
		"extended resource is taken": {[]*corev1.Node{node("a"), node("b", allocatable("example.com/gpu=2"))},
			[]*corev1.Pod{pod("r", requests("example.com/gpu=1"), on("b"))}, pod("p", requests("example.com/gpu=2")),
			"0/2 nodes are available: 2 Insufficient example.com/gpu. no new claims to deallocate, preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."},
		"ephemeral storage": {[]*corev1.Node{node("a", allocatable("ephemeral-storage=1Gi")), node("b")}, nil, pod("p", requests("ephemeral-storage=2Gi")), "b"},
		"init container": {[]*corev1.Node{node("a", allocatable("cpu=1")), node("b")}, nil, pod("p", requests("cpu=500m"), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: resources("cpu=2")}}}
		}), "b"},
		"sidecar": {[]*corev1.Node{node("a", allocatable("cpu=1")), node("b")}, nil, pod("p", requests("cpu=600m"), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{RestartPolicy: &always, Resources: corev1.ResourceRequirements{Requests: resources("cpu=600m")}}}
		}), "b"},
		"overhead": {[]*corev1.Node{node("a", allocatable("cpu=1")), node("b")}, nil, pod("p", requests("cpu=900m"), func(p *corev1.Pod) { p.Spec.Overhead = resources("cpu=200m") }), "b"},
		"pod-level resources": {[]*corev1.Node{node("a", allocatable("cpu=1")), node("b")}, nil, pod("p", requests("cpu=100m"), func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: resources("cpu=2")}
		}), "b"},
		"cordoned": {[]*corev1.Node{node("a", cordoned)}, nil, pod("p"),
			"0/1 nodes are available: 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		"cordoned and tolerated": {[]*corev1.Node{node("a", cordoned)}, nil, pod("p", tolerating(corev1.TaintNodeUnschedulable, corev1.TolerationOpExists, "", "")), "a"},
		"taint": {[]*corev1.Node{node("a", taint("k", "v", corev1.TaintEffectNoSchedule))}, nil, pod("p", tolerating("k", "", "other", "")),
			"0/1 nodes are available: 1 node(s) had untolerated taint(s). no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		"taint tolerated by value":           {[]*corev1.Node{node("a", taint("k", "v", corev1.TaintEffectNoExecute))}, nil, pod("p", tolerating("k", corev1.TolerationOpEqual, "v", corev1.TaintEffectNoExecute)), "a"},
		"taint tolerated for another effect": {[]*corev1.Node{node("a", taint("k", "v", corev1.TaintEffectNoExecute)), node("b")}, nil, pod("p", tolerating("k", corev1.TolerationOpEqual, "v", corev1.TaintEffectNoSchedule)), "b"},
		"all taints tolerated":               {[]*corev1.Node{node("a", taint("k", "v", corev1.TaintEffectNoExecute))}, nil, pod("p", tolerating("", corev1.TolerationOpExists, "", "")), "a"},
		"node selector":                      {[]*corev1.Node{node("a"), node("b", label("disk", "ssd"))}, nil, pod("p", selects("disk", "ssd")), "b"},
		"node selector that nothing matches": {[]*corev1.Node{node("a"), node("b")}, nil, pod("p", selects("disk", "ssd")),
			"0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."},
		"affinity in":         {[]*corev1.Node{node("a"), node("b", label("disk", "ssd"))}, nil, pod("p", requires(expression("disk", corev1.NodeSelectorOpIn, "nvme", "ssd"))), "b"},
		"affinity not in":     {[]*corev1.Node{node("a", label("disk", "ssd")), node("b")}, nil, pod("p", requires(expression("disk", corev1.NodeSelectorOpNotIn, "ssd"))), "b"},
		"affinity greater":    {[]*corev1.Node{node("a", label("gen", "3")), node("b", label("gen", "5"))}, nil, pod("p", requires(expression("gen", corev1.NodeSelectorOpGt, "4"))), "b"},
		"either of two terms": {[]*corev1.Node{node("a"), node("b", label("x", "1"))}, nil, pod("p", requires(expression("y", corev1.NodeSelectorOpExists), expression("x", corev1.NodeSelectorOpExists))), "b"},
		"field":               {[]*corev1.Node{node("a"), node("b"), node("c")}, nil, pod("p", requires(field(corev1.NodeSelectorOpIn, "b"))), "b"},
		"field not in":        {[]*corev1.Node{node("a"), node("b")}, nil, pod("p", requires(field(corev1.NodeSelectorOpNotIn, "a"))), "b"},
		"field or expression": {[]*corev1.Node{node("a"), node("b", label("x", "1"))}, nil, pod("p", requires(field(corev1.NodeSelectorOpIn, "gone"), expression("x", corev1.NodeSelectorOpExists))), "b"},
		"field of a node that is gone": {[]*corev1.Node{node("a")}, nil, pod("p", requires(field(corev1.NodeSelectorOpIn, "gone"))),
			"0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		"host port": {[]*corev1.Node{node("a")}, []*corev1.Pod{pod("r", port("", 80, "TCP"), on("a"))}, pod("p", port("10.0.0.1", 80, "TCP")),
			"0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		"host port on all addresses":  {[]*corev1.Node{node("a"), node("b")}, []*corev1.Pod{pod("r", port("10.0.0.1", 80, "TCP"), on("a"))}, pod("p", port("0.0.0.0", 80, "")), "b"},
		"host port, other address":    {[]*corev1.Node{node("a")}, []*corev1.Pod{pod("r", port("10.0.0.1", 80, "TCP"), on("a"))}, pod("p", port("10.0.0.2", 80, "TCP")), "a"},
		"host port, other protocol":   {[]*corev1.Node{node("a")}, []*corev1.Pod{pod("r", port("", 80, "TCP"), on("a"))}, pod("p", port("", 80, "UDP")), "a"},
		"container port is no matter": {[]*corev1.Node{node("a")}, []*corev1.Pod{pod("r", port("", 0, "TCP"), on("a"))}, pod("p", port("", 0, "TCP")), "a"},
		"reasons are counted and sorted": {[]*corev1.Node{node("a", cordoned), node("b", taint("k", "", corev1.TaintEffectNoSchedule)), node("c", allocatable("cpu=1")), node("d", taint("k", "", corev1.TaintEffectNoSchedule))},
			[]*corev1.Pod{pod("r", requests("cpu=1"), on("c"))}, pod("p", requests("cpu=1")),
			"0/4 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable, 2 node(s) had untolerated taint(s). no new claims to deallocate, preemption: 0/4 nodes are available: 1 No preemption victims found for incoming pod, 3 Preemption is not helpful for scheduling."},
	} {
		t.Run(name, func(t *testing.T) {
			nodes, why, _ := build(c.nodes, c.running).schedule(c.pod, 1)
			if got := strings.Join(nodes, " ") + why; got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestScores(t *testing.T) {
	large := allocatable("cpu=16 memory=32Gi")
	for name, c := range map[string]struct {
		nodes   []*corev1.Node
		running []*corev1.Pod
		pod     *corev1.Pod
		n       int
		want    map[string]int
	}{
		"the emptier node":                {[]*corev1.Node{node("a"), node("b")}, []*corev1.Pod{pod("r", requests("cpu=1 memory=1Gi"), on("a"))}, pod("p", requests("cpu=1 memory=1Gi")), 1, map[string]int{"b": 1}},
		"the larger node":                 {[]*corev1.Node{node("a"), node("b", large)}, nil, pod("p", requests("cpu=1 memory=1Gi")), 1, map[string]int{"b": 1}},
		"pods without requests count too": {[]*corev1.Node{node("a"), node("b")}, []*corev1.Pod{pod("r", on("a"))}, pod("p"), 1, map[string]int{"b": 1}},
		"the node that it balances": {[]*corev1.Node{node("a"), node("b")},
			[]*corev1.Pod{pod("x", requests("cpu=2 memory=2Gi"), on("a")), pod("y", requests("cpu=1 memory=4Gi"), on("b"))}, pod("p", requests("cpu=1 memory=0")), 1, map[string]int{"b": 1}},
		"equal nodes take turns": {[]*corev1.Node{node("a"), node("b"), node("c")}, nil, pod("p", requests("cpu=100m")), 9, map[string]int{"a": 3, "b": 3, "c": 3}},
		"as many as fit":         {[]*corev1.Node{node("a"), node("b", allocatable("cpu=2"))}, nil, pod("p", requests("cpu=1")), 9, map[string]int{"a": 4, "b": 2}},
		"preferred affinity": {[]*corev1.Node{node("a", label("x", "1")), node("b", label("x", "2")), node("c", large)}, nil,
			pod("p", prefers(10, expression("x", corev1.NodeSelectorOpIn, "1")), prefers(90, expression("x", corev1.NodeSelectorOpIn, "2"))), 1, map[string]int{"b": 1}},
		"soft taint": {[]*corev1.Node{node("a", large, taint("k", "", corev1.TaintEffectPreferNoSchedule)), node("b")}, nil, pod("p", requests("cpu=1 memory=1Gi")), 1, map[string]int{"b": 1}},
		"soft taint tolerated": {[]*corev1.Node{node("a", large, taint("k", "", corev1.TaintEffectPreferNoSchedule)), node("b")}, nil,
			pod("p", requests("cpu=1 memory=1Gi"), tolerating("k", corev1.TolerationOpExists, "", "")), 1, map[string]int{"a": 1}},
		"soft taint is better than nothing":  {[]*corev1.Node{node("a", taint("k", "", corev1.TaintEffectPreferNoSchedule))}, nil, pod("p"), 1, map[string]int{"a": 1}},
		"pods of one owner spread":           {[]*corev1.Node{node("a", large), node("b"), node("c")}, nil, pod("p", requests("cpu=100m"), owned("rs")), 6, map[string]int{"a": 2, "b": 2, "c": 2}},
		"pods of one owner go where none is": {[]*corev1.Node{node("a", large), node("b")}, []*corev1.Pod{pod("r", on("a"), owned("rs"))}, pod("p", owned("rs")), 1, map[string]int{"b": 1}},
		"pods of other owners are no matter": {[]*corev1.Node{node("a", large), node("b")}, []*corev1.Pod{pod("r", on("a"), owned("other"))}, pod("p", requests("cpu=1"), owned("rs")), 1, map[string]int{"a": 1}},
		"zones": {[]*corev1.Node{node("a", zone("1")), node("b", large, zone("1")), node("c", zone("2"))}, []*corev1.Pod{pod("r", on("a"), owned("rs"))},
			pod("p", requests("cpu=100m"), owned("rs")), 1, map[string]int{"c": 1}},
		"zones in turn": {[]*corev1.Node{node("a", zone("1")), node("b", large, zone("1")), node("c", zone("2")), node("d", zone("2"))}, nil,
			pod("p", requests("cpu=100m"), owned("rs")), 8, map[string]int{"a": 2, "b": 2, "c": 2, "d": 2}},
	} {
		t.Run(name, func(t *testing.T) {
			w := build(c.nodes, c.running)
			nodes, _, _ := w.schedule(c.pod, c.n)
			got := map[string]int{}
			for _, n := range nodes {
				got[n]++
			}
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func spreads(key string, skew int32, when corev1.UnsatisfiableConstraintAction, change ...func(*corev1.TopologySpreadConstraint)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "x"}
		c := corev1.TopologySpreadConstraint{TopologyKey: key, MaxSkew: skew, WhenUnsatisfiable: when, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}}
		for _, f := range change {
			f(&c)
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
}

func TestSpreadConstraints(t *testing.T) {
	const hard, soft = corev1.DoNotSchedule, corev1.ScheduleAnyway
	const crowd = "node(s) didn't match pod topology spread constraints"
	app := func(p *corev1.Pod) { p.Labels = map[string]string{"app": "x"} }
	large := allocatable("cpu=32 memory=64Gi")
	honor, three := corev1.NodeInclusionPolicyHonor, int32(3)
	zones := []*corev1.Node{node("a", zone("1")), node("b", large, zone("1")), node("c", zone("2"))}
	for name, c := range map[string]struct {
		nodes   []*corev1.Node
		running []*corev1.Pod
		pod     *corev1.Pod
		n       int
		want    string // pods by node, or of the reason what comes before the preemption
	}{
		"over zones":              {zones, nil, pod("p", spreads(corev1.LabelTopologyZone, 1, hard)), 6, "map[b:3 c:3]"},
		"over hosts":              {zones, nil, pod("p", spreads(corev1.LabelHostname, 1, hard)), 6, "map[a:2 b:2 c:2]"},
		"over zones, softly":      {zones, nil, pod("p", spreads(corev1.LabelTopologyZone, 1, soft)), 4, "map[b:2 c:2]"},
		"what runs counts":        {zones, []*corev1.Pod{pod("r", app, on("c")), pod("s", app, on("c"))}, pod("p", spreads(corev1.LabelTopologyZone, 1, hard)), 2, "map[b:2]"},
		"what ends does not":      {zones, []*corev1.Pod{pod("r", app, on("a"), func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} })}, pod("p", requests("cpu=4"), spreads(corev1.LabelTopologyZone, 1, hard)), 2, "map[b:1 c:1]"},
		"other namespaces do not": {zones, []*corev1.Pod{pod("r", app, on("c"), func(p *corev1.Pod) { p.Namespace = "other" })}, pod("p", requests("cpu=4"), spreads(corev1.LabelTopologyZone, 1, hard)), 2, "map[b:1 c:1]"},
		"no room where it must go": {[]*corev1.Node{node("a", zone("1")), node("c", zone("2"), allocatable("cpu=1"))}, []*corev1.Pod{pod("r", app, on("a"))},
			pod("p", requests("cpu=2"), spreads(corev1.LabelTopologyZone, 1, hard)), 1, "0/2 nodes are available: 1 Insufficient cpu, 1 " + crowd + "."},
		"no zone": {[]*corev1.Node{node("a")}, nil, pod("p", spreads(corev1.LabelTopologyZone, 1, hard)), 1, "0/1 nodes are available: 1 " + crowd + " (missing required label)."},
		"too few domains": {zones, []*corev1.Pod{pod("r", app, on("a")), pod("s", app, on("c"))}, pod("p", spreads(corev1.LabelTopologyZone, 1, hard, func(c *corev1.TopologySpreadConstraint) { c.MinDomains = &three })), 1,
			"0/3 nodes are available: 3 " + crowd + "."},
		"nodes out of reach do not count": {[]*corev1.Node{node("a", zone("1"), label("x", "1")), node("c", zone("2"))}, nil, pod("p", selects("x", "1"), spreads(corev1.LabelTopologyZone, 1, hard)), 3, "map[a:3]"},
		"tainted nodes count unless honoured": {[]*corev1.Node{node("a", zone("1")), node("c", zone("2"), taint("k", "", corev1.TaintEffectNoSchedule))}, []*corev1.Pod{pod("r", app, on("a"))},
			pod("p", spreads(corev1.LabelTopologyZone, 1, hard)), 1, "0/2 nodes are available: 1 " + crowd + ", 1 node(s) had untolerated taint(s)."},
		"tainted nodes honoured": {[]*corev1.Node{node("a", zone("1")), node("c", zone("2"), taint("k", "", corev1.TaintEffectNoSchedule))}, []*corev1.Pod{pod("r", app, on("a"))},
			pod("p", spreads(corev1.LabelTopologyZone, 1, hard, func(c *corev1.TopologySpreadConstraint) { c.NodeTaintsPolicy = &honor })), 1, "map[a:1]"},
	} {
		t.Run(name, func(t *testing.T) {
			nodes, why, _ := build(c.nodes, c.running).schedule(c.pod, c.n)
			on := map[string]int{}
			for _, n := range nodes {
				on[n]++
			}
			got, _, _ := strings.Cut(why, " no new claims")
			if why == "" {
				got = fmt.Sprint(on)
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// Columns give the same numbers, whatever the order in which nodes and pods come and go.
func TestColumnsCount(t *testing.T) {
	w := build(nil, nil)
	taken := func() string {
		var out []string
		for name, i := range w.slots {
			out = append(out, fmt.Sprintf("%s cpu=%d pods=%d ports=%d", name, w.used[cpu][i], w.used[pods][i], len(w.ports[i])))
		}
		slices.Sort(out)
		return strings.Join(out, ", ")
	}
	a, b := pod("a", requests("cpu=1"), port("", 80, "TCP"), on("n"), owned("rs")), pod("b", requests("cpu=2"), on("n"), owned("rs"))
	for i, step := range []struct {
		do   func()
		want string
	}{
		{func() { w.columns.place(w.placedAt(a, "n", false)) }, ""},
		{func() { w.setNode(node("n")) }, "n cpu=1000 pods=1 ports=1"},
		{func() { w.columns.place(w.placedAt(b, "n", false)) }, "n cpu=3000 pods=2 ports=1"},
		{func() { w.dropNode("n") }, ""},
		{func() { w.setNode(node("m")) }, "m cpu=0 pods=0 ports=0"},
		{func() { w.remove(a.UID) }, "m cpu=0 pods=0 ports=0"},
		{func() { w.setNode(node("n")) }, "m cpu=0 pods=0 ports=0, n cpu=2000 pods=1 ports=0"},
		{func() { w.remove(b.UID) }, "m cpu=0 pods=0 ports=0, n cpu=0 pods=0 ports=0"},
	} {
		step.do()
		if got := taken(); got != step.want {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
	}
	if len(w.placed)+len(w.byNode) > 0 {
		t.Errorf("left behind: %v %v", w.placed, w.byNode)
	}
	for _, k := range w.kins {
		if len(k.here.on) > 0 {
			t.Errorf("%v is still counted", k.labels)
		}
	}
}

func cluster(n int) *world {
	var nodes []*corev1.Node
	for i := range n {
		nodes = append(nodes, node(fmt.Sprint("node-", i), allocatable("cpu=32 memory=64Gi"), zone(fmt.Sprint(i%3))))
	}
	return build(nodes, nil)
}

// BenchmarkPick places pods on 5,000 nodes: in runs of 256 as they come from a workload, in runs of one, and with each kind of
// rule. Every 20,000 pods the cluster starts anew.
func BenchmarkPick(b *testing.B) {
	const zone, host = corev1.LabelTopologyZone, corev1.LabelHostname
	web := labelled("web")
	for _, kind := range []struct {
		name string
		size int
		like func(i int) func(*corev1.Pod)
	}{
		{"basic", 256, nil},
		{"basic, one by one", 1, nil},
		{"node affinity new each time, one by one", 1, func(i int) func(*corev1.Pod) {
			return requires(expression(zone, corev1.NodeSelectorOpIn, "1", fmt.Sprint("other-", i)))
		}},
		{"default spread", 256, func(int) func(*corev1.Pod) { return owned("rs") }},
		{"default spread, one by one", 1, func(int) func(*corev1.Pod) { return owned("rs") }},
		{"hard spread over zones", 256, func(int) func(*corev1.Pod) { return spreads(zone, 1, corev1.DoNotSchedule) }},
		{"required affinity", 256, func(int) func(*corev1.Pod) { return both(web, beside(0, about("web", zone))) }},
		{"required affinity, one by one", 1, func(int) func(*corev1.Pod) { return both(web, beside(0, about("web", zone))) }},
		{"required anti-affinity", 256, func(i int) func(*corev1.Pod) {
			app := fmt.Sprint("web-", i/1024) // 4 runs each
			return both(labelled(app), awayFrom(0, about(app, host)))
		}},
		{"required anti-affinity, one by one", 1, func(i int) func(*corev1.Pod) {
			app := fmt.Sprint("web-", i/1024)
			return both(labelled(app), awayFrom(0, about(app, host)))
		}},
		{"preferred affinity", 256, func(int) func(*corev1.Pod) { return both(web, beside(5, about("web", host))) }},
		{"preferred anti-affinity", 256, func(int) func(*corev1.Pod) { return both(web, awayFrom(5, about("web", host))) }},
	} {
		b.Run(kind.name, func(b *testing.B) {
			b.ReportAllocs()
			w := cluster(5000)
			for i := 0; i < b.N; i += kind.size {
				p := pod(fmt.Sprint("p", i, "-"), requests("cpu=100m memory=50Mi"))
				if kind.like != nil {
					kind.like(i)(p)
				}
				if got, why, _ := w.schedule(p, min(kind.size, b.N-i)); len(got) == 0 {
					b.Fatal(why)
				}
				if len(w.placed) > 20_000 {
					b.StopTimer()
					w = cluster(5000)
					b.StartTimer()
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}

func both(f, g func(*corev1.Pod)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		f(p)
		g(p)
	}
}

// BenchmarkPickVolumes places pods with a claim each, bound to a volume of one node, on 5,000 nodes.
func BenchmarkPickVolumes(b *testing.B) {
	w := cluster(5000)
	for i := range b.N {
		has(volume(fmt.Sprint("v", i), "1Gi", onlyOn(fmt.Sprint("node-", i%5000)), csi("d")))(w)
		has(claim(fmt.Sprint("c", i), "here", boundTo(fmt.Sprint("v", i))))(w)
	}
	b.ResetTimer()
	for i := range b.N {
		p := pod(fmt.Sprint("p", i, "-"), requests("cpu=100m memory=50Mi"), uses(fmt.Sprint("c", i)))
		if got, why, _ := w.schedule(p, 1); len(got) == 0 {
			b.Fatal(why)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}

// BenchmarkPreempt makes way for pods on 5,000 nodes that four less important pods fill each.
func BenchmarkPreempt(b *testing.B) {
	var full *world
	fill := func() {
		full = cluster(5000)
		for i := range 4 * 5000 {
			p := pod(fmt.Sprint("low", i), requests("cpu=8 memory=8Gi"))
			full.columns.place(full.placedAt(p, fmt.Sprint("node-", i%5000), false))
		}
	}
	fill()
	b.ResetTimer()
	for i := 0; i < b.N; i += 256 {
		p := pod(fmt.Sprint("high", i, "-"), requests("cpu=16 memory=8Gi"), priority(10))
		if _, why, victims := full.schedule(p, min(256, b.N-i)); len(victims) == 0 {
			b.Fatal(why)
		}
		if i > 4000 && i%4096 == 0 {
			b.StopTimer()
			fill()
			b.StartTimer()
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}
