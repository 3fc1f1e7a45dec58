package volume

import (
	"context"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// nfs mounts a share. The owner of its files is the server's to say: fsGroup does not apply.
func (m *Mounter) nfs(_ context.Context, r *Request) (Mounted, error) {
	var source *corev1.NFSVolumeSource
	if r.PV != nil {
		source = r.PV.Spec.NFS
	} else {
		source = r.Volume.NFS
	}
	mounted := Mounted{Path: r.Dir, ReadOnly: source.ReadOnly}
	there, err := m.mountPoint(r.Dir)
	if err != nil || there {
		return mounted, err
	}
	options := r.Options()
	if r.ReadOnly || source.ReadOnly {
		options = append(options, "ro")
	}
	server := source.Server
	if ip, err := netip.ParseAddr(strings.Trim(server, "[]")); err == nil && ip.Is6() {
		server = "[" + ip.String() + "]"
	}
	return mounted, m.Mounts.Mount(server+":"+source.Path, r.Dir, "nfs", options)
}
