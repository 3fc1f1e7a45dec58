package scheduler

import (
	"encoding/binary"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/klog/v2"
)

// class is all that filters and scores look at of a pod. Pods with equal specs share one, which is what lets them be
// placed as one run, and lets what was found out about a node once serve them all.
type class struct {
	key      string
	requests []request
	// score is what the pod counts for in cpu and memory when nodes are compared: its requests, with the assumptions below.
	score [2]int64
	// bestEffort pods ask for nothing; balance is no matter of theirs.
	bestEffort bool
	ports      []hostPort
	// only, when not nil, are the names of the only nodes that its affinity admits.
	only        []string
	tolerations []corev1.Toleration
	selector    map[string]string
	required    *corev1.NodeSelector
	preferred   []corev1.PreferredSchedulingTerm
	podAffinity
	// rules are its topology spread constraints.
	rules []spreadRule
	// claims are the volumes that it asks for by claim, "namespace/name"; disks are those that it names itself.
	claims []string
	disks  []disk
	// images are the names of the images that its node needs.
	images []string

	// What follows from the nodes' labels, as of an epoch of theirs; see prepare.
	epoch    uint64
	admitted bitset    // nil for all
	prefer   []float64 // sum of the weights of preferred terms; nil for none
	// verdicts holds what the class says of each set of taints.
	verdicts []verdict
	// local is the score of each slot for the images that it has, as of an epoch of them; nil when none has any.
	local      []float64
	imageEpoch uint64
}

// verdict is what a pod makes of a set of taints.
type verdict struct {
	unschedulable, untolerated bool
	// soft is the number of PreferNoSchedule taints that it does not tolerate.
	soft float64
}

type request struct {
	resource int
	value    int64
}

// hostPort is a port of the node itself. ip is empty for all addresses.
type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

// What a container without requests counts for when nodes are compared, so that many of them do not pile up on one node. The numbers are upstream's.
const (
	assumedCPU    = 100               // millicores
	assumedMemory = 200 * 1024 * 1024 // bytes
)

// maxClasses bounds the cache of classes; when it is full of old ones it starts anew.
const maxClasses = 4096

// classes finds the class of a pod.
type classes struct {
	columns *columns
	known   map[string]*class
	buf     []byte
	assumed corev1.ResourceList
}

func newClasses(c *columns) *classes {
	return &classes{columns: c, known: map[string]*class{}, assumed: corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(assumedCPU, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(assumedMemory, resource.DecimalSI),
	}}
}

// of returns the class of a pod. running pods count with what their node granted them, which a resize may have changed.
func (s *classes) of(pod *corev1.Pod) *class {
	running := pod.Spec.NodeName != ""
	opts := resourcehelper.PodResourcesOptions{UseStatusResources: running, InPlacePodLevelResourcesVerticalScalingEnabled: running}
	requests := s.requests(resourcehelper.PodRequests(pod, opts))
	opts.NonMissingContainerRequests = s.assumed
	scored := resourcehelper.PodRequests(pod, opts)
	score := [2]int64{amount(corev1.ResourceCPU, scored), amount(corev1.ResourceMemory, scored)}
	ports := hostPorts(&pod.Spec)
	s.encode(pod, requests, score, ports)
	if c, ok := s.known[string(s.buf)]; ok {
		return c
	}
	c := &class{key: string(s.buf), requests: requests, score: score, ports: ports}
	c.bestEffort = !slices.ContainsFunc(requests, func(r request) bool { return r.resource == cpu || r.resource == memory })
	c.podAffinity = podAffinityOf(pod)
	c.claims, c.disks = claimsOf(pod), disksOf(&pod.Spec)
	if !running {
		c.constrain(&pod.Spec)
		c.rules, c.images = spreadRules(pod), imagesOf(&pod.Spec)
	}
	if len(s.known) >= maxClasses {
		clear(s.known)
	}
	s.known[c.key] = c
	return c
}

