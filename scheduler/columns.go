package scheduler

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The first resources have fixed places; extended ones follow in the order in which they are met.
const (
	cpu = iota // millicores
	memory
	ephemeral
	pods
	fixedResources
)

// columns is the cluster as the scheduler sees it: one slot per node, one array per property, so that a look at all nodes
// runs through memory in a straight line. Not safe for concurrent use: it belongs to the scheduler's loop.
type columns struct {
	slots map[string]int32 // by node name
	free  []int32          // slots of nodes that are gone
	nodes []*corev1.Node   // nil where there is none
	zone  []int32          // number of the node's zone; 0 for none
	taint []int32          // number of the node's taints in taints
	ports [][]hostPort

	resources map[corev1.ResourceName]int // place in alloc and used
	alloc     [][]int64                   // [resource][slot]
	used      [][]int64
	// usedScore counts cpu and memory with a small request assumed where a pod has none: see class.score.
	usedScore [2][]int64
	// share is what one unit of cpu and memory is of all that the node has; 0 where it has none.
	share [2][]float64

	labels labelIndex
	zones  map[string]int32
	// taints holds each different set of taints once: nodes have few, and a pod tolerates a set or not.
	taints    []taintSet
	taintSets map[string]int32
	placed    map[types.UID]*placed
	// byNode holds the pods of each node by name, of nodes that are not there (yet) too.
	byNode map[string]map[types.UID]*placed
	groups map[groupKey]*group
	// nominated are the waiting pods that others make way for, with the node where.
	nominated map[types.UID]*placed
	// next is where ties are broken from: it moves on with every pick, so that equal nodes take turns.
	next int32
}

// taintSet is all that a node's spec refuses pods by.
type taintSet struct {
	unschedulable bool
	taints        []corev1.Taint
}

// placed is a pod that takes room on a node: one that was seen there, or one that was just bound and is assumed to be there.
type placed struct {
	uid      types.UID
	node     string
	class    *class
	group    groupKey
	priority int32
	assumed  bool
	// victim is set once the scheduler has asked for the pod to be deleted.
	victim bool
	pod    *corev1.Pod
}

// groupKey names pods that are to be spread over the nodes: those of one controller.
type groupKey struct {
	namespace string
	owner     types.UID
}

// group counts the pods of a group on the slots that have any.
type group struct {
	at map[int32]int // place in on
	on []slotCount
}

type slotCount struct{ slot, count int32 }

func newColumns() *columns {
	c := &columns{
		slots:     map[string]int32{},
		resources: map[corev1.ResourceName]int{},
		labels:    labelIndex{slots: map[string]map[string][]int32{}},
		zones:     map[string]int32{"": 0},
		taintSets: map[string]int32{},
		placed:    map[types.UID]*placed{},
		byNode:    map[string]map[types.UID]*placed{},
		groups:    map[groupKey]*group{},
		nominated: map[types.UID]*placed{},
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourcePods} {
		c.resource(name)
	}
	return c
}

// resource returns the place of a resource, and makes one if it is new.
func (c *columns) resource(name corev1.ResourceName) int {
	if i, ok := c.resources[name]; ok {
		return i
	}
	i := len(c.resources)
	c.resources[name] = i
	c.alloc = append(c.alloc, make([]int64, len(c.nodes)))
	c.used = append(c.used, make([]int64, len(c.nodes)))
	return i
}

