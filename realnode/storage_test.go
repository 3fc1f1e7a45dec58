package realnode

import (
	"bytes"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// testDiskLimits: a pod that takes more of the disk than it may goes, with the reason; one whose volume only points at much stays.
func testDiskLimits(t *testing.T, n *node) {
	t.Parallel()
	must(t, os.MkdirAll(filepath.Join(n.dir, "hostpath"), 0o755))
	must(t, os.WriteFile(filepath.Join(n.dir, "hostpath", "much"), make([]byte, 8<<20), 0o644))
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: over-volume}
spec:
  containers: [{name: main, image: $IMAGE, command: [sh, -c, "dd if=/dev/zero of=/v/file bs=1M count=3; exec sleep 1000"], volumeMounts: [{name: scratch, mountPath: /v}]}]
  volumes: [{name: scratch, emptyDir: {sizeLimit: 1Mi}}]
---
apiVersion: v1
kind: Pod
metadata: {name: over-layer}
spec:
  containers:
  - {name: main, image: $IMAGE, command: [sh, -c, "dd if=/dev/zero of=/file bs=1M count=3; exec sleep 1000"], resources: {limits: {ephemeral-storage: 1Mi}}}
  - {name: beside, image: $IMAGE, resources: {limits: {ephemeral-storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: over-logs}
spec:
  containers: [{name: main, image: $IMAGE, command: [sh, -c, "dd if=/dev/zero bs=1M count=3 | tr '\\0' 'x' | fold; exec sleep 1000"], resources: {limits: {ephemeral-storage: 1Mi}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: within}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: $IMAGE
    command: [sh, -c, "ln -s /host /v/link; ln -s /host/much /v/file; mount --bind /host /v/mnt 2>/dev/null; exec sleep 1000"]
    resources: {limits: {ephemeral-storage: 4Mi}}
    volumeMounts: [{name: scratch, mountPath: /v}, {name: host, mountPath: /host}, {name: memory, mountPath: /memory}]
  volumes: [{name: scratch, emptyDir: {sizeLimit: 1Mi}}, {name: host, hostPath: {path: $DIR/hostpath}}, {name: memory, emptyDir: {medium: Memory, sizeLimit: 2Mi}}]
`)
	n.state(t, "within", "Running ready main:running*0")
	if out, err := n.try(t, nil, "exec", "within", "--", "dd", "if=/dev/zero", "of=/memory/file", "bs=1M", "count=3"); err == nil || !strings.Contains(out, "No space left on device") {
		t.Errorf("a volume in memory takes more than its limit: %v %s", err, out)
	}
	for name, want := range map[string]string{
		"over-volume": `Usage of EmptyDir volume "scratch" exceeds the limit "1Mi". `,
		"over-layer":  `Container main exceeded its local ephemeral storage limit "1Mi". `,
		"over-logs":   `Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. `,
	} {
		p := n.pod(t, name, func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
		disrupted := ""
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.DisruptionTarget {
				disrupted = c.Reason
			}
		}
		if p.Status.Reason != "Evicted" || p.Status.Message != want || disrupted != "TerminationByKubelet" {
			t.Errorf("%s: %s %q, condition %q", name, p.Status.Reason, p.Status.Message, disrupted)
		}
		n.event(t, name, "Evicted", want)
	}
	n.state(t, "within", "Running ready main:running*0")
}

// testImageVolume: an image's files are there to read, whole or in part; one that cannot be had is told of as a container's would be.
func testImageVolume(t *testing.T, n *node) {
	t.Parallel()
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: image-volume}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: $IMAGE
    volumeMounts: [{name: files, mountPath: /files}, {name: files, mountPath: /part, subPath: etc}]
  volumes: [{name: files, image: {reference: $IMAGE, pullPolicy: IfNotPresent}}]
---
apiVersion: v1
kind: Pod
metadata: {name: no-image-volume}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE, volumeMounts: [{name: files, mountPath: /files}]}]
  volumes: [{name: files, image: {reference: "registry.invalid/none:1", pullPolicy: Never}}]
`)
	n.state(t, "image-volume", "Running ready main:running*0")
	lines(t, n.sh(t, "image-volume", "cat /files/etc/passwd /part/passwd; touch /files/new 2>&1; touch /part/new 2>&1; true"),
		"root:x:0:0:root:/:/bin/sh", "root:x:0:0:root:/:/bin/sh", "touch: /files/new: Read-only file system", "touch: /part/new: Read-only file system")
	p := n.state(t, "no-image-volume", "Pending main:ErrImageNeverPull*0")
	if got := p.Status.ContainerStatuses[0].State.Waiting.Message; got != `Container image "registry.invalid/none:1" is not present with pull policy of Never` {
		t.Errorf("message %q", got)
	}
}

// testSecretsStayInMemory: what a Secret holds is in no file of the machine's directory, though pods have it as files.
func testSecretsStayInMemory(t *testing.T, n *node) {
	t.Parallel()
	const hidden = "correct-horse-battery-staple"
	n.apply(t, `
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {key: `+hidden+`}
---
apiVersion: v1
kind: Pod
metadata: {name: hidden}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: $IMAGE
    volumeMounts: [{name: whole, mountPath: /whole}, {name: among, mountPath: /among}, {name: whole, mountPath: /one, subPath: key}]
  volumes:
  - {name: whole, secret: {secretName: hidden}}
  - {name: among, projected: {sources: [{secret: {name: hidden, items: [{key: key, path: deep/key, mode: 0400}]}}, {serviceAccountToken: {path: token}}]}}
`)
	n.state(t, "hidden", "Running ready main:running*0")
	lines(t, n.sh(t, "hidden", "cat /whole/key; echo; cat /among/deep/key; echo; cat /one; echo; grep -c ' /whole tmpfs \\| /among tmpfs ' /proc/mounts"), hidden, hidden, hidden, "2")
	token := n.sh(t, "hidden", "cat /among/token")
	words := map[string]string{
		"the secret": hidden, "the secret's last words": hidden[len(hidden)-12:], "a token": token,
		"the secret as in JSON": base64.StdEncoding.EncodeToString([]byte(hidden))[:32],
	}
	var root syscall.Stat_t
	must(t, syscall.Stat(n.dir, &root))
	files := 0
	look := func(path string, e fs.DirEntry, err error) error {
		var at syscall.Stat_t
		switch {
		case err != nil || syscall.Lstat(path, &at) != nil:
			return nil // it goes away meanwhile
		case at.Dev != root.Dev && e.IsDir():
			return fs.SkipDir // memory, or a container's own view
		case at.Dev != root.Dev || !e.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		files++
		for name, word := range words {
			if bytes.Contains(data, []byte(word)) {
				t.Errorf("%s is in %s", name, path)
			}
		}
		return nil
	}
	must(t, filepath.WalkDir(n.dir, look))
	if files < 20 {
		t.Errorf("only %d files were looked at", files)
	}
}

// testConfigurations: all that is said of a way in holds: prefixes, items, modes, what is optional, what comes later.
func testConfigurations(t *testing.T, n *node) {
	t.Parallel()
	n.apply(t, `
apiVersion: v1
kind: ConfigMap
metadata: {name: ways}
data: {one: "1", two: "2"}
binaryData: {bytes: AAEC}
---
apiVersion: v1
kind: Secret
metadata: {name: ways}
type: kubernetes.io/basic-auth
stringData: {username: joe, password: sesame}
---
apiVersion: v1
kind: Pod
metadata: {name: ways}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000, fsGroup: 2000}
  containers:
  - name: main
    image: $IMAGE
    env:
    - {name: GONE, valueFrom: {configMapKeyRef: {name: ways, key: three, optional: true}}}
    - {name: NOBODY, valueFrom: {secretKeyRef: {name: nobody, key: x, optional: true}}}
    envFrom:
    - {prefix: C_, configMapRef: {name: ways}}
    - {prefix: S_, secretRef: {name: ways}}
    - {configMapRef: {name: nobody, optional: true}}
    volumeMounts:
    - {name: chosen, mountPath: /chosen}
    - {name: later, mountPath: /later}
    - {name: secret, mountPath: /secret}
    - {name: both, mountPath: /both}
  volumes:
  - {name: chosen, configMap: {name: ways, defaultMode: 0440, items: [{key: one, path: a/b/one}, {key: bytes, path: bytes, mode: 0400}]}}
  - {name: later, configMap: {name: later, optional: true}}
  - {name: secret, secret: {secretName: ways, defaultMode: 0400}}
  - {name: both, projected: {defaultMode: 0444, sources: [{configMap: {name: ways, items: [{key: two, path: two}]}}, {secret: {name: ways, items: [{key: password, path: in/password}]}}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: ways-missing}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE, envFrom: [{configMapRef: {name: ways-late}}]}]
`)
	n.state(t, "ways", "Running ready main:running*0")
	lines(t, n.sh(t, "ways", `echo "$C_one $C_two $S_username $S_password [$GONE] [$NOBODY] [$C_bytes]"; cat /chosen/a/b/one; echo; hexdump -v -e '/1 "%02x"' /chosen/bytes; echo
ls /chosen /later; stat -Lc '%a %u %g %n' /chosen/a/b/one /chosen/bytes /secret/password; cat /secret/password /both/two /both/in/password; echo; touch /chosen/x 2>&1; true`),
		"1 2 joe sesame [] [] []", "1", "000102", "/chosen:", "a", "bytes", "", "/later:",
		"440 0 2000 /chosen/a/b/one", "440 0 2000 /chosen/bytes", "440 0 2000 /secret/password", "sesame2sesame", "touch: /chosen/x: Read-only file system")

	n.state(t, "ways-missing", "Pending main:CreateContainerConfigError*0")
	n.event(t, "ways-missing", "Failed", `Error: configmap "ways-late" not found`)
	n.apply(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: ways-late}, data: {a: b}}")
	n.state(t, "ways-missing", "Running ready main:running*0")

	began := time.Now()
	n.apply(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: later}, data: {came: late}}")
	n.kubectl(t, "patch", "configmap/ways", "--type=json", "-p", `[{"op":"replace","path":"/data/one","value":"11"},{"op":"remove","path":"/data/two"},{"op":"add","path":"/immutable","value":true}]`)
	n.eventually(t, "ways", "echo $(cat /later/came /chosen/a/b/one)", "late11\n")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("an update took %s to reach the pod", took)
	}
	// The projected volume lacks a key that it names: it stays as it was, and an event says why.
	n.event(t, "ways", "FailedMount", `MountVolume.SetUp failed for volume "both" : configmap references non-existent config key: two`)
	if got := n.sh(t, "ways", "cat /both/two /both/in/password"); got != "2sesame" {
		t.Errorf("a volume that cannot be brought up to date shows %q", got)
	}
	if out, err := n.try(t, nil, "patch", "configmap/ways", "-p", `{"data":{"one":"111"}}`); err == nil || !strings.Contains(out, "field is immutable when `immutable` is set") {
		t.Errorf("an immutable ConfigMap was changed: %v %s", err, out)
	}
}

// testClaimsExplain: a claim that waits says for what; one that is in use stays, and one for a single pod is one pod's.
func testClaimsExplain(t *testing.T, n *node) {
	t.Parallel()
	n.apply(t, `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: no-class}
spec: {storageClassName: nowhere, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: no-folder}
spec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: alone}
spec: {accessModes: [ReadWriteOncePod], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: no-class}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE, volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, persistentVolumeClaim: {claimName: no-class}}]
---
apiVersion: v1
kind: Pod
metadata: {name: no-folder}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE, volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, persistentVolumeClaim: {claimName: no-folder}}]
`)
	n.event(t, "no-class", "ProvisioningFailed", `storageclass.storage.k8s.io "nowhere" not found`)
	n.event(t, "no-class", "FailedScheduling", "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.")
	n.event(t, "no-folder", "ProvisioningFailed", `failed to provision volume with StorageClass "local": rpc error: code = InvalidArgument desc = a folder lies on one node`)
	alone := func(name string) string {
		return strings.NewReplacer("$NAME", name, "claimName: folder", "claimName: alone").Replace(folderPod)
	}
	n.apply(t, alone("alone-1"))
	n.state(t, "alone-1", "Running ready main:running*0")
	n.apply(t, alone("alone-2"))
	n.event(t, "alone-2", "FailedScheduling", "0/1 nodes are available: 1 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode.")
	n.kubectl(t, "delete", "pvc", "alone", "--wait=false")
	var claim corev1.PersistentVolumeClaim
	n.get(t, "/api/v1/namespaces/default/persistentvolumeclaims/alone", &claim)
	if claim.DeletionTimestamp == nil || claim.Status.Phase != corev1.ClaimBound || len(claim.Finalizers) != 1 || claim.Finalizers[0] != "kubernetes.io/pvc-protection" {
		t.Errorf("a deleted claim in use: %s %v", claim.Status.Phase, claim.Finalizers)
	}
	n.kubectl(t, "delete", "pod", "alone-2", "alone-1", "no-class", "no-folder")
	n.kubectl(t, "wait", "--for=delete", "pvc/alone", "--timeout", patience.String())
	n.kubectl(t, "delete", "pvc", "no-class", "no-folder")
}

// testDataSurvives: what pods wrote is there after the container's death, keb's and the pod's own, each where it should be; and what they
// read goes on following its object.
func testDataSurvives(t *testing.T, n *node) {
	n.apply(t, `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: kept}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kept}
data: {word: first}
`)
	pod := `
apiVersion: v1
kind: Pod
metadata: {name: $NAME}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: $IMAGE
    volumeMounts: [{name: claim, mountPath: /claim}, {name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}, {name: config, mountPath: /config}]
  volumes:
  - {name: claim, persistentVolumeClaim: {claimName: kept}}
  - {name: disk, emptyDir: {sizeLimit: 1Gi}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: config, configMap: {name: kept}}
`
	n.apply(t, strings.ReplaceAll(pod, "$NAME", "kept-1"))
	p := n.state(t, "kept-1", "Running ready main:running*0")
	n.sh(t, "kept-1", "for d in claim disk memory; do echo $d > /$d/file; done; sync")
	const all = "cat /claim/file /disk/file /memory/file"
	pid, err := strconv.Atoi(pids(t, p.Status.ContainerStatuses[0])[0])
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	n.state(t, "kept-1", "Running ready main:running*1")
	lines(t, n.sh(t, "kept-1", all), "claim", "disk", "memory")

	must(t, n.server.Process.Signal(syscall.SIGKILL))
	<-n.server.ended
	n.serve(t)
	n.state(t, "kept-1", "Running ready main:running*1")
	lines(t, n.sh(t, "kept-1", all), "claim", "disk", "memory")
	n.kubectl(t, "patch", "configmap/kept", "-p", `{"data":{"word":"second"}}`)
	n.eventually(t, "kept-1", "cat /config/word", "second")

	n.kubectl(t, "delete", "pod", "kept-1")
	n.apply(t, strings.ReplaceAll(pod, "$NAME", "kept-2"))
	n.state(t, "kept-2", "Running ready main:running*0")
	lines(t, n.sh(t, "kept-2", all+" 2>/dev/null; ls /disk /memory"), "claim", "/disk:", "", "/memory:")
	n.kubectl(t, "delete", "pod/kept-2", "pvc/kept", "configmap/kept")
}
