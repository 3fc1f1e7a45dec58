package scheduler

import (
	"fmt"
	"slices"
	"strings"
)

// refusal says why no node takes a pod, in upstream's words.
type refusal struct {
	message string
	// mendable tells that pods which go away may make room on some node; otherwise only nodes that change can.
	mendable bool
}

// explain asks every node again, after pick found none for a class.
func (p *picker) explain(c *class) refusal {
	n := p.columns
	if n.len() == 0 {
		return refusal{message: "no nodes available to schedule pods"}
	}
	c.prepare(n)
	counts := map[string]int{}
	mendable := false
	for i, node := range n.nodes {
		if node == nil {
			continue
		}
		f := c.refused(p.filters, n, int32(i))
		if f == 0 {
			continue
		}
		for _, r := range p.filters[f-1].explain(c, n, int32(i)) {
			counts[r.text]++
		}
		mendable = mendable || p.helpful(c, int32(i))
	}
	return refusal{summary(n.len(), counts), mendable}
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
