package realnode

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const keeper = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: keeper}
spec:
  serviceName: keeper
  replicas: 2
  podManagementPolicy: Parallel
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete}
  selector: {matchLabels: {app: keeper}}
  template:
    metadata: {labels: {app: keeper}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: keeper}}}
      containers:
      - {name: main, image: $IMAGE, securityContext: {runAsUser: 1000}, volumeMounts: [{name: data, mountPath: /data}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
`

// testClaims: the claims of a StatefulSet are folders on the nodes of its pods, on whichever they are; what is there stays with the
// pod's name when pod and agent start anew, and goes with the claim.
func testClaims(t *testing.T, server, agent *node) {
	n := server
	n.apply(t, keeper)
	settled := func(pods map[string]*corev1.Pod) bool {
		for _, name := range []string{"keeper-0", "keeper-1"} {
			if p := pods[name]; p == nil || p.DeletionTimestamp != nil || !strings.HasPrefix(summary(p), "Running ready ") {
				return false
			}
		}
		return true
	}
	before := n.pods(t, "labelSelector=app=keeper", settled)
	folders := map[string]string{} // by pod
	for name, p := range before {
		var claim corev1.PersistentVolumeClaim
		n.get(t, "/api/v1/namespaces/default/persistentvolumeclaims/data-"+name, &claim)
		var volume corev1.PersistentVolume
		n.get(t, "/api/v1/persistentvolumes/"+claim.Spec.VolumeName, &volume)
		if volume.Spec.Local == nil || volume.Spec.StorageClassName != "local" {
			t.Fatalf("the volume of %s is %+v", name, volume.Spec)
		}
		home := map[string]*node{"n1": server, "n2": agent}[p.Spec.NodeName]
		if folders[name] = volume.Spec.Local.Path; !strings.HasPrefix(folders[name], home.dir+"/") {
			t.Errorf("%s runs on %s, its folder is %s, not in %s", name, p.Spec.NodeName, folders[name], home.dir)
		}
		n.sh(t, name, "echo "+name+" > /data/file")
	}
	if before["keeper-0"].Spec.NodeName == before["keeper-1"].Spec.NodeName {
		t.Errorf("both pods are on %s", before["keeper-0"].Spec.NodeName)
	}

	must(t, agent.server.Process.Signal(syscall.SIGKILL))
	<-agent.server.ended
	agent.run(t, "agent", "--data-dir", agent.dir)
	n.kubectl(t, "delete", "pod", "keeper-0", "keeper-1")
	after := n.pods(t, "labelSelector=app=keeper", func(pods map[string]*corev1.Pod) bool {
		return settled(pods) && pods["keeper-0"].UID != before["keeper-0"].UID && pods["keeper-1"].UID != before["keeper-1"].UID
	})
	for name, p := range after {
		if p.Spec.NodeName != before[name].Spec.NodeName {
			t.Errorf("%s moved from %s, where its data is, to %s", name, before[name].Spec.NodeName, p.Spec.NodeName)
		}
		lines(t, n.sh(t, name, "cat /data/file"), name)
	}

	n.kubectl(t, "delete", "statefulset/keeper")
	n.await(t, "the folders of claims that are gone to go", func() bool {
		for _, folder := range folders {
			if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
				return false
			}
		}
		return true
	})
	if out := n.kubectl(t, "get", "pv,pvc", "--all-namespaces", "-o", "name"); strings.Contains(out, "keeper") {
		t.Errorf("what is left: %s", out)
	}
}
