package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
	. "github.com/kebernetes/kebernetes/controller/controllertest"
	"github.com/kebernetes/kebernetes/kinds"
)

func newAPI() *API { return New(rows()...) }

func rows() []*kinds.Kind {
	return []*kinds.Kind{
		Row[corev1.Namespace, corev1.NamespaceList]("", "v1", "namespaces", false),
		Row[corev1.Node, corev1.NodeList]("", "v1", "nodes", false),
		Row[corev1.Pod, corev1.PodList]("", "v1", "pods", true),
		Row[corev1.ConfigMap, corev1.ConfigMapList]("", "v1", "configmaps", true),
		Row[corev1.ServiceAccount, corev1.ServiceAccountList]("", "v1", "serviceaccounts", true),
		Row[corev1.Event, corev1.EventList]("", "v1", "events", true),
		Row[coordinationv1.Lease, coordinationv1.LeaseList]("coordination.k8s.io", "v1", "leases", true),
		Row[appsv1.ReplicaSet, appsv1.ReplicaSetList]("apps", "v1", "replicasets", true),
		Row[rbacv1.ClusterRole, rbacv1.ClusterRoleList]("rbac.authorization.k8s.io", "v1", "clusterroles", false),
	}
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: meta("", name), Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}}}
}

func get[T client.Object](api *API, ns, name string) (T, bool) {
	return client.From[T](api.Client(), api.Snapshot(), ns, name)
}

func TestNamespaceHasWhatItNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, ServiceAccounts(api.Env(t)), RootCA(api.Env(t), []byte("PEM")))
		Put(api, namespace("a"))
		synctest.Wait()
		check := func(when string) {
			t.Helper()
			synctest.Wait()
			_, account := get[*corev1.ServiceAccount](api, "a", "default")
			ca, _ := get[*corev1.ConfigMap](api, "a", "kube-root-ca.crt")
			if !account || ca == nil || ca.Data["ca.crt"] != "PEM" || ca.Annotations["kubernetes.io/description"] == "" {
				t.Errorf("%s: service account %t, root CA %v", when, account, ca)
			}
		}
		check("new namespace")
		Drop[*corev1.ServiceAccount](api, "a", "default")
		Change(api, "a", "kube-root-ca.crt", func(cm *corev1.ConfigMap) { cm.Data["ca.crt"] = "forged" })
		check("after a deletion and a forgery")
		Drop[*corev1.ConfigMap](api, "a", "kube-root-ca.crt")
		check("after the ConfigMap's deletion")
	})
}

func TestNamespaceGoesPodsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, Namespaces(api.Env(t)))
		Put(api, namespace("a"))
		pod := &corev1.Pod{ObjectMeta: meta("a", "p"), Spec: corev1.PodSpec{NodeName: "n"}}
		Put(api, pod)
		held := &corev1.ConfigMap{ObjectMeta: meta("a", "held")}
		held.Finalizers = []string{"example.com/hold"}
		Put(api, held)
		Put(api, &corev1.ConfigMap{ObjectMeta: meta("a", "free")})
		Put(api, &corev1.ConfigMap{ObjectMeta: meta("b", "elsewhere")})
		if err := client.Remove[*corev1.Namespace](t.Context(), api.Client(), "", "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		condition := func(ct corev1.NamespaceConditionType) string {
			ns, _ := get[*corev1.Namespace](api, "", "a")
			for _, c := range ns.Status.Conditions {
				if c.Type == ct {
					return string(c.Status) + " " + c.Reason + ": " + c.Message
				}
			}
			return "none"
		}
		if got := condition(corev1.NamespaceContentRemaining); got != "True SomeResourcesRemain: Some resources are remaining: configmaps. has 2 resource instances, pods. has 1 resource instances" {
			t.Errorf("while a pod ends: %s", got)
		}
		if p, _ := get[*corev1.Pod](api, "a", "p"); p.DeletionTimestamp == nil {
			t.Error("the pod is not being deleted")
		}
		Drop[*corev1.Pod](api, "a", "p")
		synctest.Wait()
		if got := condition(corev1.NamespaceFinalizersRemaining); got != "True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances" {
			t.Errorf("while a finalizer holds: %s", got)
		}
		if got := condition(corev1.NamespaceDeletionContentFailure); got != "False ContentDeleted: All content successfully deleted, may be waiting on finalization" {
			t.Errorf("content failure: %s", got)
		}
		Drop[*corev1.ConfigMap](api, "a", "held")
		synctest.Wait()
		if _, there := get[*corev1.Namespace](api, "", "a"); there {
			t.Error("the namespace is still there")
		}
		if n := len(All[*corev1.ConfigMap](api)); n != 1 {
			t.Errorf("%d ConfigMaps, want the one of the other namespace", n)
		}
	})
}

