package scheduler

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corehelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// reference is the scheduler's rules written down as plainly as can be: it looks at every pod for every question.
type reference struct {
	nodes      []*corev1.Node
	pods       []*corev1.Pod
	namespaces map[string]map[string]string
	// owners are the selectors of owners by name.
	owners map[string]map[string]string
}

func (f *reference) on(n *corev1.Node) (out []*corev1.Pod) {
	for _, p := range f.pods {
		if p.Spec.NodeName == n.Name {
			out = append(out, p)
		}
	}
	return out
}

func (f *reference) node(name string) *corev1.Node {
	for _, n := range f.nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

func referenceMatches(f *reference, holder *corev1.Pod, t *corev1.PodAffinityTerm, p *corev1.Pod) bool {
	in := slices.Contains(t.Namespaces, p.Namespace)
	if t.NamespaceSelector != nil {
		in = in || selectorOf(t.NamespaceSelector).Matches(labels.Set(f.namespaces[p.Namespace]))
	} else if len(t.Namespaces) == 0 {
		in = p.Namespace == holder.Namespace
	}
	return in && selectorOf(t.LabelSelector).Matches(labels.Set(p.Labels))
}

func together(p *corev1.Pod) []corev1.PodAffinityTerm {
	if a := p.Spec.Affinity; a != nil && a.PodAffinity != nil {
		return a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

func apart(p *corev1.Pod) []corev1.PodAffinityTerm {
	if a := p.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		return a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// preferences returns the preferred terms of a pod, those of anti-affinity with their weight below zero.
func preferences(p *corev1.Pod) (out []corev1.WeightedPodAffinityTerm) {
	if a := p.Spec.Affinity; a != nil && a.PodAffinity != nil {
		out = append(out, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	if a := p.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		for _, t := range a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			t.Weight = -t.Weight
			out = append(out, t)
		}
	}
	return out
}

// shares tells whether two nodes have a label with the same value.
func shares(a, b *corev1.Node, key string) bool {
	x, ok := a.Labels[key]
	y, too := b.Labels[key]
	return ok && too && x == y
}

// constraints returns how a pod is spread, and whether nobody wrote that down.
func (f *reference) constraints(p *corev1.Pod) ([]corev1.TopologySpreadConstraint, bool) {
	if c := p.Spec.TopologySpreadConstraints; len(c) > 0 {
		return c, false
	}
	owner := metav1.GetControllerOf(p)
	if owner == nil || p.Namespace != "default" {
		return nil, true // there is no such owner elsewhere
	}
	selector := &metav1.LabelSelector{MatchLabels: f.owners[owner.Name]}
	return []corev1.TopologySpreadConstraint{
		{TopologyKey: corev1.LabelTopologyZone, MaxSkew: 3, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: selector},
		{TopologyKey: corev1.LabelHostname, MaxSkew: 5, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: selector},
	}, true
}

func (f *reference) admits(p *corev1.Pod, n *corev1.Node) bool {
	ok, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(n)
	return ok && err == nil
}

func tolerated(p *corev1.Pod, n *corev1.Node) bool {
	_, untolerated := corehelper.FindMatchingUntoleratedTaint(klog.Background(), n.Spec.Taints, p.Spec.Tolerations, func(t *corev1.Taint) bool {
		return t.Effect != corev1.TaintEffectPreferNoSchedule
	}, true)
	return !untolerated
}

// counted tells whether a node counts for a constraint of a pod.
func (f *reference) counted(p *corev1.Pod, c *corev1.TopologySpreadConstraint, n *corev1.Node) bool {
	if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor {
		if !f.admits(p, n) {
			return false
		}
	}
	if c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor && !tolerated(p, n) {
		return false
	}
	all, nobody := f.constraints(p)
	for _, o := range all {
		if _, has := n.Labels[o.TopologyKey]; !has && o.WhenUnsatisfiable == c.WhenUnsatisfiable && !nobody {
			return false
		}
	}
	return true
}

// inDomain counts the pods that a constraint is about in the domain of a node.
func (f *reference) inDomain(p *corev1.Pod, c *corev1.TopologySpreadConstraint, n *corev1.Node) (sum int) {
	for _, other := range f.nodes {
		if !shares(n, other, c.TopologyKey) || !f.counted(p, c, other) {
			continue
		}
		for _, o := range f.on(other) {
			if o.Namespace == p.Namespace && o.DeletionTimestamp == nil && selectorOf(c.LabelSelector).Matches(labels.Set(o.Labels)) {
				sum++
			}
		}
	}
	return sum
}

// refusal returns why a node does not take a pod; "" when it does.
func (f *reference) refusal(p *corev1.Pod, n *corev1.Node) string {
	if !tolerated(p, n) {
		return "node(s) had untolerated taint(s)"
	}
	if !f.admits(p, n) {
		return "node(s) didn't match Pod's node affinity/selector"
	}
	cpu, memory := int64(0), int64(0)
	for _, o := range append(f.on(n), p) {
		cpu += o.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
		memory += o.Spec.Containers[0].Resources.Requests.Memory().Value()
	}
	var lacks []string
	if p.Spec.Containers[0].Resources.Requests.Cpu().Sign() > 0 && cpu > n.Status.Allocatable.Cpu().MilliValue() {
		lacks = append(lacks, "Insufficient cpu")
	}
	if p.Spec.Containers[0].Resources.Requests.Memory().Sign() > 0 && memory > n.Status.Allocatable.Memory().Value() {
		lacks = append(lacks, "Insufficient memory")
	}
	if len(lacks) > 0 {
		return strings.Join(lacks, ", ")
	}
	all, _ := f.constraints(p)
	for i := range all {
		c := &all[i]
		if c.WhenUnsatisfiable != corev1.DoNotSchedule {
			continue
		}
		if _, has := n.Labels[c.TopologyKey]; !has {
			return "node(s) didn't match pod topology spread constraints (missing required label)"
		}
		domains, fewest := map[string]bool{}, math.MaxInt
		for _, other := range f.nodes {
			if f.counted(p, c, other) {
				domains[other.Labels[c.TopologyKey]] = true
				fewest = min(fewest, f.inDomain(p, c, other))
			}
		}
		if c.MinDomains != nil && len(domains) < int(*c.MinDomains) || len(domains) == 0 {
			fewest = 0
		}
		self := 0
		if selectorOf(c.LabelSelector).Matches(labels.Set(p.Labels)) {
			self = 1
		}
		if f.inDomain(p, c, n)+self-fewest > int(c.MaxSkew) {
			return "node(s) didn't match pod topology spread constraints"
		}
	}
	if !f.company(p, n) {
		return "node(s) didn't match pod affinity rules"
	}
	for _, o := range f.pods {
		at := f.node(o.Spec.NodeName)
		for _, t := range apart(p) {
			if at != nil && shares(n, at, t.TopologyKey) && referenceMatches(f, p, &t, o) {
				return "node(s) didn't match pod anti-affinity rules"
			}
		}
	}
	for _, o := range f.pods {
		at := f.node(o.Spec.NodeName)
		for _, t := range apart(o) {
			if at != nil && shares(n, at, t.TopologyKey) && referenceMatches(f, o, &t, p) {
				return "node(s) didn't satisfy existing pods anti-affinity rules"
			}
		}
	}
	return ""
}

// company tells whether a node's domains have the pods that a pod's required affinity asks for.
func (f *reference) company(p *corev1.Pod, n *corev1.Node) bool {
	terms := together(p)
	all := func(o *corev1.Pod) bool {
		return !slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return !referenceMatches(f, p, &t, o) })
	}
	met, anywhere := true, false
	for _, t := range terms {
		if _, has := n.Labels[t.TopologyKey]; !has {
			return false
		}
		here := false
		for _, o := range f.pods {
			at := f.node(o.Spec.NodeName)
			if at == nil || !all(o) {
				continue
			}
			_, has := at.Labels[t.TopologyKey]
			anywhere = anywhere || has
			here = here || shares(n, at, t.TopologyKey)
		}
		met = met && here
	}
	return met || !anywhere && all(p)
}

// scores returns the total of each node that takes a pod.
func (f *reference) scores(p *corev1.Pod) map[string]float64 {
	var fitting []*corev1.Node
	for _, n := range f.nodes {
		if f.refusal(p, n) == "" {
			fitting = append(fitting, n)
		}
	}
	out := map[string]float64{}
	for _, n := range fitting {
		out[n.Name] = f.resources(p, n) + f.images(p, n)
	}
	f.rank(out, fitting, 2, more, func(n *corev1.Node) float64 {
		var sum float64
		if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil {
			for _, t := range a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
				one, _ := nodeaffinity.NewNodeSelector(&corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{t.Preference}})
				if one.Match(n) {
					sum += float64(t.Weight)
				}
			}
		}
		return sum
	})
	f.rank(out, fitting, 3, lower, func(n *corev1.Node) (sum float64) {
		for _, taint := range n.Spec.Taints {
			if taint.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(p.Spec.Tolerations, &taint) {
				sum++
			}
		}
		return sum
	})
	f.spreadScores(out, fitting, p)
	f.rank(out, fitting, 2, between, func(n *corev1.Node) (sum float64) {
		for _, o := range f.pods {
			at := f.node(o.Spec.NodeName)
			if at == nil {
				continue
			}
			for _, t := range preferences(p) {
				if shares(n, at, t.PodAffinityTerm.TopologyKey) && referenceMatches(f, p, &t.PodAffinityTerm, o) {
					sum += float64(t.Weight)
				}
			}
			for _, t := range preferences(o) {
				if shares(n, at, t.PodAffinityTerm.TopologyKey) && referenceMatches(f, o, &t.PodAffinityTerm, p) {
					sum += float64(t.Weight)
				}
			}
			for _, t := range together(o) {
				if shares(n, at, t.TopologyKey) && referenceMatches(f, o, &t, p) {
					sum++
				}
			}
		}
		return sum
	})
	return out
}

