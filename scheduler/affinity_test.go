package scheduler

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func labelled(app string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{"app": app} }
}

func in(namespace string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Namespace = namespace }
}

func about(app, key string, change ...func(*corev1.PodAffinityTerm)) corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, TopologyKey: key}
	for _, f := range change {
		f(&t)
	}
	return t
}

// beside and awayFrom are required affinity and anti-affinity; with a weight they are preferred.
func beside(weight int32, t corev1.PodAffinityTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		a := &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{t}}
		if weight > 0 {
			a = &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: weight, PodAffinityTerm: t}}}
		}
		affinity(p)
		p.Spec.Affinity.PodAffinity = a
	}
}

func awayFrom(weight int32, t corev1.PodAffinityTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		a := &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{t}}
		if weight > 0 {
			a = &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: weight, PodAffinityTerm: t}}}
		}
		affinity(p)
		p.Spec.Affinity.PodAntiAffinity = a
	}
}

// The property test compares all of this with the plain rules; here they are told by example.
func TestAffinityBetweenPods(t *testing.T) {
	const host, z = corev1.LabelHostname, corev1.LabelTopologyZone
	nodes := []*corev1.Node{node("a", zone("1")), node("b", zone("2")), node("c", zone("2")), node("d")}
	namespaces := func(names ...string) func(*corev1.PodAffinityTerm) {
		return func(t *corev1.PodAffinityTerm) { t.Namespaces = names }
	}
	team := func(t *corev1.PodAffinityTerm) {
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "x"}}
	}
	db := func(change ...func(*corev1.Pod)) *corev1.Pod {
		return pod("db", append([]func(*corev1.Pod){labelled("db"), on("b"), requests("cpu=3")}, change...)...)
	}
	for name, c := range map[string]struct {
		running []*corev1.Pod
		pod     *corev1.Pod
		n       int
		want    string // pods by node, or of the reason what comes before the preemption
	}{
		"together on a host": {[]*corev1.Pod{db()}, pod("p", beside(0, about("db", host))), 1, "map[b:1]"},
		"together in a zone": {[]*corev1.Pod{db()}, pod("p", requests("cpu=2"), beside(0, about("db", z))), 2, "map[c:2]"},
		"together with nobody": {nil, pod("p", beside(0, about("db", host))), 1,
			"0/4 nodes are available: 4 node(s) didn't match pod affinity rules."},
		"the first of a group":        {nil, pod("p", labelled("db"), requests("cpu=1"), beside(0, about("db", z))), 5, "map[a:4]: 0/4 nodes are available: 1 Insufficient cpu, 3 node(s) didn't match pod affinity rules."},
		"not in another namespace":    {[]*corev1.Pod{db(in("two"))}, pod("p", beside(0, about("db", host))), 1, "0/4 nodes are available: 4 node(s) didn't match pod affinity rules."},
		"in a named namespace":        {[]*corev1.Pod{db(in("two"))}, pod("p", beside(0, about("db", host, namespaces("two")))), 1, "map[b:1]"},
		"in a selected namespace":     {[]*corev1.Pod{db(in("two"))}, pod("p", beside(0, about("db", host, team))), 1, "map[b:1]"},
		"in no selected namespace":    {[]*corev1.Pod{db(in("three"))}, pod("p", beside(0, about("db", host, team))), 1, "0/4 nodes are available: 4 node(s) didn't match pod affinity rules."},
		"apart on hosts":              {[]*corev1.Pod{db()}, pod("p", labelled("db"), awayFrom(0, about("db", host))), 4, "map[a:1 c:1 d:1]: 0/4 nodes are available: 4 node(s) didn't match pod anti-affinity rules."},
		"apart in zones":              {[]*corev1.Pod{db()}, pod("p", requests("cpu=4"), awayFrom(0, about("db", z))), 2, "map[a:1 d:1]"},
		"others keep away":            {[]*corev1.Pod{pod("r", on("b"), awayFrom(0, about("web", z)))}, pod("p", labelled("web"), requests("cpu=4")), 3, "map[a:1 d:1]: 0/4 nodes are available: 2 Insufficient cpu, 2 node(s) didn't satisfy existing pods anti-affinity rules."},
		"preferably together":         {[]*corev1.Pod{db()}, pod("p", beside(1, about("db", host))), 1, "map[b:1]"},
		"preferably apart":            {[]*corev1.Pod{db(requests("cpu=0"))}, pod("p", labelled("db"), requests("cpu=100m"), awayFrom(1, about("db", host))), 3, "map[a:1 c:1 d:1]"},
		"others would rather have it": {[]*corev1.Pod{pod("r", on("c"), requests("cpu=3"), beside(5, about("web", host)))}, pod("p", labelled("web")), 1, "map[c:1]"},
		"others need it":              {[]*corev1.Pod{pod("r", on("c"), requests("cpu=3"), beside(0, about("web", host)))}, pod("p", labelled("web")), 1, "map[c:1]"},
	} {
		t.Run(name, func(t *testing.T) {
			w := build(nodes, c.running, has(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "two", Labels: map[string]string{"team": "x"}}}))
			names, why, _ := w.schedule(c.pod, c.n)
			on := map[string]int{}
			for _, n := range names {
				on[n]++
			}
			why, _, _ = strings.Cut(why, " no new claims")
			got := why
			if len(on) > 0 {
				got = strings.TrimSuffix(fmt.Sprint(on)+": "+why, ": ")
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestPreemptionForRules(t *testing.T) {
	const host = corev1.LabelHostname
	for name, c := range map[string]struct {
		running []*corev1.Pod
		pod     *corev1.Pod
		want    string // the victims
	}{
		"who stands too close": {[]*corev1.Pod{pod("r", labelled("db"), on("a")), pod("s", on("a")), pod("high", labelled("db"), on("b"), priority(9))},
			pod("p", priority(9), awayFrom(0, about("db", host))), "r"},
		"who keeps others away": {[]*corev1.Pod{pod("r", on("a"), awayFrom(0, about("web", host))), pod("high", on("b"), priority(9), awayFrom(0, about("web", host)))},
			pod("p", labelled("web"), priority(9)), "r"},
		"who crowds": {[]*corev1.Pod{pod("r", labelled("x"), on("a")), pod("s", labelled("x"), on("a"), priority(1)), pod("high", labelled("x"), on("b"), priority(9)), pod("full", requests("cpu=4"), on("b"), priority(9))},
			pod("p", requests("cpu=1"), priority(9), spreads(host, 1, corev1.DoNotSchedule)), "r"},
		"not who is wanted": {[]*corev1.Pod{pod("r", labelled("db"), on("a"), requests("cpu=4")), pod("high", on("b"), requests("cpu=4"), priority(9))},
			pod("p", requests("cpu=1"), priority(9), beside(0, about("db", host))), ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := build([]*corev1.Node{node("a"), node("b")}, c.running)
			_, why, victims := w.schedule(c.pod, 1)
			if got := strings.Join(victims, " "); got != c.want {
				t.Errorf("victims %q, want %q (%s)", got, c.want, why)
			}
		})
	}
}

// Pods that nobody wrote constraints for are spread by what their Services and owners select.
func TestDefaultSpreading(t *testing.T) {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}}}
	large := allocatable("cpu=64 memory=128Gi")
	nodes := []*corev1.Node{node("a", large, zone("1")), node("b", zone("1")), node("c", zone("2"))}
	p := pod("p", labelled("web"), requests("cpu=10m memory=10Mi"))
	for name, c := range map[string]struct {
		objects []func(*world)
		pod     *corev1.Pod
		want    string
	}{
		"of a Service":        {[]func(*world){has(service)}, p, "map[a:1 b:1 c:2]"},
		"of a ReplicaSet":     {nil, pod("p", requests("cpu=10m memory=10Mi"), owned("rs")), "map[a:1 b:1 c:2]"},
		"of nothing":          {nil, p, "map[a:4]"},
		"of an owner unknown": {nil, pod("p", requests("cpu=10m memory=10Mi"), owned("gone")), "map[a:4]"},
	} {
		t.Run(name, func(t *testing.T) {
			names, why, _ := build(nodes, nil, c.objects...).schedule(c.pod, 4)
			on := map[string]int{}
			for _, n := range names {
				on[n]++
			}
			if got := fmt.Sprint(on); got != c.want {
				t.Errorf("got %s %s, want %s", got, why, c.want)
			}
		})
	}
}