func TestClusterRoleAggregates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, ClusterRoles(api.Env(t)))
		rule := func(resource string) rbacv1.PolicyRule {
			return rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{resource}, Verbs: []string{"get"}}
		}
		sum := &rbacv1.ClusterRole{ObjectMeta: meta("", "sum"), AggregationRule: &rbacv1.AggregationRule{
			ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"part": "yes"}}}}}
		Put(api, sum)
		for _, name := range []string{"b", "a"} {
			part := &rbacv1.ClusterRole{ObjectMeta: meta("", name), Rules: []rbacv1.PolicyRule{rule(name), rule("shared")}}
			part.Labels = map[string]string{"part": "yes"}
			Put(api, part)
		}
		synctest.Wait()
		resources := func() (out []string) {
			role, _ := get[*rbacv1.ClusterRole](api, "", "sum")
			for _, r := range role.Rules {
				out = append(out, r.Resources...)
			}
			return out
		}
		if got := resources(); !slices.Equal(got, []string{"a", "shared", "b"}) {
			t.Errorf("rules for %v", got)
		}
		Drop[*rbacv1.ClusterRole](api, "", "a")
		synctest.Wait()
		if got := resources(); !slices.Equal(got, []string{"b", "shared"}) {
			t.Errorf("rules after one part went: %v", got)
		}
	})
}

func TestEventsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Put(api, &corev1.Event{ObjectMeta: meta("a", "old")})
		Start(t, EventExpiry(api.Env(t)))
		time.Sleep(30 * time.Minute)
		Put(api, &corev1.Event{ObjectMeta: meta("a", "new")})
		Change(api, "a", "new", func(e *corev1.Event) { e.LastTimestamp = metav1.Now() })
		time.Sleep(31 * time.Minute)
		synctest.Wait()
		if got := All[*corev1.Event](api); len(got) != 1 || got[0].Name != "new" {
			t.Errorf("events after an hour: %v", got)
		}
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if got := All[*corev1.Event](api); len(got) != 0 {
			t.Errorf("events after another half: %v", got)
		}
	})
}

// life keeps nodes alive by renewing their leases until it is told otherwise.
type life struct {
	api  *API
	dead map[string]bool
}

func (l *life) run(d time.Duration) {
	for range int(d / (10 * time.Second)) {
		for _, n := range All[*corev1.Node](l.api) {
			if !l.dead[n.Name] {
				lease := &coordinationv1.Lease{ObjectMeta: meta(corev1.NamespaceNodeLease, n.Name)}
				lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
				Put(l.api, lease)
			}
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
	}
}

func readyNode(name string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: meta("", name)}
	for _, t := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse})
	}
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"})
	return n
}

func taints(n *corev1.Node) string {
	var out []string
	for _, t := range n.Spec.Taints {
		out = append(out, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	return strings.Join(out, " ")
}

func readyPod(name, node string, seconds *int64) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: meta("a", name), Spec: corev1.PodSpec{NodeName: node}}
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds})
	}
	return p
}

func TestDeadNodeLosesItsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		l := &life{api: api, dead: map[string]bool{}}
		for _, name := range []string{"one", "two"} {
			Put(api, readyNode(name))
		}
		Put(api, readyPod("moves", "one", ptr.To[int64](300)))
		Put(api, readyPod("stays", "one", nil))
		Put(api, readyPod("elsewhere", "two", ptr.To[int64](300)))
		Start(t, Nodes(api.Env(t)), TaintEviction(api.Env(t)))
		l.run(10 * time.Minute)
		api.Writes()
		l.run(10 * time.Minute)
		if w := api.Writes(); len(w) > 0 {
			t.Errorf("writes while all is well: %q", w)
		}
		l.dead["one"] = true
		l.run(20 * time.Second)
		if n, _ := get[*corev1.Node](api, "", "one"); nodeReady(n) != corev1.ConditionTrue {
			t.Errorf("after 30 s without a sign of life the node is %s", nodeReady(n))
		}
		l.run(30 * time.Second)
		n, _ := get[*corev1.Node](api, "", "one")
		c := nodeCondition(n.Status.Conditions, corev1.NodeReady)
		if c.Status != corev1.ConditionUnknown || c.Reason != "NodeStatusUnknown" || c.Message != "Kubelet stopped posting node status." {
			t.Errorf("condition %+v", c)
		}
		if got := taints(n); got != "unreachable:NoSchedule unreachable:NoExecute" {
			t.Errorf("taints %s", got)
		}
		for _, p := range All[*corev1.Pod](api) {
			if controller.PodReady(p) != (p.Spec.NodeName == "two") {
				t.Errorf("pod %s ready: %t", p.Name, controller.PodReady(p))
			}
		}
		l.run(4 * time.Minute)
		if p, _ := get[*corev1.Pod](api, "a", "moves"); p.DeletionTimestamp != nil {
			t.Error("evicted before its toleration ended")
		}
		l.run(2 * time.Minute)
		p, _ := get[*corev1.Pod](api, "a", "moves")
		if d := controller.PodCondition(p, corev1.DisruptionTarget); p.DeletionTimestamp == nil || d == nil || d.Reason != "DeletionByTaintManager" {
			t.Errorf("not evicted: %+v", p.Status.Conditions)
		}
		if p, _ := get[*corev1.Pod](api, "a", "stays"); p.DeletionTimestamp != nil {
			t.Error("evicted although it tolerates for ever")
		}
		// The node comes back.
		delete(l.dead, "one")
		Change(api, "", "one", func(n *corev1.Node) {
			c := nodeCondition(n.Status.Conditions, corev1.NodeReady)
			c.Status, c.LastHeartbeatTime = corev1.ConditionTrue, metav1.Now()
		})
		l.run(time.Minute)
		if n, _ := get[*corev1.Node](api, "", "one"); taints(n) != "" {
			t.Errorf("taints after its return: %s", taints(n))
		}
	})
}

func TestNoEvictionWhenAllNodesAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		l := &life{api: api, dead: map[string]bool{}}
		Put(api, readyNode("one"))
		Put(api, readyNode("two"))
		Start(t, Nodes(api.Env(t)))
		l.run(time.Minute)
		l.dead["one"], l.dead["two"] = true, true
		l.run(5 * time.Minute)
		for _, n := range All[*corev1.Node](api) {
			if taints(n) != "unreachable:NoSchedule" {
				t.Errorf("%s: taints %s", n.Name, taints(n))
			}
		}
	})
}

func TestPlanTaints(t *testing.T) {
	now := time.Unix(100, 0)
	node := readyNode("n")
	foreign := corev1.Taint{Key: "mine", Effect: corev1.TaintEffectNoExecute}
	node.Spec.Taints = []corev1.Taint{foreign, {Key: corev1.TaintNodeDiskPressure, Effect: corev1.TaintEffectNoSchedule}}
	nodeCondition(node.Status.Conditions, corev1.NodeReady).Status = corev1.ConditionFalse
	nodeCondition(node.Status.Conditions, corev1.NodeMemoryPressure).Status = corev1.ConditionTrue
	node.Spec.Unschedulable = true
	node.Spec.Taints = planTaints(node, true, now)
	if got := taints(node); got != "mine:NoExecute not-ready:NoSchedule not-ready:NoExecute memory-pressure:NoSchedule unschedulable:NoSchedule" {
		t.Errorf("taints %s", got)
	}
	if again := planTaints(node, true, now.Add(time.Hour)); !slices.Equal(again, node.Spec.Taints) {
		t.Errorf("taints change again: %v", again)
	}
}