// amount is a quantity in the unit of its column: millicores for cpu, whole units for all else.
func amount(name corev1.ResourceName, list corev1.ResourceList) int64 {
	q := list[name]
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

// len is how many nodes there are.
func (c *columns) len() int { return len(c.slots) }

// setNode adds or updates a node. It tells what of it changed that may let a waiting pod fit.
func (c *columns) setNode(n *corev1.Node) (better bool) {
	i, known := c.slots[n.Name]
	if !known {
		i = c.newSlot()
		c.slots[n.Name] = i
	}
	before := c.nodes[i]
	c.nodes[i] = n
	for name := range n.Status.Allocatable {
		c.resource(name)
	}
	for name, r := range c.resources {
		a := amount(name, n.Status.Allocatable)
		better = better || a > c.alloc[r][i]
		c.alloc[r][i] = a
	}
	for r := range c.share {
		c.share[r][i] = 0
		if a := c.alloc[r][i]; a > 0 {
			c.share[r][i] = best / float64(a)
		}
	}
	if taint := c.taintSet(&n.Spec); taint != c.taint[i] || !known {
		c.taint[i], better = taint, true
	}
	if !known || !maps.Equal(before.Labels, n.Labels) {
		if known {
			c.labels.remove(i, before.Labels)
		}
		c.labels.add(i, n.Labels)
		c.zone[i], better = c.zoneOf(n), true
	}
	if !known {
		for _, p := range c.byNode[n.Name] {
			c.count(i, p, 1)
		}
	}
	return better
}

// taintSet returns the number of a node's set of taints.
func (c *columns) taintSet(spec *corev1.NodeSpec) int32 {
	set := taintSet{unschedulable: spec.Unschedulable}
	text := fmt.Sprint(spec.Unschedulable)
	for _, t := range spec.Taints {
		t.TimeAdded = nil
		set.taints = append(set.taints, t)
		text += "\x00" + t.Key + "\x00" + t.Value + "\x00" + string(t.Effect)
	}
	number, ok := c.taintSets[text]
	if !ok {
		number = int32(len(c.taints))
		c.taintSets[text] = number
		c.taints = append(c.taints, set)
	}
	return number
}

func (c *columns) newSlot() int32 {
	if n := len(c.free); n > 0 {
		i := c.free[n-1]
		c.free = c.free[:n-1]
		return i
	}
	c.nodes = append(c.nodes, nil)
	c.zone = append(c.zone, 0)
	c.taint = append(c.taint, 0)
	c.ports = append(c.ports, nil)
	for r := range c.alloc {
		c.alloc[r] = append(c.alloc[r], 0)
		c.used[r] = append(c.used[r], 0)
	}
	for r := range c.usedScore {
		c.usedScore[r] = append(c.usedScore[r], 0)
		c.share[r] = append(c.share[r], 0)
	}
	return int32(len(c.nodes) - 1)
}

func (c *columns) zoneOf(n *corev1.Node) int32 {
	name := n.Labels[corev1.LabelTopologyRegion] + "\x00" + n.Labels[corev1.LabelTopologyZone]
	if name == "\x00" {
		return 0
	}
	z, ok := c.zones[name]
	if !ok {
		z = int32(len(c.zones))
		c.zones[name] = z
	}
	return z
}

// dropNode removes a node; its pods stay known, until they are deleted.
func (c *columns) dropNode(name string) {
	i, ok := c.slots[name]
	if !ok {
		return
	}
	for _, p := range c.byNode[name] {
		c.count(i, p, -1)
	}
	c.labels.remove(i, c.nodes[i].Labels)
	delete(c.slots, name)
	c.nodes[i], c.ports[i] = nil, nil
	for r := range c.alloc {
		c.alloc[r][i] = 0
	}
	c.free = append(c.free, i)
}

// place makes a pod take its room.
func (c *columns) place(p *placed) {
	c.placed[p.uid] = p
	on := c.byNode[p.node]
	if on == nil {
		on = map[types.UID]*placed{}
		c.byNode[p.node] = on
	}
	on[p.uid] = p
	if i, ok := c.slots[p.node]; ok {
		c.count(i, p, 1)
	}
}

// remove gives a pod's room back, and tells whether it had any.
func (c *columns) remove(uid types.UID) bool {
	p := c.placed[uid]
	if p == nil {
		return false
	}
	delete(c.placed, uid)
	delete(c.byNode[p.node], uid)
	if len(c.byNode[p.node]) == 0 {
		delete(c.byNode, p.node)
	}
	if i, ok := c.slots[p.node]; ok {
		c.count(i, p, -1)
	}
	return true
}

// count adds a pod to, or takes it off, all counters of a slot.
func (c *columns) count(i int32, p *placed, sign int64) {
	for _, a := range p.class.requests {
		c.used[a.resource][i] += sign * a.value
	}
	c.used[pods][i] += sign
	for r := range c.usedScore {
		c.usedScore[r][i] += sign * p.class.score[r]
	}
	if sign > 0 {
		c.ports[i] = append(c.ports[i], p.class.ports...)
	} else {
		for _, taken := range p.class.ports {
			if at := slices.Index(c.ports[i], taken); at >= 0 {
				c.ports[i] = slices.Delete(c.ports[i], at, at+1)
			}
		}
	}
	if p.group.owner != "" {
		c.countGroup(i, p.group, int32(sign))
	}
}

func (c *columns) countGroup(i int32, key groupKey, sign int32) {
	g := c.groups[key]
	if g == nil {
		g = &group{at: map[int32]int{}}
		c.groups[key] = g
	}
	at, ok := g.at[i]
	if !ok {
		at = len(g.on)
		g.at[i] = at
		g.on = append(g.on, slotCount{slot: i})
	}
	if g.on[at].count += sign; g.on[at].count > 0 {
		return
	}
	last := len(g.on) - 1
	g.on[at] = g.on[last]
	g.at[g.on[at].slot] = at
	g.on = g.on[:last]
	delete(g.at, i)
	if last == 0 {
		delete(c.groups, key)
	}
}