func (s *classes) requests(list corev1.ResourceList) []request {
	out := make([]request, 0, len(list))
	for name := range list {
		if v := amount(name, list); v > 0 {
			out = append(out, request{s.columns.resource(name), v})
		}
	}
	slices.SortFunc(out, func(a, b request) int { return a.resource - b.resource })
	return out
}

// constrain takes in the rules on where the pod may run; they are of no matter once it does.
func (c *class) constrain(spec *corev1.PodSpec) {
	c.tolerations = spec.Tolerations
	c.selector = spec.NodeSelector
	if spec.Affinity == nil || spec.Affinity.NodeAffinity == nil {
		return
	}
	affinity := spec.Affinity.NodeAffinity
	c.required, c.preferred = affinity.RequiredDuringSchedulingIgnoredDuringExecution, affinity.PreferredDuringSchedulingIgnoredDuringExecution
	c.only = onlyNodes(c.required)
}

// prepare brings what the class says of nodes' labels and taints up to date with the columns.
func (c *class) prepare(n *columns) {
	for len(c.verdicts) < len(n.taints) {
		c.verdicts = append(c.verdicts, c.judge(&n.taints[len(c.verdicts)]))
	}
	c.match(n)
	if c.imageEpoch != n.images.epoch {
		c.imageEpoch, c.local = n.images.epoch, n.imageScores(c.images)
	}
}

// match finds the nodes that selectors and affinity admit and prefer.
func (c *class) match(n *columns) {
	if c.epoch == n.labels.epoch {
		return
	}
	c.epoch, c.admitted, c.prefer = n.labels.epoch, nil, nil
	if c.required != nil || len(c.selector) > 0 {
		c.admitted = n.admitted(c.selector, c.required)
	}
	if len(c.preferred) == 0 {
		return
	}
	c.prefer = make([]float64, len(n.nodes))
	for t := range c.preferred {
		met := n.term(&c.preferred[t].Preference)
		for i := range c.prefer {
			if met.has(int32(i)) {
				c.prefer[i] += float64(c.preferred[t].Weight)
			}
		}
	}
}

