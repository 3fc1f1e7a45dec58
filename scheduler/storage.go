package scheduler

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// storage is what the volumes of a pod ask of its node, as of one attempt to place it.
type storage struct {
	// lost: a claim is bound to a volume that is not there.
	lost bool
	// within are the nodes that can reach the bound volumes, zone those with the labels of the volumes' zones; nil for all.
	within, zone bitset
	// once are the claims that one pod alone may use.
	once []string
	// attaches are the volumes that a driver has to attach.
	attaches []attachment
	// wishes are claims that are to be bound once the node is known, smallest first.
	wishes []wish
}

// wish is a claim that waits for its pod's node.
type wish struct {
	claim *corev1.PersistentVolumeClaim
	// offers are volumes that it may be bound to, best first.
	offers []offer
	// made tells that a volume can be made for it, on the nodes of reach (nil for all), of which spare can hold it.
	made         bool
	reach, spare bitset
}

type offer struct {
	volume *corev1.PersistentVolume
	within bitset // nil for all nodes
}

// promise is what a pod's claim gets with a node: a volume that is there, or with nil one that is to be made.
type promise struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
}

func allows(set bitset, i int32) bool { return set == nil || set.has(i) }

// claimTaken: a claim for one pod alone has its pod. (Wherever that is: the volume is on no second node either.)
func claimTaken(r *run, n *columns, _ int32) bool {
	return slices.ContainsFunc(r.storage.once, func(claim string) bool { return n.claims[claim] > 0 })
}

func wrongZone(r *run, _ *columns, i int32) bool { return !allows(r.storage.zone, i) }

func unbindable(r *run, _ *columns, i int32) bool {
	s := r.storage
	if s.lost || !allows(s.within, i) {
		return true
	}
	if len(s.wishes) == 0 {
		return false
	}
	_, want, short := s.promises(i)
	return want || short
}

func explainUnbindable(r *run, _ *columns, i int32) []string {
	var out []string
	s := r.storage
	if s.lost {
		out = append(out, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
	}
	if !allows(s.within, i) {
		out = append(out, "node(s) had volume node affinity conflict")
	}
	switch _, want, short := s.promises(i); {
	case want:
		out = append(out, "node(s) didn't find available persistent volumes to bind")
	case short:
		out = append(out, "node(s) did not have enough free storage")
	}
	return out
}

// promises finds a volume for each claim that waits, as things are for one node. want tells that one has none, short that one
// could be made but for the room.
func (s *storage) promises(i int32) (out []promise, want, short bool) {
	for w := range s.wishes {
		wish := &s.wishes[w]
		at := slices.IndexFunc(wish.offers, func(o offer) bool {
			return allows(o.within, i) && !slices.ContainsFunc(out, func(p promise) bool { return p.volume == o.volume })
		})
		switch {
		case at >= 0:
			out = append(out, promise{wish.claim, wish.offers[at].volume})
		case !wish.made || !allows(wish.reach, i):
			want = true
		case !allows(wish.spare, i):
			short = true
		default:
			out = append(out, promise{claim: wish.claim})
		}
	}
	return out, want, short
}

// attachment is a volume that a driver has to attach to a pod's node: known by the claim, which stays when it is bound.
type attachment struct{ driver, claim string }

// attachments are those of one node.
type attachments struct {
	pods map[attachment]int32 // how many pods use each
	// drivers counts the different ones of each driver.
	drivers map[string]int32
}

func (a *attachments) count(x attachment, by int32) {
	if a.pods == nil {
		a.pods, a.drivers = map[attachment]int32{}, map[string]int32{}
	}
	before := a.pods[x]
	switch after := before + by; {
	case after == 0:
		delete(a.pods, x)
		a.drivers[x.driver]--
	case before == 0:
		a.drivers[x.driver]++
		fallthrough
	default:
		a.pods[x] = after
	}
}

// tooManyVolumes: a driver would have to attach more to the node than it says it can.
func tooManyVolumes(r *run, n *columns, i int32) bool {
	limits := n.limits[n.nodes[i].Name]
	for at, x := range r.storage.attaches {
		limit, limited := limits[x.driver]
		if !limited || slices.ContainsFunc(r.storage.attaches[:at], func(y attachment) bool { return x.driver == y.driver }) {
			continue
		}
		total, fresh := n.attached[i].drivers[x.driver], int32(0)
		for _, y := range r.storage.attaches[at:] {
			if y.driver == x.driver && n.attached[i].pods[y] == 0 {
				fresh++
			}
		}
		if fresh > 0 && total+fresh > limit {
			return true
		}
	}
	return false
}

// disk is a volume that a pod names without a claim, of the kinds that must not be used from two pods of a node.
type disk struct {
	kind, name string
	readOnly   bool // does not collide with another that is
}

// diskTaken: a pod of the node uses the same disk, and not all only read.
func diskTaken(r *run, n *columns, i int32) bool {
	for _, want := range r.class.disks {
		for _, has := range n.disks[i] {
			if want.kind == has.kind && want.name == has.name && !(want.readOnly && has.readOnly) {
				return true
			}
		}
	}
	return false
}

func disksOf(spec *corev1.PodSpec) []disk {
	var out []disk
	for i := range spec.Volumes {
		v := &spec.Volumes[i]
		switch {
		case v.GCEPersistentDisk != nil:
			out = append(out, disk{"gce", v.GCEPersistentDisk.PDName, v.GCEPersistentDisk.ReadOnly})
		case v.AWSElasticBlockStore != nil:
			out = append(out, disk{"aws", v.AWSElasticBlockStore.VolumeID, false})
		case v.ISCSI != nil:
			out = append(out, disk{"iscsi", v.ISCSI.IQN, v.ISCSI.ReadOnly})
		case v.RBD != nil:
			for _, monitor := range v.RBD.CephMonitors {
				name := string(appendText(appendText([]byte(monitor), v.RBD.RBDPool), v.RBD.RBDImage))
				out = append(out, disk{"rbd", name, v.RBD.ReadOnly})
			}
		}
	}
	return out
}

// claimName is the name of the claim behind a pod's volume; "" without one.
func claimName(p *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return p.Name + "-" + v.Name
	}
	return ""
}

// claimsOf returns the claims of a pod, "namespace/name".
func claimsOf(p *corev1.Pod) []string {
	var out []string
	for i := range p.Spec.Volumes {
		if name := claimName(p, &p.Spec.Volumes[i]); name != "" && !slices.Contains(out, p.Namespace+"/"+name) {
			out = append(out, p.Namespace+"/"+name)
		}
	}
	return out
}

// setLimits takes in how many volumes of each driver a node takes; nil when it does not say.
func (c *columns) setLimits(node string, limits map[string]int32) {
	if c.limits[node] = limits; limits == nil {
		delete(c.limits, node)
	}
}

// smallest orders volumes for a claim: those reserved for it, then the smallest, by name among equals.
func smallest(a, b offer) int {
	reserved := func(o offer) int {
		if o.volume.Spec.ClaimRef != nil {
			return 0
		}
		return 1
	}
	x, y := a.volume.Spec.Capacity[corev1.ResourceStorage], b.volume.Spec.Capacity[corev1.ResourceStorage]
	return cmp.Or(reserved(a)-reserved(b), x.Cmp(y), cmp.Compare(a.volume.Name, b.volume.Name))
}
