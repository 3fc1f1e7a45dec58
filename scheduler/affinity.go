package scheduler

import corev1 "k8s.io/api/core/v1"

// hardAffinityWeight is what a pod's required affinity is worth to those that it speaks of. Upstream's default.
const hardAffinityWeight = 1

// podTerm is a term of affinity between pods, with the label whose values are the domains.
type podTerm struct {
	*term
	topology string
	weight   int32 // of a preferred term; negative to be far
}

// podAffinity is what a pod says of its place beside others.
type podAffinity struct {
	together, apart, near []podTerm
	// holds are the same terms as those meet them that they speak of.
	holds []rule
}

func podAffinityOf(p *corev1.Pod) (a podAffinity) {
	affinity := p.Spec.Affinity
	if affinity == nil {
		return a
	}
	if with := affinity.PodAffinity; with != nil {
		a.together = a.required(p, with.RequiredDuringSchedulingIgnoredDuringExecution, rule{weight: hardAffinityWeight})
		a.preferred(p, with.PreferredDuringSchedulingIgnoredDuringExecution, 1)
	}
	if from := affinity.PodAntiAffinity; from != nil {
		a.apart = a.required(p, from.RequiredDuringSchedulingIgnoredDuringExecution, rule{apart: true})
		a.preferred(p, from.PreferredDuringSchedulingIgnoredDuringExecution, -1)
	}
	return a
}

func (a *podAffinity) required(p *corev1.Pod, terms []corev1.PodAffinityTerm, like rule) (out []podTerm) {
	for i := range terms {
		t := podTerm{termOf(p.Namespace, &terms[i]), terms[i].TopologyKey, 0}
		out = append(out, t)
		a.hold(t, like)
	}
	return out
}

func (a *podAffinity) preferred(p *corev1.Pod, terms []corev1.WeightedPodAffinityTerm, sign int32) {
	for i := range terms {
		t := podTerm{termOf(p.Namespace, &terms[i].PodAffinityTerm), terms[i].PodAffinityTerm.TopologyKey, sign * terms[i].Weight}
		a.near = append(a.near, t)
		a.hold(t, rule{weight: t.weight})
	}
}

func (a *podAffinity) hold(t podTerm, r rule) {
	r.term, r.topology = t.term, t.topology
	// A weight is -100 to 100; only a rule that keeps apart has none.
	r.key = string(appendText(appendText([]byte{byte(r.weight)}, t.topology), t.key))
	a.holds = append(a.holds, r)
}

// beside counts, for a run, the pods that affinity speaks of: its own pods' and that of others about them.
func (r *run) beside(n *columns) {
	c := r.class
	var all []*term
	for _, t := range c.together {
		all = append(all, t.term)
	}
	for _, t := range c.together {
		// A pod counts that all of the terms speak of, in each of their topologies.
		r.together = append(r.together, newDim(n.topology(t.topology), source{peers: n.peersOf(all, false), weight: 1}))
	}
	r.opens = len(c.together) > 0 && (&peers{terms: all}).matches(n, r.kin)
	for _, t := range c.apart {
		r.apart = into(r.apart, n.topology(t.topology), source{peers: n.peersOf([]*term{t.term}, false), weight: 1})
	}
	for _, t := range c.near {
		r.near = into(r.near, n.topology(t.topology), source{peers: n.peersOf([]*term{t.term}, false), weight: int64(t.weight)})
	}
	for _, about := range n.rulesAbout(r.kin) {
		if about.apart {
			r.repelled = into(r.repelled, n.topology(about.topology), source{rule: about, weight: 1})
		} else {
			r.near = into(r.near, n.topology(about.topology), source{rule: about, weight: int64(about.weight)})
		}
	}
}

// into adds a source to the dim of a topology, so that there is one for each.
func into(dims []dim, t *topology, s source) []dim {
	for i := range dims {
		if dims[i].topology == t {
			dims[i].include(s)
			return dims
		}
	}
	return append(dims, newDim(t, s))
}

// alone: a node in whose domains the pods are not that the run's affinity asks for. When there are none anywhere, and the
// pod is itself one of those, it may be the first.
func alone(r *run, _ *columns, i int32) bool {
	for d := range r.together {
		if r.together[d].of[i] < 0 {
			return true
		}
	}
	for d := range r.together {
		if r.together[d].at(i) <= 0 {
			return !r.opens || !r.first()
		}
	}
	return false
}

// first tells that no pod is anywhere that the run's affinity asks for.
func (r *run) first() bool {
	for d := range r.together {
		if r.together[d].total > 0 {
			return false
		}
	}
	return true
}

func tooClose(r *run, _ *columns, i int32) bool { return some(r.apart, i) }

func repelled(r *run, _ *columns, i int32) bool { return some(r.repelled, i) }

func some(dims []dim, i int32) bool {
	for d := range dims {
		if dims[d].at(i) > 0 {
			return true
		}
	}
	return false
}

// company is what the pods in a node's domains are worth to the run's, and its to them.
func company(r *run, _ *columns, i int32) float64 {
	var sum int64
	for d := range r.near {
		sum += r.near[d].at(i)
	}
	return float64(sum)
}

// between stretches what nodes have to 0 to best, from the least to the most.
func between(raw, least, most float64) float64 {
	if most <= least {
		return 0
	}
	return best * (raw - least) / (most - least)
}