func TestEvictionRate(t *testing.T) {
	for _, c := range []struct {
		ready, troubled int
		want            string
	}{
		{1, 1, "0.1 false"}, {0, 3, "0 true"}, {2, 3, "0 false"}, {30, 40, "0.01 false"}, {9, 3, "0.1 false"},
	} {
		var all []*corev1.Node
		for i := range c.ready + c.troubled {
			n := readyNode(fmt.Sprint(i))
			if i >= c.ready {
				nodeCondition(n.Status.Conditions, corev1.NodeReady).Status = corev1.ConditionUnknown
			}
			all = append(all, n)
		}
		limit, disrupted := evictionRate(all[len(all)-1], all)
		if got := fmt.Sprint(limit, disrupted); got != c.want {
			t.Errorf("%d ready, %d in trouble: %s, want %s", c.ready, c.troubled, got, c.want)
		}
	}
}

func TestPodsNobodyEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Put(api, readyNode("one"))
		Put(api, readyPod("kept", "one", nil))
		Put(api, readyPod("orphan", "gone", nil))
		unbound := readyPod("unbound", "", nil)
		unbound.DeletionTimestamp = ptr.To(metav1.Now())
		Put(api, unbound)
		Start(t, PodGC(api.Env(t)))
		synctest.Wait()
		if n := len(All[*corev1.Pod](api)); n != 2 {
			t.Errorf("%d pods, want the unbound one to go at once", n)
		}
		time.Sleep(39 * time.Second)
		Drop[*corev1.Node](api, "", "one")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, there := get[*corev1.Pod](api, "a", "orphan"); there {
			t.Error("the orphan is there after 40 s")
		}
		Put(api, readyNode("one")) // registers again in time
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, there := get[*corev1.Pod](api, "a", "kept"); !there {
			t.Error("the pod of a node that registered again is gone")
		}
	})
}

func TestNodeRanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		taken := readyNode("taken")
		taken.Spec.PodCIDR, taken.Spec.PodCIDRs = "10.42.0.0/24", []string{"10.42.0.0/24", "fd00:0:0:1::/64"}
		Put(api, taken)
		Start(t, NodeIPAM(api.Env(t), []netip.Prefix{netip.MustParsePrefix("10.42.0.0/22"), netip.MustParsePrefix("fd00::/56")}))
		for i := range 4 {
			Put(api, readyNode(fmt.Sprint(i)))
		}
		synctest.Wait()
		var got []string
		for _, n := range All[*corev1.Node](api) {
			got = append(got, strings.Join(n.Spec.PodCIDRs, ","))
			if len(n.Spec.PodCIDRs) > 0 && n.Spec.PodCIDR != n.Spec.PodCIDRs[0] {
				t.Errorf("podCIDR %s of %v", n.Spec.PodCIDR, n.Spec.PodCIDRs)
			}
		}
		slices.Sort(got)
		if want := []string{"", "10.42.0.0/24,fd00:0:0:1::/64", "10.42.1.0/24,fd00::/64", "10.42.2.0/24,fd00:0:0:2::/64", "10.42.3.0/24,fd00:0:0:3::/64"}; !slices.Equal(got, want) {
			t.Errorf("ranges %q, want %q", got, want)
		}
		Drop[*corev1.Node](api, "", "taken")
		synctest.Wait()
		for _, n := range All[*corev1.Node](api) {
			if n.Spec.PodCIDR == "" {
				t.Errorf("node %s waits although a range came back", n.Name)
			}
		}
	})
}

// ref makes an owner reference to a pod, or to another kind "kind/name".
func ref(api *API, owner string, block bool) metav1.OwnerReference {
	out := metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: owner, UID: types.UID("gone-" + owner), BlockOwnerDeletion: ptr.To(block)}
	if p, ok := get[*corev1.Pod](api, "a", owner); ok {
		out.UID = p.UID
	}
	return out
}

func put(api *API, name string, refs ...metav1.OwnerReference) {
	p := &corev1.Pod{ObjectMeta: meta("a", name)}
	p.OwnerReferences = refs
	Put(api, p)
}

