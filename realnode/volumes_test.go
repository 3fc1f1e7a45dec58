package realnode

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const folderPod = `
apiVersion: v1
kind: Pod
metadata: {name: $NAME}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: $IMAGE, securityContext: {runAsUser: 1000}, volumeMounts: [{name: data, mountPath: /data}]}
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: folder}}
`

// testFolder: what one pod writes to a volume of the default class the next one reads, and it goes with its claim.
func testFolder(t *testing.T, n *node) {
	t.Parallel()
	n.apply(t, `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: folder}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 16Mi}}
`)
	n.apply(t, strings.ReplaceAll(folderPod, "$NAME", "folder-1"))
	n.state(t, "folder-1", "Running ready main:running*0")
	if got := n.kubectl(t, "get", "events", "--field-selector=involvedObject.name=folder-1,reason=FailedMount", "-o", "name"); got != "" && !strings.HasPrefix(got, "No resources found") {
		t.Errorf("a pod whose folder is just made fails to mount it: %s", got)
	}
	n.sh(t, "folder-1", "echo kept > /data/file")
	n.kubectl(t, "delete", "pod", "folder-1")
	n.apply(t, strings.ReplaceAll(folderPod, "$NAME", "folder-2"))
	n.state(t, "folder-2", "Running ready main:running*0")
	lines(t, n.sh(t, "folder-2", "cat /data/file"), "kept")

	var claim corev1.PersistentVolumeClaim
	n.get(t, "/api/v1/namespaces/default/persistentvolumeclaims/folder", &claim)
	var volume corev1.PersistentVolume
	n.get(t, "/api/v1/persistentvolumes/"+claim.Spec.VolumeName, &volume)
	if volume.Spec.StorageClassName != "local" || volume.Spec.Local == nil {
		t.Fatalf("the claim's volume is %+v", volume.Spec)
	}
	if _, err := os.Stat(volume.Spec.Local.Path); err != nil {
		t.Error(err)
	}
	n.kubectl(t, "delete", "pod", "folder-2")
	n.kubectl(t, "delete", "pvc", "folder")
	n.kubectl(t, "wait", "--for=delete", "pv/"+volume.Name, "--timeout", patience.String())
	if _, err := os.Stat(volume.Spec.Local.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder of a deleted claim: %v", err)
	}
}
