package scheduler

import (
	"fmt"
	"slices"
	"strings"
)

// refusal says why no node takes a pod, in upstream's words.
type refusal struct {
	message string
	// by are the filters that refused nodes: a bit for each by its place in the table.
	by uint32
	// outright tells that no node was asked: the pod itself, or a volume of its, is not ready.
	outright bool
}

// notHelpful is why preemption does not help where it cannot.
const notHelpful = "Preemption is not helpful for scheduling"

// beforePreemption stands before what preemption came to: upstream asks its plugin for claims of devices first, which
// never has any to take back here.
const beforePreemption = " no new claims to deallocate, preemption: "

// explain asks every node again, after pick found none for a run.
func (p *picker) explain(r *run) refusal {
	n := p.columns
	if n.len() == 0 {
		return refusal{message: "no nodes available to schedule pods"}
	}
	counts := map[string]int{}
	var by uint32
	for i, node := range n.nodes {
		if node == nil {
			continue
		}
		f := r.refused(n, int32(i))
		if f == nil {
			continue
		}
		for at := range p.filters {
			if f == &p.filters[at] {
				by |= 1 << at
			}
		}
		for _, text := range f.explain(r, n, int32(i)) {
			counts[text]++
		}
	}
	return refusal{message: summary(n.len(), counts), by: by}
}

// refuseOutright is the refusal of a pod that no node can be asked about.
func (p *picker) refuseOutright(why string) refusal {
	nodes := p.columns.len()
	return refusal{
		message:  fmt.Sprintf("0/%d nodes are available: %s.%s%s", nodes, why, beforePreemption, summary(nodes, map[string]int{notHelpful: nodes})),
		outright: true,
	}
}

// summary counts nodes by reason: "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable."
func summary(nodes int, counts map[string]int) string {
	parts := make([]string, 0, len(counts))
	for text, k := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", k, text))
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(parts, ", "))
}
