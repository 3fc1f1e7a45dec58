package workloads

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/controller"
)

// daemonPlan is the next step of a DaemonSet.
type daemonPlan struct {
	create   []string // nodes
	remove   []*corev1.Pod
	finished []*corev1.Pod // those of remove that have run to their end
	status   appsv1.DaemonSetStatus
	again    time.Duration
}

// daemonNode is a node with the set's pods on it, or meant for it.
type daemonNode struct {
	name        string
	run, remain bool          // should run there; may go on running there
	pods        []*corev1.Pod // not being deleted, bound ones first, then the oldest first
	ending      int           // being deleted
}

// daemonPlanner holds what the parts of the plan share.
type daemonPlanner struct {
	*daemonPlan
	ds    *appsv1.DaemonSet
	hash  string
	nodes []*daemonNode
	now   time.Time
}

// planDaemons decides the next step. pause says how long a failed pod must stay.
func planDaemons(ds *appsv1.DaemonSet, hash string, nodes []*corev1.Node, pods []*corev1.Pod, pause func(node string, pod *corev1.Pod) time.Duration, now time.Time) *daemonPlan {
	p := &daemonPlanner{daemonPlan: &daemonPlan{}, ds: ds, hash: hash, now: now}
	strays := p.place(nodes, pods)
	p.count()
	if ds.DeletionTimestamp != nil {
		return p.daemonPlan
	}
	p.remove = strays
	for _, n := range p.nodes {
		p.manage(n, pause)
	}
	if ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		surge, unavailable := daemonLimits(ds, p.status.DesiredNumberScheduled)
		if surge > 0 {
			p.rollSurging(surge)
		} else {
			p.roll(unavailable)
		}
	}
	slices.Sort(p.create)
	p.create = p.create[:min(len(p.create), burstDaemons)]
	p.remove = p.remove[:min(len(p.remove), burstDaemons)]
	return p.daemonPlan
}

// place sorts the pods by node, and returns those meant for nodes that do not exist.
func (p *daemonPlanner) place(nodes []*corev1.Node, pods []*corev1.Pod) (strays []*corev1.Pod) {
	fits := newDaemonFit(p.ds)
	byName := make(map[string]*daemonNode, len(nodes))
	for _, node := range nodes {
		n := &daemonNode{name: node.Name}
		n.run, n.remain = fits.on(node)
		byName[node.Name] = n
		p.nodes = append(p.nodes, n)
	}
	for _, pod := range pods {
		n := byName[nodeOf(pod)]
		switch {
		case n == nil:
			// A bound pod of a node that is gone is the pod collector's.
			if pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
				strays = append(strays, pod)
			}
		case pod.DeletionTimestamp != nil:
			n.ending++
		default:
			n.pods = append(n.pods, pod)
		}
	}
	for _, n := range p.nodes {
		slices.SortFunc(n.pods, func(a, b *corev1.Pod) int {
			return cmp.Or(cmp.Compare(one(b.Spec.NodeName != ""), one(a.Spec.NodeName != "")), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
	}
	return strays
}

// updated says whether a pod is of today's template.
func (p *daemonPlanner) updated(pod *corev1.Pod) bool {
	return pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == p.hash
}

func (p *daemonPlanner) available(pod *corev1.Pod) bool {
	ok, wait := controller.PodAvailable(pod, p.ds.Spec.MinReadySeconds, p.now)
	p.again = controller.Sooner(p.again, wait)
	return ok
}

// manage puts a pod on a node that should have one, and takes off what should not be there.
func (p *daemonPlanner) manage(n *daemonNode, pause func(string, *corev1.Pod) time.Duration) {
	if !n.remain {
		p.remove = append(p.remove, n.pods...)
		return
	}
	var running []*corev1.Pod
	for _, pod := range n.pods {
		if !controller.PodFinished(pod) {
			running = append(running, pod)
			continue
		}
		if pod.Status.Phase == corev1.PodFailed {
			if wait := pause(n.name, pod); wait > 0 {
				p.again = controller.Sooner(p.again, wait)
				continue
			}
		}
		p.remove = append(p.remove, pod)
		p.finished = append(p.finished, pod)
	}
	switch {
	case n.run && len(n.pods) == 0 && n.ending == 0:
		p.create = append(p.create, n.name)
	case len(running) > 1 && !p.surges():
		p.remove = append(p.remove, running[1:]...)
	case len(running) > 1:
		p.thinSurge(running)
	}
	n.pods = running
}

func (p *daemonPlanner) surges() bool {
	surge, _ := daemonLimits(p.ds, int32(len(p.nodes)))
	return surge > 0 && p.ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType
}

// thinSurge leaves at most one old and one new pod on a node.
func (p *daemonPlanner) thinSurge(running []*corev1.Pod) {
	seen := map[bool]bool{}
	for _, pod := range running {
		if u := p.updated(pod); seen[u] {
			p.remove = append(p.remove, pod)
		} else {
			seen[u] = true
		}
	}
}

// oldAndNew returns a node's pod of today's template and its pod of an older one.
func (p *daemonPlanner) oldAndNew(n *daemonNode) (older, newer *corev1.Pod) {
	for _, pod := range n.pods {
		if p.updated(pod) {
			newer = pod
		} else {
			older = pod
		}
	}
	return older, newer
}

// roll deletes old pods: those that are not available anyway, and others as far as the limit allows.
func (p *daemonPlanner) roll(limit int) {
	var ready []*corev1.Pod
	down := 0
	for _, n := range p.nodes {
		if !n.run {
			continue
		}
		older, newer := p.oldAndNew(n)
		switch {
		case older == nil && newer == nil:
			down++
		case newer != nil:
			if !p.available(newer) {
				down++
			}
		case !p.available(older):
			p.remove = append(p.remove, older)
			down++
		default:
			ready = append(ready, older)
		}
	}
	p.remove = append(p.remove, ready[:max(0, min(len(ready), limit-down))]...)
}

// rollSurging makes new pods beside the old ones, and deletes an old one when the new one beside it is available, or when it
// is not available itself.
func (p *daemonPlanner) rollSurging(limit int) {
	surging := 0
	var waiting []string
	for _, n := range p.nodes {
		if !n.run {
			continue
		}
		older, newer := p.oldAndNew(n)
		switch {
		case older == nil:
		case newer == nil && !p.available(older):
			p.remove = append(p.remove, older)
		case newer == nil:
			waiting = append(waiting, n.name)
		case p.available(newer):
			p.remove = append(p.remove, older)
		default:
			surging++
		}
	}
	slices.Sort(waiting)
	p.create = append(p.create, waiting[:max(0, min(len(waiting), limit-surging))]...)
}

// daemonLimits resolves maxSurge and maxUnavailable for a number of nodes; both are rounded up. One of them is never 0.
func daemonLimits(ds *appsv1.DaemonSet, nodes int32) (surge, unavailable int) {
	r := ds.Spec.UpdateStrategy.RollingUpdate
	if r == nil {
		return 0, 1
	}
	surge, _ = intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(r.MaxSurge, intstr.FromInt32(0))), int(nodes), true)
	unavailable, _ = intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(r.MaxUnavailable, intstr.FromInt32(1))), int(nodes), true)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

