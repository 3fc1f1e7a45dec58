package volume

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// bound puts a claim "data" and its volume "pv" into the cluster.
func (c *cluster) bound(source corev1.PersistentVolumeSource) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", UID: "claim-uid"},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
		PersistentVolumeSource: source, ClaimRef: &corev1.ObjectReference{Namespace: "shop", Name: "data", UID: "claim-uid"}}}
	c.claims, c.volumes = map[string]*corev1.PersistentVolumeClaim{"data": claim}, map[string]*corev1.PersistentVolume{"pv": pv}
	return claim, pv
}

func claimVolume(readOnly bool) *corev1.Volume {
	return &corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data", ReadOnly: readOnly}}}
}

func localAt(path string) corev1.PersistentVolumeSource {
	return corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}}
}

func TestLocalVolumesKeepTheirData(t *testing.T) {
	c := &cluster{}
	m := newMounter(t, c)
	folder := t.TempDir()
	_, pv := c.bound(localAt(folder))
	pod := testPod()
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To[int64](4242)}
	got, err := m.Mount(t.Context(), pod, claimVolume(false))
	if err != nil || got.ReadOnly {
		t.Fatalf("%+v, %v", got, err)
	}
	if again, err := m.Mount(t.Context(), pod, claimVolume(false)); err != nil || again != got {
		t.Errorf("mounted again: %+v, %v", again, err)
	}
	if err := os.WriteFile(filepath.Join(got.Path, "row"), []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(folder); err != nil || st.Sys().(*syscall.Stat_t).Gid != 4242 || st.Mode()&os.ModeSetgid == 0 {
		t.Errorf("the folder belongs to the pod's group: %v, %v", st, err)
	}
	sub, err := m.SubPath(pod.UID, "v", "main", 0, got.Path, "below/deep", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sub, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	reader := testPod()
	reader.UID = "uid-2"
	read2, err := m.Mount(t.Context(), reader, claimVolume(true))
	if err != nil || !read2.ReadOnly {
		t.Fatalf("second pod: %+v, %v", read2, err)
	}
	if err := os.WriteFile(filepath.Join(read2.Path, "no"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write to a read-only claim: %v", err)
	}
	for _, uid := range []types.UID{pod.UID, reader.UID} {
		if err := m.Unmount(t.Context(), uid); err != nil {
			t.Fatal(err)
		}
	}
	if read(t, folder, "row") != "1" || read(t, folder, "below/deep/f") != "" {
		t.Error("data is gone with the pods")
	}
	pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	if _, err := m.Mount(t.Context(), pod, claimVolume(false)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mount(t.Context(), reader, claimVolume(false)); err == nil || !strings.Contains(err.Error(), "volume uses the ReadWriteOncePod access mode and is already in use by another pod") {
		t.Errorf("a second pod on ReadWriteOncePod: %v", err)
	}
}

func TestClaimsThatCannotBeMounted(t *testing.T) {
	folder := t.TempDir()
	const unable = "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: error processing PVC shop/data: "
	for name, test := range map[string]struct {
		change func(c *cluster, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, pod *corev1.Pod)
		want   string
	}{
		"no claim": {func(c *cluster, _ *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume, _ *corev1.Pod) {
			c.claims = nil
		},
			unable + `failed to fetch PVC from API server: persistentvolumeclaims "data" not found`},
		"not bound": {func(_ *cluster, claim *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume, _ *corev1.Pod) {
			claim.Status.Phase = corev1.ClaimPending
		}, unable + "PVC is not bound"},
		"lost": {func(_ *cluster, claim *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume, _ *corev1.Pod) {
			claim.Annotations = map[string]string{"pv.kubernetes.io/bind-completed": "yes"}
			claim.Status.Phase = corev1.ClaimLost
		}, unable + "PVC is not bound"},
		"going": {func(_ *cluster, claim *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume, _ *corev1.Pod) {
			claim.DeletionTimestamp = &metav1.Time{}
		}, unable + "PVC is being deleted"},
		"other node": {func(_ *cluster, _ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, _ *corev1.Pod) {
			pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"n2"}}}}}}}
		}, `MountVolume.NodeAffinity check failed for volume "pv" : no matching NodeSelectorTerms`},
		"device as mount": {func(_ *cluster, _ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, pod *corev1.Pod) {
			pv.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
			pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v"}}
		}, unable + "volume v has volumeMode Block, but is specified in volumeMounts"},
		"no folder": {func(_ *cluster, _ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, _ *corev1.Pod) {
			pv.Spec.Local.Path = "/nowhere/at/all"
		}, `MountVolume.NewMounter initialization failed for volume "pv" : path "/nowhere/at/all" does not exist`},
		"folder as device": {func(_ *cluster, _ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, _ *corev1.Pod) {
			pv.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
		}, `MapVolume.MapPodDevice failed for volume "pv" : path "` + folder + `" is not a block device`},
		"no plugin": {func(_ *cluster, _ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, _ *corev1.Pod) {
			pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{ISCSI: &corev1.ISCSIPersistentVolumeSource{}}
		}, `MountVolume.SetUp failed for volume "pv" : no volume plugin matched`},
	} {
		t.Run(name, func(t *testing.T) {
			c := &cluster{}
			m := newMounter(t, c)
			claim, pv := c.bound(localAt(folder))
			pod := testPod()
			test.change(c, claim, pv, pod)
			if _, err := m.Mount(t.Context(), pod, claimVolume(false)); err == nil || err.Error() != test.want {
				t.Errorf("%v\nwant %s", err, test.want)
			}
		})
	}
}