func (c *class) judge(s *taintSet) (v verdict) {
	v.unschedulable = s.unschedulable && !tolerates(c.tolerations, &corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	for t := range s.taints {
		switch {
		case tolerates(c.tolerations, &s.taints[t]):
		case s.taints[t].Effect == corev1.TaintEffectPreferNoSchedule:
			v.soft++
		default:
			v.untolerated = true
		}
	}
	return v
}

func tolerates(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	for t := range tolerations {
		if tolerations[t].ToleratesTaint(klog.Logger{}, taint, true) {
			return true
		}
	}
	return false
}

// onlyNodes returns the node names that an affinity is limited to, as those of daemon sets are, or nil. Terms are
// alternatives, so each of them must name nodes.
func onlyNodes(selector *corev1.NodeSelector) []string {
	if selector == nil {
		return nil
	}
	var only []string
	for _, term := range selector.NodeSelectorTerms {
		i := slices.IndexFunc(term.MatchFields, func(r corev1.NodeSelectorRequirement) bool {
			return r.Key == metav1.ObjectNameField && r.Operator == corev1.NodeSelectorOpIn
		})
		if i < 0 {
			return nil
		}
		for _, name := range term.MatchFields[i].Values {
			if !slices.Contains(only, name) {
				only = append(only, name)
			}
		}
	}
	return only
}

// hostPorts returns the node's ports that a pod takes.
func hostPorts(spec *corev1.PodSpec) []hostPort {
	var out []hostPort
	take := func(containers []corev1.Container) {
		for i := range containers {
			for _, p := range containers[i].Ports {
				if p.HostPort <= 0 {
					continue
				}
				taken := hostPort{p.HostIP, p.Protocol, p.HostPort}
				if taken.ip == "0.0.0.0" || taken.ip == "::" {
					taken.ip = ""
				}
				if taken.protocol == "" {
					taken.protocol = corev1.ProtocolTCP
				}
				out = append(out, taken)
			}
		}
	}
	take(spec.Containers)
	for i := range spec.InitContainers {
		// Those that run on beside the others hold their ports; ordinary ones are over by then.
		if p := spec.InitContainers[i].RestartPolicy; p != nil && *p == corev1.ContainerRestartPolicyAlways {
			take(spec.InitContainers[i : i+1])
		}
	}
	return out
}

// encode writes what makes a class into the buffer. All variable parts are preceded by their length, so that no two
// classes have the same text.
func (s *classes) encode(pod *corev1.Pod, requests []request, score [2]int64, ports []hostPort) {
	b := s.buf[:0]
	number := func(n int64) { b = binary.AppendVarint(b, n) }
	number(int64(len(requests)))
	for _, r := range requests {
		number(int64(r.resource))
		number(r.value)
	}
	number(score[0])
	number(score[1])
	number(int64(len(ports)))
	for _, p := range ports {
		b = appendText(appendText(b, p.ip), string(p.protocol))
		number(int64(p.port))
	}
	spec := &pod.Spec
	if spec.NodeName == "" {
		b = appendConstraints(append(b, 1), pod)
	}
	if a := spec.Affinity; a != nil && (a.PodAffinity != nil || a.PodAntiAffinity != nil) {
		b = appendText(append(b, 2), pod.Namespace)
		b = appendMessage(b, &corev1.Affinity{PodAffinity: a.PodAffinity, PodAntiAffinity: a.PodAntiAffinity})
	}
	b = appendVolumes(b, pod)
	s.buf = b
}

// appendConstraints writes what says where a pod that waits may go.
func appendConstraints(b []byte, pod *corev1.Pod) []byte {
	spec := &pod.Spec
	number := func(n int) { b = binary.AppendUvarint(b, uint64(n)) }
	number(len(spec.NodeSelector))
	for _, k := range slices.Sorted(maps.Keys(spec.NodeSelector)) {
		b = appendText(appendText(b, k), spec.NodeSelector[k])
	}
	number(len(spec.Tolerations))
	for i := range spec.Tolerations {
		t := &spec.Tolerations[i]
		b = appendText(appendText(appendText(appendText(b, t.Key), string(t.Operator)), t.Value), string(t.Effect))
	}
	if spec.Affinity != nil && spec.Affinity.NodeAffinity != nil {
		b = appendMessage(b, spec.Affinity.NodeAffinity)
	} else {
		number(0)
	}
	number(len(spec.TopologySpreadConstraints))
	if len(spec.TopologySpreadConstraints) > 0 {
		b = appendText(b, pod.Namespace)
	}
	for i := range spec.TopologySpreadConstraints {
		b = appendMessage(b, &spec.TopologySpreadConstraints[i])
	}
	for i := range spec.InitContainers {
		b = appendText(b, spec.InitContainers[i].Image)
	}
	number(0)
	for i := range spec.Containers {
		b = appendText(b, spec.Containers[i].Image)
	}
	number(0)
	return b
}

// appendVolumes writes what volumes ask of a node.
func appendVolumes(b []byte, pod *corev1.Pod) []byte {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil || v.Ephemeral != nil:
			b = appendText(appendText(append(b, 3), pod.Namespace), claimName(pod, v))
		case v.Image != nil:
			b = appendText(append(b, 4), v.Image.Reference)
		case v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.ISCSI != nil || v.RBD != nil:
			b = appendMessage(append(b, 5), v)
		}
	}
	return b
}

// appendMessage writes a part of a pod in its binary form.
func appendMessage(b []byte, m interface{ Marshal() ([]byte, error) }) []byte {
	text, err := m.Marshal()
	if err != nil {
		// What was decoded can be encoded; and what only differs in this would share its rules.
		panic("scheduler: " + err.Error())
	}
	return appendText(b, string(text))
}
