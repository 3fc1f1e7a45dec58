package daemon

import (
	"net/http"
	"path/filepath"
	"strings"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/controller/storage"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/volume/csi"
	"github.com/kebernetes/kebernetes/volume/local"
)

// volumeDrivers returns the node's side of the volume drivers: those that register here, and the folders of this machine.
func (m machine) volumeDrivers() (*csi.Node, error) {
	folders, err := local.Open(filepath.Join(m.config.DataDir, "volumes"))
	if err != nil {
		return nil, err
	}
	return csi.New(csi.Options{
		Client: m.agent, NodeName: m.config.NodeName, Root: m.config.DataDir, Logger: m.log,
		InProcess: map[string]grpc.ClientConnInterface{local.Driver: csi.InProcess(&spec.Controller_ServiceDesc, folders)},
	}), nil
}

// withRelay serves the drivers of a node in front of its API. Not by a ServeMux, which would redirect what the API gets.
func withRelay(api http.Handler, drivers *csi.Node) http.Handler {
	relay := &csi.Relay{Driver: drivers.Driver}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, csi.RelayPath) {
			relay.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}

// driver returns a connection to the controller service of a volume driver on a node.
func (s *System) driver(node, name string) grpc.ClientConnInterface {
	return csi.Dial(func() (http.Handler, error) { return s.nodes.Node(node) }, name)
}

// localClass is the storage class of claims that name none: a folder on the node that the first pod is scheduled to.
func localClass() kinds.Object {
	return &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "local", Annotations: map[string]string{
			"storageclass.kubernetes.io/is-default-class": "true",
			"kubernetes.io/description": "Folders on the node of the first pod that uses the claim. The node's file system keeps them within their size " +
				"if it has project quotas; the annotation keb.dev/size-bounded of each volume says whether it does.",
		}},
		Provisioner:          storage.LocalProvisioner,
		ReclaimPolicy:        ptr.To(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode:    ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
		AllowVolumeExpansion: ptr.To(true),
	}
}

// provisionerRole is what those who call volume drivers may do.
func provisionerRole() []kinds.Object {
	read := []string{"get", "list", "watch"}
	return controllerRole(storage.ProvisionerIdentity,
		rbacv1.PolicyRule{Verbs: read, APIGroups: []string{""}, Resources: []string{"nodes"}},
		rbacv1.PolicyRule{Verbs: append(read, "update"), APIGroups: []string{""}, Resources: []string{"persistentvolumeclaims"}},
		rbacv1.PolicyRule{Verbs: []string{"update"}, APIGroups: []string{""}, Resources: []string{"persistentvolumeclaims/status"}},
		rbacv1.PolicyRule{Verbs: append(read, "create", "delete", "update"), APIGroups: []string{""}, Resources: []string{"persistentvolumes"}},
		rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}},
		rbacv1.PolicyRule{Verbs: read, APIGroups: []string{"storage.k8s.io"}, Resources: []string{"csidrivers", "csinodes", "storageclasses"}},
		rbacv1.PolicyRule{Verbs: append(read, "update"), APIGroups: []string{"storage.k8s.io"}, Resources: []string{"volumeattachments"}},
		rbacv1.PolicyRule{Verbs: []string{"update"}, APIGroups: []string{"storage.k8s.io"}, Resources: []string{"volumeattachments/status"}},
	)
}
