package scheduler

import "math"

// best is what a score gives the best node; the worst has 0.
const best = 100.0

// score is one reason to prefer a node among those that can take a pod.
type score struct {
	name   string
	weight float64 // upstream's default
	// of returns 0 to best for the node in slot i, as things are with the pods placed so far.
	of func(r *run, n *columns, i int32) float64
}

// scores is the table of all scores.
func scores() []score {
	return []score{
		{"NodeResourcesFit", 1, leastAllocated},
		{"NodeResourcesBalancedAllocation", 1, balanced},
		{"NodeAffinity", 2, preferredAffinity},
		{"TaintToleration", 3, fewestTaints},
		{"PodTopologySpread", 2, spreadOverNodes},
	}
}

// leastAllocated is the share of cpu and memory that stays free, on average.
func leastAllocated(r *run, n *columns, i int32) float64 {
	var sum, parts float64
	for p := range r.class.score {
		share := n.share[p][i]
		if share == 0 {
			continue
		}
		parts++
		sum += max(0, float64(n.alloc[p][i]-n.usedScore[p][i]-r.class.score[p])) * share
	}
	if parts == 0 {
		return 0
	}
	return sum / parts
}

// balanced is higher the closer the used shares of cpu and memory are: the standard deviation of two is half their distance.
func balanced(r *run, n *columns, i int32) float64 {
	if r.class.bestEffort || n.share[cpu][i] == 0 || n.share[memory][i] == 0 {
		return 0
	}
	a := min(best, float64(n.usedScore[cpu][i]+r.class.score[cpu])*n.share[cpu][i])
	b := min(best, float64(n.usedScore[memory][i]+r.class.score[memory])*n.share[memory][i])
	return best - math.Abs(a-b)/2
}

func preferredAffinity(r *run, _ *columns, i int32) float64 {
	if r.mostPreferred == 0 {
		return 0
	}
	return r.class.prefer[i] / r.mostPreferred * best
}

func fewestTaints(r *run, n *columns, i int32) float64 {
	if r.mostTaints == 0 {
		return best
	}
	return best - r.class.verdicts[n.taint[i]].soft/r.mostTaints*best
}

// spreadOverNodes is lower with each pod of the same controller that the node has. It falls by the same step for each,
// so that a node's score depends on no other node: the step is such that the fullest node at the start of the run has 0.
// Zones are compared in pick, where all nodes of a zone rise and fall together.
//
// Pods with rules of their own are spread by those alone.
func spreadOverNodes(r *run, _ *columns, i int32) float64 {
	if len(r.class.rules) > 0 {
		return spreadByRules(r.class, i)
	}
	return best - r.step*float64(r.count[i])
}

// spreadWeight is the weight of spreading over zones beside that over nodes.
const spreadWeight = 2