func (f *reference) rank(out map[string]float64, nodes []*corev1.Node, weight float64, rank func(raw, least, most float64) float64, of func(*corev1.Node) float64) {
	raws := map[string]float64{}
	for _, n := range nodes {
		if raw := of(n); !math.IsNaN(raw) {
			raws[n.Name] = raw
		}
	}
	least, most := math.Inf(1), math.Inf(-1)
	for _, raw := range raws {
		least, most = min(least, raw), max(most, raw)
	}
	for name, raw := range raws {
		out[name] += weight * rank(raw, least, most)
	}
}

func (f *reference) spreadScores(out map[string]float64, fitting []*corev1.Node, p *corev1.Pod) {
	all, nobody := f.constraints(p)
	all = slices.DeleteFunc(slices.Clone(all), func(c corev1.TopologySpreadConstraint) bool { return c.WhenUnsatisfiable == corev1.DoNotSchedule })
	if len(all) == 0 {
		return
	}
	ignored := func(n *corev1.Node) bool {
		return !nobody && slices.ContainsFunc(all, func(c corev1.TopologySpreadConstraint) bool { _, has := n.Labels[c.TopologyKey]; return !has })
	}
	heft := map[string]float64{}
	for _, c := range all {
		values := map[string]bool{}
		for _, n := range fitting {
			if v, has := n.Labels[c.TopologyKey]; has && !ignored(n) {
				values[v] = true
			}
		}
		heft[c.TopologyKey] = math.Log(float64(len(values)) + 2)
	}
	f.rank(out, fitting, 2, fewer, func(n *corev1.Node) (sum float64) {
		if ignored(n) {
			return math.NaN()
		}
		for i := range all {
			if _, has := n.Labels[all[i].TopologyKey]; has {
				sum += float64(f.inDomain(p, &all[i], n))*heft[all[i].TopologyKey] + float64(all[i].MaxSkew-1)
			}
		}
		return math.Round(sum)
	})
}

