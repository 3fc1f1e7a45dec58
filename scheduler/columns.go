package scheduler

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
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
	taint []int32          // number of the node's taints in taints
	ports [][]hostPort
	disks [][]disk
	// attached are the volumes of CSI drivers that each slot's pods use, limits how many of each driver a node takes.
	attached []attachments
	limits   map[string]map[string]int32 // by node name and driver

	resources map[corev1.ResourceName]int // place in alloc and used
	lacks     []string                    // what to say of a node without enough, by place
	alloc     [][]int64                   // [resource][slot]
	used      [][]int64
	// usedScore counts cpu and memory with a small request assumed where a pod has none: see class.score.
	usedScore [2][]int64
	// share is what one unit of cpu and memory is of all that the node has; 0 where it has none.
	share [2][]float64

	labels     labelIndex
	topologies map[string]*topology
	images     images
	reaches    reaches
	// taints holds each different set of taints once: nodes have few, and a pod tolerates a set or not.
	taints    []taintSet
	taintSets map[string]int32
	placed    map[types.UID]*placed
	// byNode holds the pods of each node by name, of nodes that are not there (yet) too.
	byNode map[string]map[types.UID]*placed
	// claims counts the pods that use each claim, "namespace/name", of those with a node.
	claims map[string]int32

	// What pods say of each other: see kin.go. namespaces are the labels of each.
	kins       map[string]*kin
	peers      map[string]*peers
	rules      map[string]*rule
	byAge      []*rule // of rules, and some that are gone: dead of them
	dead       int
	lastRule   uint64
	namespaces map[string]labels.Set
	// Scratch.
	buf   []byte
	words []string

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
	kin      *kin
	priority int32
	assumed  bool
	// victim is set once the scheduler has asked for the pod to be deleted.
	victim bool
	pod    *corev1.Pod
	// rules are those of its class, while it is placed.
	rules []*rule
	// attaches are the volumes that its node has to attach.
	attaches []attachment
}

func newColumns() *columns {
	c := &columns{
		slots:      map[string]int32{},
		limits:     map[string]map[string]int32{},
		resources:  map[corev1.ResourceName]int{},
		labels:     labelIndex{slots: map[string]map[string][]int32{}},
		topologies: map[string]*topology{},
		images:     images{on: map[string][]imageOn{}},
		taintSets:  map[string]int32{},
		placed:     map[types.UID]*placed{},
		byNode:     map[string]map[types.UID]*placed{},
		claims:     map[string]int32{},
		kins:       map[string]*kin{},
		peers:      map[string]*peers{},
		rules:      map[string]*rule{},
		namespaces: map[string]labels.Set{},
		nominated:  map[types.UID]*placed{},
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
	c.lacks = append(c.lacks, "Insufficient "+string(name))
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

// setNode adds or updates a node. It tells whether the node may take pods now that it did not before, and whether its labels
// changed, on which the domains depend.
func (c *columns) setNode(n *corev1.Node) (better, moved bool) {
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
		better, moved = true, true
	}
	if !known || !sameImages(before.Status.Images, n.Status.Images) {
		if known {
			c.images.remove(i, before.Status.Images)
		}
		c.images.add(i, n.Status.Images)
	}
	if !known {
		for _, p := range c.byNode[n.Name] {
			c.count(i, p, 1)
		}
	}
	return better, moved
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
	c.taint = append(c.taint, 0)
	c.ports = append(c.ports, nil)
	c.disks = append(c.disks, nil)
	c.attached = append(c.attached, attachments{})
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
	c.images.remove(i, c.nodes[i].Status.Images)
	delete(c.slots, name)
	c.nodes[i], c.ports[i], c.disks[i], c.attached[i] = nil, nil, nil, attachments{}
	for r := range c.alloc {
		c.alloc[r][i] = 0
	}
	c.free = append(c.free, i)
}

// place makes a pod take its room.
func (c *columns) place(p *placed) {
	p.rules = c.hold(p.class.holds)
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

// remove gives a pod's room back, and returns what had it, if anything.
func (c *columns) remove(uid types.UID) *placed {
	p := c.placed[uid]
	if p == nil {
		return nil
	}
	delete(c.placed, uid)
	delete(c.byNode[p.node], uid)
	if len(c.byNode[p.node]) == 0 {
		delete(c.byNode, p.node)
	}
	if i, ok := c.slots[p.node]; ok {
		c.count(i, p, -1)
	}
	c.release(p.rules)
	p.rules = nil
	return p
}

// count adds a pod to, or takes it off, all counters of a slot.
func (c *columns) count(i int32, p *placed, sign int64) {
	c.load(i, p, sign)
	if sign > 0 {
		p.kin = c.adopt(p.kin)
	}
	p.kin.here.add(i, int32(sign))
	for _, of := range p.kin.members {
		of.add(i, int32(sign))
	}
	for _, r := range p.rules {
		r.add(i, int32(sign))
	}
}

// load adds a pod to, or takes it off, what a slot's node has to bear.
func (c *columns) load(i int32, p *placed, sign int64) {
	for _, a := range p.class.requests {
		c.used[a.resource][i] += sign * a.value
	}
	c.used[pods][i] += sign
	for r := range c.usedScore {
		c.usedScore[r][i] += sign * p.class.score[r]
	}
	if sign > 0 {
		c.ports[i] = append(c.ports[i], p.class.ports...)
		c.disks[i] = append(c.disks[i], p.class.disks...)
	} else {
		c.ports[i] = without(c.ports[i], p.class.ports)
		c.disks[i] = without(c.disks[i], p.class.disks)
	}
	for _, a := range p.attaches {
		c.attached[i].count(a, int32(sign))
	}
	for _, claim := range p.class.claims {
		if c.claims[claim] += int32(sign); c.claims[claim] == 0 {
			delete(c.claims, claim)
		}
	}
}

// without takes each of the gone once off a list.
func without[T comparable](list, gone []T) []T {
	for _, g := range gone {
		if at := slices.Index(list, g); at >= 0 {
			list = slices.Delete(list, at, at+1)
		}
	}
	return list
}
