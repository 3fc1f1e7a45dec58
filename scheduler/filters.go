package scheduler

// filter is one reason why a node cannot take a pod.
type filter struct {
	name string
	// concerns tells whether it can refuse pods of a run at all; nil: always.
	concerns func(r *run) bool
	// refuses tells whether the node in slot i cannot take a pod of the run.
	refuses func(r *run, n *columns, i int32) bool
	// explain returns the reasons, in upstream's words, once refuses is true.
	explain func(r *run, n *columns, i int32) []string
	// mends tells, once refuses is true, whether pods that leave the node could change that; nil: never.
	mends func(r *run, n *columns, i int32) bool
	// afar: pods on other nodes matter too.
	afar bool
	// volumes: what the pod's volumes are decides.
	volumes bool
}

func says(text string) func(*run, *columns, int32) []string {
	out := []string{text}
	return func(*run, *columns, int32) []string { return out }
}

func always(*run, *columns, int32) bool { return true }

// filters is the table of all filters, in the order in which they are asked: the first that refuses a node explains it. The
// order is upstream's, and so are the words. (A pod with spec.nodeName is never asked about: it has its node.)
func filters() []filter {
	hasStorage := func(r *run) bool { return r.storage != nil }
	return []filter{
		{name: "NodeUnschedulable", refuses: unschedulable, explain: says("node(s) were unschedulable")},
		{name: "TaintToleration", refuses: tainted, explain: says("node(s) had untolerated taint(s)")},
		{name: "NodeAffinity", refuses: unmatched, explain: says("node(s) didn't match Pod's node affinity/selector"),
			concerns: func(r *run) bool { return r.class.admitted != nil }},
		{name: "NodePorts", refuses: portsTaken, explain: says("node(s) didn't have free ports for the requested pod ports"), mends: always,
			concerns: func(r *run) bool { return len(r.class.ports) > 0 }},
		{name: "NodeResourcesFit", refuses: full, explain: lacking, mends: emptied},
		{name: "VolumeRestrictions", refuses: diskTaken, explain: says("node(s) had no available disk"), mends: always, volumes: true,
			concerns: func(r *run) bool { return len(r.class.disks) > 0 }},
		{name: "VolumeRestrictions", refuses: claimTaken, explain: says("node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"),
			mends: always, volumes: true, concerns: hasStorage},
		{name: "NodeVolumeLimits", refuses: tooManyVolumes, explain: says("node(s) exceed max volume count"), mends: always, volumes: true, concerns: hasStorage},
		{name: "VolumeBinding", refuses: unbindable, explain: explainUnbindable, volumes: true, concerns: hasStorage},
		{name: "VolumeZone", refuses: wrongZone, explain: says("node(s) had no available volume zone"), volumes: true, concerns: hasStorage},
		{name: "PodTopologySpread", refuses: crowded, explain: explainCrowded, mends: func(r *run, n *columns, i int32) bool { return !r.lacksKey(i) }, afar: true,
			concerns: func(r *run) bool { return len(r.hard) > 0 }},
		{name: "InterPodAffinity", refuses: alone, explain: says("node(s) didn't match pod affinity rules"), afar: true,
			concerns: func(r *run) bool { return len(r.together) > 0 }},
		{name: "InterPodAffinity", refuses: tooClose, explain: says("node(s) didn't match pod anti-affinity rules"), mends: always, afar: true,
			concerns: func(r *run) bool { return len(r.apart) > 0 }},
		{name: "InterPodAffinity", refuses: repelled, explain: says("node(s) didn't satisfy existing pods anti-affinity rules"), mends: always, afar: true,
			concerns: func(r *run) bool { return len(r.repelled) > 0 }},
	}
}

func unschedulable(r *run, n *columns, i int32) bool {
	return r.class.verdicts[n.taint[i]].unschedulable
}

func tainted(r *run, n *columns, i int32) bool { return r.class.verdicts[n.taint[i]].untolerated }

func unmatched(r *run, _ *columns, i int32) bool { return !r.class.admitted.has(i) }

// portsTaken: a port on all addresses collides with the same port on any.
func portsTaken(r *run, n *columns, i int32) bool {
	for _, want := range r.class.ports {
		for _, has := range n.ports[i] {
			if want.port == has.port && want.protocol == has.protocol && (want.ip == has.ip || want.ip == "" || has.ip == "") {
				return true
			}
		}
	}
	return false
}

func full(r *run, n *columns, i int32) bool {
	if n.used[pods][i]+1 > n.alloc[pods][i] {
		return true
	}
	for _, want := range r.class.requests {
		if n.used[want.resource][i]+want.value > n.alloc[want.resource][i] {
			return true
		}
	}
	return false
}

func lacking(r *run, n *columns, i int32) []string {
	var out []string
	if n.used[pods][i]+1 > n.alloc[pods][i] {
		out = append(out, "Too many pods")
	}
	for _, want := range r.class.requests {
		if n.used[want.resource][i]+want.value > n.alloc[want.resource][i] {
			out = append(out, n.lacks[want.resource])
		}
	}
	return out
}

// emptied: without any pods, the node would have what is asked for.
func emptied(r *run, n *columns, i int32) bool {
	for _, want := range r.class.requests {
		if want.value > n.alloc[want.resource][i] {
			return false
		}
	}
	return true
}