// resources is how empty and how balanced a node is.
func (f *reference) resources(p *corev1.Pod, n *corev1.Node) float64 {
	share := func(pods ...*corev1.Pod) (cpu, memory float64) {
		for _, o := range pods {
			r := o.Spec.Containers[0].Resources.Requests
			c, m := int64(assumedCPU), int64(assumedMemory)
			if q, has := r[corev1.ResourceCPU]; has {
				c = q.MilliValue()
			}
			if q, has := r[corev1.ResourceMemory]; has {
				m = q.Value()
			}
			cpu += float64(c) / float64(n.Status.Allocatable.Cpu().MilliValue())
			memory += float64(m) / float64(n.Status.Allocatable.Memory().Value())
		}
		return min(cpu, 1), min(memory, 1)
	}
	c0, m0 := share(f.on(n)...)
	c1, m1 := share(append(f.on(n), p)...)
	out := best * (1 - c1 + 1 - m1) / 2
	if len(p.Spec.Containers[0].Resources.Requests) > 0 {
		out += 75 + 25*(math.Abs(c0-m0)-math.Abs(c1-m1))
	}
	return out
}

func (f *reference) images(p *corev1.Pod, n *corev1.Node) float64 {
	size := func(n *corev1.Node) float64 {
		for _, i := range n.Status.Images {
			if slices.Contains(i.Names, p.Spec.Containers[0].Image+":latest") {
				return float64(i.SizeBytes)
			}
		}
		return 0
	}
	have := 0
	for _, o := range f.nodes {
		if size(o) > 0 {
			have++
		}
	}
	least, most := float64(leastImages), float64(mostPerImage)
	return best * (min(max(size(n)*float64(have)/float64(len(f.nodes)), least), most) - least) / (most - least)
}