// count computes the status from the pods that are there.
func (p *daemonPlanner) count() {
	s := &p.status
	for _, n := range p.nodes {
		scheduled := len(n.pods)+n.ending > 0
		if !n.run {
			if scheduled {
				s.NumberMisscheduled++
			}
			continue
		}
		s.DesiredNumberScheduled++
		if scheduled {
			s.CurrentNumberScheduled++
		}
		var ready, available, updated bool
		for _, pod := range n.pods {
			if controller.PodReady(pod) {
				ready = true
				available = available || p.available(pod)
			}
			updated = updated || p.updated(pod)
		}
		s.NumberReady += one(ready)
		s.NumberAvailable += one(available)
		s.UpdatedNumberScheduled += one(updated)
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	s.ObservedGeneration = p.ds.Generation
	s.CollisionCount = p.ds.Status.CollisionCount
	s.Conditions = p.ds.Status.Conditions
}

func one(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// daemonFit says on which nodes a DaemonSet runs.
type daemonFit struct {
	nodeName    string
	affinity    nodeaffinity.RequiredNodeAffinity
	tolerations []corev1.Toleration
}

func newDaemonFit(ds *appsv1.DaemonSet) *daemonFit {
	spec := ds.Spec.Template.Spec.DeepCopy()
	return &daemonFit{
		nodeName:    spec.NodeName,
		affinity:    nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity),
		tolerations: daemonTolerations(spec),
	}
}

// on says whether a pod should be on the node, and whether one that is there may stay: taints of effect NoSchedule only keep new pods
// away.
func (f *daemonFit) on(node *corev1.Node) (run, remain bool) {
	if f.nodeName != "" && f.nodeName != node.Name {
		return false, false
	}
	if ok, err := f.affinity.Match(node); err != nil || !ok {
		return false, false
	}
	run, remain = true, true
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule || f.tolerates(t) {
			continue
		}
		run = false
		if t.Effect == corev1.TaintEffectNoExecute {
			remain = false
		}
	}
	return run, remain
}

func (f *daemonFit) tolerates(t *corev1.Taint) bool {
	for i := range f.tolerations {
		if f.tolerations[i].ToleratesTaint(klog.Background(), t, true) {
			return true
		}
	}
	return false
}
