package scheduler

// filter is one reason why a node cannot take a pod.
type filter struct {
	name string
	// refuses tells whether the node in slot i cannot take a pod of the class.
	refuses func(c *class, n *columns, i int32) bool
	// explain returns the reasons, in upstream's words, once refuses is true.
	explain func(c *class, n *columns, i int32) []reason
}

// reason is one cause of a refusal. Removing pods cannot mend a lasting one.
type reason struct {
	text    string
	lasting bool
}

func lasting(text string) func(*class, *columns, int32) []reason {
	return func(*class, *columns, int32) []reason { return []reason{{text, true}} }
}

// filters is the table of all filters, in the order in which they are asked: the first that refuses a node explains it.
// What a filter needs of other pods (affinity between pods) belongs into counters like those of spread, so that it
// stays one row here. (A pod with spec.nodeName is never asked about: it has its node.)
func filters() []filter {
	return []filter{
		{"NodeUnschedulable", unschedulable, lasting("node(s) were unschedulable")},
		{"TaintToleration", tainted, lasting("node(s) had untolerated taint(s)")},
		{"NodeAffinity", unmatched, lasting("node(s) didn't match Pod's node affinity/selector")},
		{"NodePorts", portsTaken, func(*class, *columns, int32) []reason {
			return []reason{{text: "node(s) didn't have free ports for the requested pod ports"}}
		}},
		{"NodeResourcesFit", full, lacking},
		{"PodTopologySpread", crowded, explainCrowded},
	}
}

func unschedulable(c *class, n *columns, i int32) bool { return c.verdicts[n.taint[i]].unschedulable }

func tainted(c *class, n *columns, i int32) bool { return c.verdicts[n.taint[i]].untolerated }

func unmatched(c *class, _ *columns, i int32) bool { return c.admitted != nil && !c.admitted.has(i) }

// portsTaken: a port on all addresses collides with the same port on any.
func portsTaken(c *class, n *columns, i int32) bool {
	for _, want := range c.ports {
		for _, has := range n.ports[i] {
			if want.port == has.port && want.protocol == has.protocol && (want.ip == has.ip || want.ip == "" || has.ip == "") {
				return true
			}
		}
	}
	return false
}

func full(c *class, n *columns, i int32) bool {
	if n.used[pods][i]+1 > n.alloc[pods][i] {
		return true
	}
	for _, r := range c.requests {
		if n.used[r.resource][i]+r.value > n.alloc[r.resource][i] {
			return true
		}
	}
	return false
}

func lacking(c *class, n *columns, i int32) []reason {
	var out []reason
	if n.used[pods][i]+1 > n.alloc[pods][i] {
		out = append(out, reason{text: "Too many pods"})
	}
	for _, r := range c.requests {
		if n.used[r.resource][i]+r.value > n.alloc[r.resource][i] {
			out = append(out, reason{"Insufficient " + n.resourceName(r.resource), r.value > n.alloc[r.resource][i]})
		}
	}
	return out
}

func (c *columns) resourceName(place int) string {
	for name, i := range c.resources {
		if i == place {
			return string(name)
		}
	}
	return ""
}

// refused returns the number of the filter that refuses a slot, counted from 1; 0 for none. The class has been prepared.
func (c *class) refused(table []filter, n *columns, i int32) int {
	for f := range table {
		if table[f].refuses(c, n, i) {
			return f + 1
		}
	}
	return 0
}