// dice makes random clusters and pods, of few different values, so that rules meet.
type dice struct{ *rand.Rand }

func one[T any](d dice, of ...T) T { return of[d.IntN(len(of))] }

func (d dice) chance(of int) bool { return d.IntN(of) == 0 }

func (d dice) node(i int) *corev1.Node {
	n := node(fmt.Sprint("n", i), allocatable(one(d, "cpu=2 memory=4Gi", "cpu=4 memory=4Gi", "cpu=3 memory=8Gi")))
	if !d.chance(5) {
		zone(fmt.Sprint("z", d.IntN(3)))(n)
	}
	if d.chance(2) {
		label("rack", fmt.Sprint("r", d.IntN(4)))(n)
	}
	if d.chance(3) {
		label("disk", one(d, "ssd", "hdd"))(n)
	}
	if d.chance(4) {
		taint(one(d, "a", "b"), "", one(d, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule))(n)
	}
	if d.chance(3) {
		n.Status.Images = []corev1.ContainerImage{{Names: []string{"x:latest", "x@sha256:1"}, SizeBytes: int64(d.IntN(3000)) << 20}}
	}
	return n
}

func (d dice) selector() *metav1.LabelSelector {
	switch d.IntN(6) {
	case 0:
		return &metav1.LabelSelector{}
	case 1:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"a"}}}}
	default:
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": one(d, "a", "b", "c")}}
	}
}

func (d dice) key() string { return one(d, corev1.LabelHostname, corev1.LabelTopologyZone, "rack") }

func (d dice) term() corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{LabelSelector: d.selector(), TopologyKey: d.key()}
	switch d.IntN(6) {
	case 0:
		t.Namespaces = []string{one(d, "default", "two")}
	case 1:
		t.NamespaceSelector = one(d, &metav1.LabelSelector{}, &metav1.LabelSelector{MatchLabels: map[string]string{"team": "x"}})
	}
	return t
}

func (d dice) terms(odds int) (out []corev1.PodAffinityTerm) {
	for d.chance(odds) {
		out = append(out, d.term())
	}
	return out
}

func (d dice) weighted(odds int) (out []corev1.WeightedPodAffinityTerm) {
	for d.chance(odds) {
		out = append(out, corev1.WeightedPodAffinityTerm{Weight: 1 + d.Int32N(100), PodAffinityTerm: d.term()})
	}
	return out
}

