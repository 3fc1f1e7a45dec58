package lifecycle

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// ResourceInodes is what a node may be short of beside memory and ephemeral storage.
const ResourceInodes corev1.ResourceName = "inodes"

// evictionGrace is what an evicted pod's containers get, in seconds: upstream's for hard thresholds and for limits of disk.
const evictionGrace = 1

// systemCritical is the priority from which a pod is never evicted by its node (system-node-critical and system-cluster-critical).
const systemCritical = 2_000_000_000

// Usage is what a pod was found to use of its node, in bytes and inodes.
type Usage struct {
	// Containers by name.
	Containers map[string]ContainerUsage
	// Volumes holds what its volumes on the node's disk take, by name.
	Volumes map[string]int64
	// Inodes of all of that together.
	Inodes int64
}

// ContainerUsage is a container's part. Disk is what it wrote outside of volumes, and its logs.
type ContainerUsage struct{ Memory, Disk int64 }

// of sums the pod up.
func (u *Usage) of(name corev1.ResourceName) (sum int64) {
	switch name {
	case corev1.ResourceMemory:
		for _, c := range u.Containers {
			sum += c.Memory
		}
	case corev1.ResourceEphemeralStorage:
		for _, c := range u.Containers {
			sum += c.Disk
		}
		for _, v := range u.Volumes {
			sum += v
		}
	case ResourceInodes:
		sum = u.Inodes
	}
	return sum
}

// DiskLimits says what a pod must be measured for: whether any of its volumes of type emptyDir on disk has a size limit, and whether
// it or one of its containers has a limit of ephemeral storage.
func DiskLimits(pod *corev1.Pod) (volumes, storage bool) {
	for i := range pod.Spec.Volumes {
		volumes = volumes || sizeLimit(&pod.Spec.Volumes[i]) != nil
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			_, limited := list[i].Resources.Limits[corev1.ResourceEphemeralStorage]
			storage = storage || limited
		}
	}
	return volumes, storage
}

// sizeLimit is that of an emptyDir on disk, or nil. One in memory is a file system of that size.
func sizeLimit(v *corev1.Volume) *resource.Quantity {
	if e := v.EmptyDir; e != nil && e.Medium == corev1.StorageMediumDefault && e.SizeLimit != nil && e.SizeLimit.Sign() > 0 {
		return e.SizeLimit
	}
	return nil
}

// OverLimit returns the end of a pod that uses more of the disk than one of its limits allows, or nil. The texts are upstream's.
func OverLimit(pod *corev1.Pod, u *Usage) *Verdict {
	if critical(pod) {
		return nil
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if limit := sizeLimit(v); limit != nil && u.Volumes[v.Name] > limit.Value() {
			return evicted("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String())
		}
	}
	if limit, ok := Limits(pod)[corev1.ResourceEphemeralStorage]; ok && u.of(corev1.ResourceEphemeralStorage) > limit.Value() {
		return evicted("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			if limit, ok := c.Resources.Limits[corev1.ResourceEphemeralStorage]; ok && u.Containers[c.Name].Disk > limit.Value() {
				return evicted("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())
			}
		}
	}
	return nil
}

func evicted(format string, args ...any) *Verdict {
	return &Verdict{Reason: "Evicted", Message: fmt.Sprintf(format, args...), Evicted: true}
}

func critical(pod *corev1.Pod) bool {
	return pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical
}

// Candidate is a pod that may have to go for others; Usage is nil when it could not be measured.
type Candidate struct {
	Pod   *corev1.Pod
	Usage *Usage
}

// Rank puts those that go first first, and leaves out those that never go: what was not measured, what uses more than it
// requested, what has the lower priority, what uses most beyond its requests; upstream's order.
func Rank(pods []Candidate, short corev1.ResourceName) []Candidate {
	over := func(c Candidate) int64 {
		if c.Usage == nil {
			return 0
		}
		request := Requests(c.Pod)[short] // none for inodes
		return c.Usage.of(short) - request.Value()
	}
	priority := func(c Candidate) int32 {
		if p := c.Pod.Spec.Priority; p != nil {
			return *p
		}
		return 0
	}
	first := func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	}
	out := slices.DeleteFunc(slices.Clone(pods), func(c Candidate) bool { return critical(c.Pod) })
	slices.SortStableFunc(out, func(a, b Candidate) int {
		return cmp.Or(first(a.Usage == nil, b.Usage == nil), first(over(a) > 0, over(b) > 0),
			cmp.Compare(priority(a), priority(b)), cmp.Compare(over(b), over(a)))
	})
	return out
}

// NodeLow returns the end of a pod for a resource that its node is short of. threshold and available are the node's.
func NodeLow(c Candidate, short corev1.ResourceName, threshold, available resource.Quantity) *Verdict {
	v := evicted("The node was low on resource: %v. Threshold quantity: %v, available: %v. ", short, threshold.String(), available.String())
	if c.Usage == nil || short == ResourceInodes {
		return v
	}
	for _, list := range [][]corev1.Container{c.Pod.Spec.InitContainers, c.Pod.Spec.Containers} {
		for i := range list {
			used, ok := c.Usage.Containers[list[i].Name]
			if !ok {
				continue
			}
			amount := used.Memory
			if short == corev1.ResourceEphemeralStorage {
				amount = used.Disk
			}
			if request := list[i].Resources.Requests[short]; amount > request.Value() {
				v.Message += fmt.Sprintf("Container %s was using %s, request is %s, has larger consumption of %v. ",
					list[i].Name, resource.NewQuantity(amount, resource.BinarySI), request.String(), short)
			}
		}
	}
	return v
}

// AdmitUnder returns nil when a node under the given pressure takes a new pod: always a critical one, and under pressure of memory
// alone those that have requests or tolerate it.
func AdmitUnder(pod *corev1.Pod, pressure []corev1.NodeConditionType) *Verdict {
	if len(pressure) == 0 || critical(pod) {
		return nil
	}
	if len(pressure) == 1 && pressure[0] == corev1.NodeMemoryPressure {
		taint := corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}
		if QOS(pod) != corev1.PodQOSBestEffort || tolerated(pod, &taint) {
			return nil
		}
	}
	return &Verdict{Reason: "Evicted", Message: fmt.Sprintf("Pod was rejected: The node had condition: %v. ", pressure)}
}
