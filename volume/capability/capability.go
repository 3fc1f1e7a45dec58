// Package capability words what a claim wants of a volume as CSI does. The node's side of CSI and the controllers of volumes
// import it.
package capability

import (
	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
)

// modes translates access modes. ReadWriteOncePod is held by the scheduler and the node agent; a driver that does not know
// CSI's finer modes for one node would refuse them.
var modes = map[corev1.PersistentVolumeAccessMode]csi.VolumeCapability_AccessMode_Mode{
	corev1.ReadWriteOnce:    csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
	corev1.ReadWriteOncePod: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
	corev1.ReadOnlyMany:     csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY,
	corev1.ReadWriteMany:    csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER,
}

// Of returns one capability for each access mode. A nil volume mode means Filesystem.
func Of(access []corev1.PersistentVolumeAccessMode, mode *corev1.PersistentVolumeMode, fsType string, mountFlags []string) []*csi.VolumeCapability {
	out := make([]*csi.VolumeCapability, 0, len(access))
	for _, a := range access {
		c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: modes[a]}}
		if mode != nil && *mode == corev1.PersistentVolumeBlock {
			c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		} else {
			c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType, MountFlags: mountFlags}}
		}
		out = append(out, c)
	}
	return out
}

// One returns the capability by which a volume is attached and mounted: that of the widest of its access modes.
func One(access []corev1.PersistentVolumeAccessMode, mode *corev1.PersistentVolumeMode, fsType string, mountFlags []string) *csi.VolumeCapability {
	widest := corev1.ReadWriteOnce
	for _, a := range []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod, corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany} {
		for _, has := range access {
			if has == a {
				widest = a
			}
		}
	}
	return Of([]corev1.PersistentVolumeAccessMode{widest}, mode, fsType, mountFlags)[0]
}