func podNames(api *API) string {
	var out []string
	for _, p := range All[*corev1.Pod](api) {
		name := p.Name
		if p.DeletionTimestamp != nil {
			name += "(deleting)"
		}
		for _, r := range p.OwnerReferences {
			name += "<" + r.Name
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

func TestGarbageCollector(t *testing.T) {
	remove := func(api *API, name string, policy metav1.DeletionPropagation) {
		if err := client.Remove[*corev1.Pod](context.Background(), api.Client(), "a", name, metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
			panic(err)
		}
		synctest.Wait()
	}
	for _, c := range []struct {
		name string
		do   func(api *API)
		want string
	}{
		{"background takes the whole tree", func(api *API) {
			put(api, "root")
			put(api, "mid", ref(api, "root", true))
			put(api, "leaf", ref(api, "mid", true))
			remove(api, "root", metav1.DeletePropagationBackground)
		}, ""},
		{"foreground takes it from the leaves", func(api *API) {
			put(api, "root")
			put(api, "mid", ref(api, "root", true))
			put(api, "leaf", ref(api, "mid", true))
			remove(api, "root", metav1.DeletePropagationForeground)
		}, ""},
		{"foreground waits for what blocks", func(api *API) {
			put(api, "root")
			put(api, "held", ref(api, "root", true))
			Change(api, "a", "held", func(p *corev1.Pod) { p.Finalizers = []string{"example.com/hold"} })
			put(api, "free", ref(api, "root", false))
			remove(api, "root", metav1.DeletePropagationForeground)
		}, "held(deleting)<root root(deleting)"},
		{"foreground does not wait for what does not block", func(api *API) {
			put(api, "root")
			put(api, "held", ref(api, "root", false))
			Change(api, "a", "held", func(p *corev1.Pod) { p.Finalizers = []string{"example.com/hold"} })
			remove(api, "root", metav1.DeletePropagationForeground)
		}, "held(deleting)<root"},
		{"orphan lets them live", func(api *API) {
			put(api, "root")
			put(api, "one", ref(api, "root", true))
			put(api, "two", ref(api, "root", true), ref(api, "one", true))
			remove(api, "root", metav1.DeletePropagationOrphan)
		}, "one two<one"},
		{"one owner of two is enough", func(api *API) {
			put(api, "root")
			put(api, "other")
			put(api, "child", ref(api, "root", true), ref(api, "other", true))
			remove(api, "root", metav1.DeletePropagationBackground)
		}, "child<other other"},
		{"an owner that never was", func(api *API) { put(api, "child", ref(api, "nobody", true)) }, ""},
		{"an owner of that name with another UID", func(api *API) {
			put(api, "nobody")
			r := ref(api, "nobody", true)
			r.UID = "another"
			put(api, "child", r)
		}, "nobody"},
		{"an unknown kind holds", func(api *API) {
			put(api, "child", metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Thing", Name: "x", UID: "u"})
		}, "child<x"},
		{"a circle", func(api *API) {
			put(api, "one")
			put(api, "two", ref(api, "one", true))
			put(api, "three", ref(api, "two", true))
			Change(api, "a", "one", func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{ref(api, "three", true)} })
			remove(api, "one", metav1.DeletePropagationForeground)
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newAPI()
				Start(t, GarbageCollector(api.Env(t)))
				synctest.Wait()
				c.do(api)
				time.Sleep(time.Second)
				synctest.Wait()
				if got := podNames(api); got != c.want {
					t.Errorf("left: %q, want %q", got, c.want)
				}
			})
		})
	}
}

func TestClusterScopedObjectWithNamespacedOwnerStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, GarbageCollector(api.Env(t)))
		node := readyNode("n")
		node.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "u"}}
		Put(api, node)
		time.Sleep(time.Second)
		synctest.Wait()
		events := All[*corev1.Event](api)
		if len(All[*corev1.Node](api)) != 1 || len(events) != 1 || events[0].Reason != "OwnerRefInvalidNamespace" {
			t.Errorf("%d nodes, events %v", len(All[*corev1.Node](api)), events)
		}
	})
}