func (d dice) pod(name string) *corev1.Pod {
	p := pod(name)
	p.Namespace = one(d, "default", "default", "two")
	p.Labels = map[string]string{"app": one(d, "a", "b", "c")}
	if d.chance(3) {
		requests(one(d, "cpu=500m", "cpu=1", "cpu=1 memory=2Gi"))(p)
	}
	p.Spec.Containers[0].Image = one(d, "x", "y")
	p.Spec.Affinity = &corev1.Affinity{
		NodeAffinity: &corev1.NodeAffinity{},
		PodAffinity:  &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: d.terms(5), PreferredDuringSchedulingIgnoredDuringExecution: d.weighted(3)},
		PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: d.terms(5),
			PreferredDuringSchedulingIgnoredDuringExecution: d.weighted(3)},
	}
	if d.chance(4) {
		requires(expression("disk", one(d, corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist)))(p)
	}
	if d.chance(3) {
		prefers(1+d.Int32N(50), expression("disk", corev1.NodeSelectorOpIn, "ssd"))(p)
	}
	if d.chance(3) {
		tolerating(one(d, "a", "b"), corev1.TolerationOpExists, "", "")(p)
	}
	for d.chance(3) {
		c := corev1.TopologySpreadConstraint{MaxSkew: 1 + d.Int32N(2), TopologyKey: d.key(), LabelSelector: d.selector(),
			WhenUnsatisfiable: one(d, corev1.DoNotSchedule, corev1.ScheduleAnyway)}
		same := func(o corev1.TopologySpreadConstraint) bool { return o.TopologyKey == c.TopologyKey }
		if slices.ContainsFunc(p.Spec.TopologySpreadConstraints, same) {
			continue
		}
		if c.WhenUnsatisfiable == corev1.DoNotSchedule && d.chance(3) {
			least := 1 + d.Int32N(4)
			c.MinDomains = &least
		}
		policy := one(d, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		if d.chance(2) {
			c.NodeAffinityPolicy = &policy
		} else {
			c.NodeTaintsPolicy = &policy
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
	if len(p.Spec.TopologySpreadConstraints) == 0 && d.chance(2) {
		app := p.Labels["app"]
		owned(one(d, "rs", "other"))(p)
		p.Labels["app"] = app
	}
	return p
}

// Every choice of a random history is one that the reference calls best, and every refusal is counted as it counts.
func TestPickAgreesWithReference(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	for seed := range rounds {
		d := dice{rand.New(rand.NewPCG(uint64(seed), 1))}
		f := &reference{
			namespaces: map[string]map[string]string{"default": {"team": "x"}, "two": {}},
			owners:     map[string]map[string]string{"rs": {"rs": "rs"}, "other": {"rs": "other"}},
		}
		for i := range 2 + d.IntN(10) {
			f.nodes = append(f.nodes, d.node(i))
		}
		w := build(f.nodes, nil, has(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"team": "x"}}}))
		for step := range 12 {
			d.disturb(f, w)
			if !w.agrees(t, f, d.pod(fmt.Sprint(seed, "-", step)), 1+d.IntN(6)) {
				t.Fatalf("seed %d, step %d", seed, step)
			}
		}
	}
}

// disturb takes a pod away, lets one die, or changes a node.
func (d dice) disturb(f *reference, w *world) {
	if len(f.pods) > 0 && d.chance(2) {
		i := d.IntN(len(f.pods))
		p := f.pods[i]
		if d.chance(2) {
			w.podGone(p)
			f.pods = slices.Delete(f.pods, i, i+1)
		} else {
			p = p.DeepCopy()
			p.DeletionTimestamp = &metav1.Time{}
			p.Generation++
			f.pods[i] = p
			w.podChanged(p)
		}
	}
	if d.chance(4) {
		i := d.IntN(len(f.nodes))
		n := d.node(i)
		f.nodes[i] = n
		w.setNode(n)
	}
}

func (w *world) agrees(t *testing.T, f *reference, p *corev1.Pod, n int) bool {
	before := maps.Clone(w.placed)
	nodes, why, _ := w.schedule(p, n)
	fresh := map[types.UID]string{}
	for uid, at := range w.placed {
		if before[uid] == nil {
			fresh[uid] = at.node
		}
	}
	for _, name := range nodes {
		scores := f.scores(p)
		most := slices.Max(append(slices.Collect(maps.Values(scores)), 0))
		if got, ok := scores[name]; !ok || got < most-1e-6 {
			t.Errorf("%s went to %s with %v of %v (%s)", p.Name, name, got, scores, f.refusal(p, f.node(name)))
			return false
		}
		placed := p.DeepCopy()
		placed.Spec.NodeName = name
		for uid, at := range fresh {
			if at == name {
				placed.UID = uid
				delete(fresh, uid)
				break
			}
		}
		f.pods = append(f.pods, placed)
	}
	if len(nodes) == n {
		return true
	}
	counts := map[string]int{}
	for _, node := range f.nodes {
		for why := range strings.SplitSeq(f.refusal(p, node), ", ") {
			counts[why]++
		}
	}
	want := summary(len(f.nodes), counts)
	if got, _, _ := strings.Cut(why, " no new claims"); got != want {
		t.Errorf("%s: got %s, want %s", p.Name, got, want)
		return false
	}
	return true
}