// TestBindingIsComplete: the binder writes the claim's phase last, and the pod need not wait for it.
func TestBindingIsComplete(t *testing.T) {
	c := &cluster{}
	m := newMounter(t, c)
	claim, _ := c.bound(localAt(t.TempDir()))
	claim.Status.Phase = corev1.ClaimPending
	claim.Annotations = map[string]string{"pv.kubernetes.io/bind-completed": "yes"}
	if _, err := m.Mount(t.Context(), testPod(), claimVolume(false)); err != nil {
		t.Error(err)
	}
}

func TestEphemeralClaimBelongsToItsPod(t *testing.T) {
	c := &cluster{}
	m := newMounter(t, c)
	claim, _ := c.bound(localAt(t.TempDir()))
	claim.Name = "web-0-v"
	c.claims["web-0-v"] = claim
	pod := testPod()
	v := &corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}
	if _, err := m.Mount(t.Context(), pod, v); err == nil || !strings.HasSuffix(err.Error(), "PVC shop/web-0-v was not created for pod shop/web-0 (pod is not owner)") {
		t.Errorf("a claim of somebody else: %v", err)
	}
	claim.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: ptr.To(true)}}
	if _, err := m.Mount(t.Context(), pod, v); err != nil {
		t.Error(err)
	}
}

// recorded notes the mounts of network file systems instead of making them.
type recorded struct {
	Kernel
	calls []string
}

func (r *recorded) Mount(source, target, fsType string, options []string) error {
	r.calls = append(r.calls, fmt.Sprint(source, " ", filepath.Base(target), " ", fsType, " ", options))
	return nil
}

func TestNFS(t *testing.T) {
	c := &cluster{}
	kernel := &recorded{}
	m := New(Options{Dir: t.TempDir(), Objects: c, Mounts: kernel})
	_, pv := c.bound(corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "nas", Path: "/export"}})
	pv.Spec.MountOptions = []string{"nfsvers=4.1"}
	inline := &corev1.Volume{Name: "i", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "fd00::1", Path: "/x", ReadOnly: true}}}
	for _, v := range []*corev1.Volume{claimVolume(true), inline} {
		if got, err := m.Mount(t.Context(), testPod(), v); err != nil || !got.ReadOnly {
			t.Errorf("%s: %+v, %v", v.Name, got, err)
		}
	}
	want := []string{"nas:/export pv nfs [nfsvers=4.1 ro]", "[fd00::1]:/x i nfs [ro]"}
	if !slices.Equal(kernel.calls, want) {
		t.Errorf("mounts %q, want %q", kernel.calls, want)
	}
	// Without a server or its helper, mount(8)'s own words reach the user.
	m = newMounter(t, c)
	_, err := m.Mount(t.Context(), testPod(), claimVolume(false))
	if err == nil || !strings.HasPrefix(err.Error(), `MountVolume.SetUp failed for volume "pv" : mount failed: exit status`) || !strings.Contains(err.Error(), "Mounting arguments:  -t nfs -o nfsvers=4.1 nas:/export") {
		t.Errorf("a share that is not there: %v", err)
	}
}

// loopDisk attaches an empty file as a disk for the duration of the test.
func loopDisk(t *testing.T, size int64) string {
	t.Helper()
	needRoot(t)
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		t.Skipf("no loop device: %v", err)
	}
	disk := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", disk).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %v: %s", disk, err, out)
		}
	})
	return disk
}

func TestLocalDisks(t *testing.T) {
	disk := loopDisk(t, 32<<20)
	c := &cluster{}
	_, pv := c.bound(localAt(disk))
	m := newMounter(t, c)
	pod := testPod()
	got, err := m.Mount(t.Context(), pod, claimVolume(false))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(got.Path, "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Unmount(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	if got, err = m.Mount(t.Context(), pod, claimVolume(true)); err != nil || read(t, got.Path, "f") != "kept" {
		t.Errorf("formatted twice? %+v, %v", got, err)
	}
	pv.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
	if raw, err := m.Mount(t.Context(), pod, claimVolume(true)); err != nil || raw != (Mounted{Path: disk, Device: true, ReadOnly: true}) {
		t.Errorf("raw device: %+v, %v", raw, err)
	}
}
