package volume

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// emptyDir makes a directory that all may write, on disk or in memory.
func (m *Mounter) emptyDir(pod *corev1.Pod, v *corev1.Volume) (Mounted, error) {
	dir := m.path(pod.UID, v)
	var err error
	switch v.EmptyDir.Medium {
	case corev1.StorageMediumDefault:
		err = makeDir(dir, 0o777)
	case corev1.StorageMediumMemory:
		err = m.tmpfs(dir, memorySize(pod, v.EmptyDir.SizeLimit, m.Objects.Allocatable()))
	default:
		err = fmt.Errorf("medium %q is not supported by this node", v.EmptyDir.Medium)
	}
	if group := fsGroup(pod); err == nil && group != nil {
		err = ownTree(dir, *group, false)
	}
	if err != nil {
		return Mounted{}, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
	}
	return Mounted{Path: dir}, nil
}

// memorySize bounds a volume in memory by the least of its own limit, the pod's memory limit and what the node can give.
func memorySize(pod *corev1.Pod, limit *resource.Quantity, allocatable corev1.ResourceList) int64 {
	memory := allocatable[corev1.ResourceMemory]
	size := memory.Value()
	if pod.Spec.Resources != nil {
		if q, ok := pod.Spec.Resources.Limits[corev1.ResourceMemory]; ok && (size == 0 || q.Value() < size) {
			size = q.Value()
		}
	}
	var sum int64
	bounded := true
	for _, c := range pod.Spec.Containers {
		q, ok := c.Resources.Limits[corev1.ResourceMemory]
		bounded = bounded && ok && !q.IsZero()
		sum += q.Value()
	}
	if bounded && (size == 0 || sum < size) {
		size = sum
	}
	if limit != nil && limit.Value() > 0 && (size == 0 || limit.Value() < size) {
		size = limit.Value()
	}
	return size
}
