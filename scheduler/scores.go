package scheduler

import "math"

// best is what a score gives the best node; the worst has 0.
const best = 100.0

// score is one reason to prefer a node among those that can take a pod.
type score struct {
	name   string
	weight float64 // upstream's default
	// concerns tells whether nodes can differ by it for a run; nil: always.
	concerns func(r *run) bool
	// of is what the node in slot i has: 0 to best, and nothing that other nodes decide; or with rank any number, or NaN where it does not apply.
	of func(r *run, n *columns, i int32) float64
	// rank turns a number into 0 to best, given the least and the most that any node has that can take the pod.
	rank func(raw, least, most float64) float64
}

// maxRanked is how many scores with rank there are.
const maxRanked = 4

// scores is the table of all scores.
func scores() []score {
	return []score{
		{name: "NodeResourcesFit", weight: 1, of: leastAllocated},
		{name: "NodeResourcesBalancedAllocation", weight: 1, concerns: func(r *run) bool { return !r.class.bestEffort }, of: balanced},
		{name: "ImageLocality", weight: 1, concerns: func(r *run) bool { return r.class.local != nil }, of: locality},
		{name: "NodeAffinity", weight: 2, concerns: func(r *run) bool { return r.class.prefer != nil }, of: preferredAffinity, rank: more},
		{name: "TaintToleration", weight: 3, concerns: meetsSoftTaints, of: softTaints, rank: lower},
		{name: "PodTopologySpread", weight: 2, concerns: func(r *run) bool { return len(r.soft) > 0 }, of: crowdedness, rank: fewer},
		{name: "InterPodAffinity", weight: 2, concerns: func(r *run) bool { return len(r.near) > 0 }, of: company, rank: between},
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

// balanced is higher the more the pod brings the used shares of cpu and memory together: three quarters of best when it
// changes nothing, all of it from the worst to the best, half the other way. (The standard deviation of two shares, which is
// what upstream compares, is half their distance.)
func balanced(r *run, n *columns, i int32) float64 {
	if n.share[cpu][i] == 0 || n.share[memory][i] == 0 {
		return 0
	}
	return best*3/4 + (n.imbalance(i, [2]int64{})-n.imbalance(i, r.class.score))/4
}

// imbalance is how far a node's used shares of cpu and memory would be apart with more of both.
func (c *columns) imbalance(i int32, with [2]int64) float64 {
	a := min(best, float64(c.usedScore[cpu][i]+with[cpu])*c.share[cpu][i])
	b := min(best, float64(c.usedScore[memory][i]+with[memory])*c.share[memory][i])
	return math.Abs(a - b)
}

func preferredAffinity(r *run, _ *columns, i int32) float64 { return r.class.prefer[i] }

func meetsSoftTaints(r *run) bool {
	for v := range r.class.verdicts {
		if r.class.verdicts[v].soft > 0 {
			return true
		}
	}
	return false
}

func softTaints(r *run, n *columns, i int32) float64 { return r.class.verdicts[n.taint[i]].soft }

// more turns what nodes have into 0 to best, the best for the most.
func more(raw, _, most float64) float64 {
	if most == 0 {
		return 0
	}
	return best * raw / most
}

// lower is the other way round.
func lower(raw, _, most float64) float64 {
	if most == 0 {
		return best
	}
	return best - best*raw/most
}
