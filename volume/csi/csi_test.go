package csi_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	. "github.com/kebernetes/kebernetes/controller/controllertest"
	"github.com/kebernetes/kebernetes/volume"
	"github.com/kebernetes/kebernetes/volume/csi"
	"github.com/kebernetes/kebernetes/volume/csi/csitest"
)

const driverName = "folders.example.com"

// world is a node with the driver, and the API.
type world struct {
	*API
	t       *testing.T
	root    string
	driver  *csitest.Driver
	node    *csi.Node
	mounter *volume.Mounter
	stop    func()
	told    []string // what the node's status told of volumes in use, each time
}

// Report and Reported keep what would be told now.
func (w *world) Report() {
	used, err := w.node.InUse()
	if err != nil {
		w.t.Error(err)
	}
	w.told = append(w.told, fmt.Sprint(used))
}

func (w *world) Reported(context.Context) error {
	if calls := w.driver.Calls(); len(calls) > 0 {
		w.t.Errorf("before the use is reported, the driver gets %q", calls)
	}
	w.Report()
	return nil
}

// objects reads volumes' objects from the API in memory.
type objects struct {
	volume.Objects
	c *client.Client
}

func (o objects) Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	return client.Get[*corev1.PersistentVolumeClaim](ctx, o.c, namespace, name)
}

func (o objects) PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	return client.Get[*corev1.PersistentVolume](ctx, o.c, "", name)
}

func (o objects) Node(ctx context.Context) (*corev1.Node, error) {
	return client.Get[*corev1.Node](ctx, o.c, "", "n1")
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	// A socket's path may be 107 bytes long: too little for a test's own directory.
	root, err := os.MkdirTemp("", "csi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, root: root, API: New(
		Row[corev1.Pod, corev1.PodList]("", "v1", "pods", true),
		Row[corev1.Node, corev1.NodeList]("", "v1", "nodes", false),
		Row[corev1.Secret, corev1.SecretList]("", "v1", "secrets", true),
		Row[corev1.PersistentVolume, corev1.PersistentVolumeList]("", "v1", "persistentvolumes", false),
		Row[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList]("", "v1", "persistentvolumeclaims", true),
		Row[storagev1.CSIDriver, storagev1.CSIDriverList]("storage.k8s.io", "v1", "csidrivers", false),
		Row[storagev1.CSINode, storagev1.CSINodeList]("storage.k8s.io", "v1", "csinodes", false),
		Row[storagev1.VolumeAttachment, storagev1.VolumeAttachmentList]("storage.k8s.io", "v1", "volumeattachments", false),
	)}
	Put(w.API, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	w.driver = &csitest.Driver{Name: driverName, NodeID: "id-1", Dir: t.TempDir(), Topology: map[string]string{"folders.example.com/rack": "r1"}}
	w.start()
	return w
}

// start runs the node's side; it may be stopped and started anew.
func (w *world) start() {
	w.node = csi.New(csi.Options{Client: w.Client(), NodeName: "n1", Root: w.root, Status: w, Logger: slog.New(slog.NewTextHandler(w.t.Output(), nil))})
	w.mounter = volume.New(volume.Options{Dir: filepath.Join(w.root, "pods"), Objects: objects{c: w.Client()}, Plugins: []volume.Plugin{w.node}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.node.Run(ctx) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
	w.t.Cleanup(func() { w.stop() })
}

// register serves the driver, and waits until it is registered.
func (w *world) register() (registered <-chan *registerapi.RegistrationStatus, stop func()) {
	w.t.Helper()
	registered, stop = w.driver.Serve(w.t, w.root)
	w.await(registered)
	return registered, stop
}

func (w *world) await(registered <-chan *registerapi.RegistrationStatus) {
	w.t.Helper()
	select {
	case s := <-registered:
		if !s.PluginRegistered {
			w.t.Fatalf("not registered: %s", s.Error)
		}
	case <-w.t.Context().Done():
		w.t.Fatal("never registered")
	}
	w.driver.Calls()
}

// bound makes a claim, its volume and a folder for it; attached says whether it is attached already.
func (w *world) bound(attached bool) *corev1.PersistentVolume {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Join(w.driver.Dir, "v1"), 0o777); err != nil {
		w.t.Fatal(err)
	}
	storage := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	Put(w.API, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: storage}})
	claim := All[*corev1.PersistentVolumeClaim](w.API)[0]
	Put(w.API, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "key"}, Data: map[string][]byte{"key": []byte("sesame")}})
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef: &corev1.ObjectReference{UID: claim.UID}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}, Capacity: storage,
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driverName, VolumeHandle: "v1",
			NodeStageSecretRef: &corev1.SecretReference{Namespace: "ns", Name: "key"}}}}}
	Put(w.API, pv)
	if attached {
		Put(w.API, &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: csi.AttachmentName("v1", driverName, "n1")},
			Spec:   storagev1.VolumeAttachmentSpec{Attacher: driverName, NodeName: "n1", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("pv")}},
			Status: storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: map[string]string{"port": "p1"}}})
	}
	return pv
}

func user(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}}
}

func (w *world) calls(when string, want ...string) {
	w.t.Helper()
	if got := w.driver.Calls(); !slices.Equal(got, want) {
		w.t.Errorf("%s: calls %q, want %q", when, got, want)
	}
}

var dataVolume = &corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}

func TestDriversRegister(t *testing.T) {
	w := newWorld(t)
	_, stop := w.register()
	rows := func(want int) *storagev1.CSINode {
		for {
			revision := w.Snapshot().Revision()
			if cn, ok := client.From[*storagev1.CSINode](w.Client(), w.Snapshot(), "", "n1"); ok && len(cn.Spec.Drivers) == want {
				return cn
			}
			watch, err := w.Watch("csinodes.storage.k8s.io", revision)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := watch.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	row := rows(1).Spec.Drivers[0]
	if row.Name != driverName || row.NodeID != "id-1" || *row.Allocatable.Count != 8 || !slices.Equal(row.TopologyKeys, []string{"folders.example.com/rack"}) {
		t.Errorf("CSINode %+v", row)
	}
	node, _ := client.From[*corev1.Node](w.Client(), w.Snapshot(), "", "n1")
	if node.Labels["folders.example.com/rack"] != "r1" || node.Annotations["csi.volume.kubernetes.io/nodeid"] != `{"folders.example.com":"id-1"}` {
		t.Errorf("node %+v", node.ObjectMeta)
	}
	// The control plane reaches the driver's controller service, and not that of the node.
	relay := &csi.Relay{Driver: w.node.Driver}
	conn := csi.Dial(func() (http.Handler, error) { return relay, nil }, driverName)
	if _, err := spec.NewControllerClient(conn).CreateVolume(t.Context(), &spec.CreateVolumeRequest{Name: "made"}); err != nil {
		t.Error(err)
	}
	if _, err := spec.NewNodeClient(conn).NodeUnpublishVolume(t.Context(), &spec.NodeUnpublishVolumeRequest{}); err == nil {
		t.Error("the node's service is reached from afar")
	}
	stop()
	rows(0)
}

func TestVolumesAreStagedOnceAndPublishedToEachPod(t *testing.T) {
	w := newWorld(t)
	registered, _ := w.register()
	w.bound(true)
	first, err := w.mounter.Mount(t.Context(), user("a"), dataVolume)
	if err != nil {
		t.Fatal(err)
	}
	w.calls("first pod", "NodeStageVolume v1 p1 sesame", "NodePublishVolume v1 false MULTI_NODE_MULTI_WRITER []")
	if err := os.WriteFile(filepath.Join(first.Path, "row"), []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := w.mounter.Mount(t.Context(), user("b"), dataVolume)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(second.Path, "row")); err != nil || string(text) != "1" {
		t.Errorf("seen by the second pod: %q, %v", text, err)
	}
	w.driver.Calls()
	if used, err := w.node.InUse(); err != nil || len(used) != 1 || used[0] != "kubernetes.io/csi/folders.example.com^v1" {
		t.Errorf("in use %v, %v", used, err)
	}
	// The node's process is started anew, and the claim and its volume are gone: what is on disk is enough.
	w.stop()
	Drop[*corev1.PersistentVolumeClaim](w.API, "ns", "data")
	Drop[*corev1.PersistentVolume](w.API, "", "pv")
	w.start()
	w.await(registered)
	for _, pod := range []*corev1.Pod{user("a"), user("b")} {
		if err := w.mounter.Unmount(t.Context(), pod.UID); err != nil {
			t.Fatal(err)
		}
	}
	w.calls("pods gone", "NodeUnpublishVolume v1", "NodeUnpublishVolume v1", "NodeUnstageVolume v1")
	// Told before the first use, before the second pod's, after the first pod and after the last.
	one := "[kubernetes.io/csi/folders.example.com^v1]"
	if want := []string{one, one, one, "[]"}; !slices.Equal(w.told, want) {
		t.Errorf("in use, as told: %q, want %q", w.told, want)
	}
	if text, err := os.ReadFile(filepath.Join(w.driver.Dir, "v1", "row")); err != nil || string(text) != "1" {
		t.Errorf("data after the pods: %q, %v", text, err)
	}
}

func TestVolumesAreUnstagedInTheEnd(t *testing.T) {
	w := newWorld(t)
	registered, _ := w.register()
	w.bound(true)
	mounted, err := w.mounter.Mount(t.Context(), user("a"), dataVolume)
	if err != nil {
		t.Fatal(err)
	}
	w.driver.Calls()
	w.driver.Fail("NodeUnstageVolume", errors.New("not now"))
	if err := w.mounter.Unmount(t.Context(), user("a").UID); err == nil || !strings.Contains(err.Error(), "not now") {
		t.Errorf("a driver that fails: %v", err)
	}
	w.driver.Fail("NodeUnstageVolume", nil)
	if err := w.mounter.Unmount(t.Context(), user("a").UID); err != nil {
		t.Fatal(err)
	}
	w.calls("the second try", "NodeUnpublishVolume v1", "NodeUnstageVolume v1", "NodeUnpublishVolume v1", "NodeUnstageVolume v1")
	// The pod's side is gone without a trace, as after a reboot: the next start finds what is staged for nobody.
	if mounted, err = w.mounter.Mount(t.Context(), user("a"), dataVolume); err != nil {
		t.Fatal(err)
	}
	w.stop()
	if err := errors.Join(unix.Unmount(mounted.Path, 0), os.RemoveAll(filepath.Join(w.root, "pods"))); err != nil {
		t.Fatal(err)
	}
	w.driver.Calls()
	w.start()
	w.await(registered)
	if staged, err := filepath.Glob(filepath.Join(w.root, "plugins", "kubernetes.io", "csi", driverName, "*")); err != nil || len(staged) > 0 {
		t.Errorf("still staged: %v, %v", staged, err)
	}
}

func TestAttachmentIsAwaited(t *testing.T) {
	w := newWorld(t)
	w.register()
	w.bound(false)
	done := make(chan error, 1)
	go func() {
		_, err := w.mounter.Mount(t.Context(), user("a"), dataVolume)
		done <- err
	}()
	va := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: csi.AttachmentName("v1", driverName, "n1")}}
	Put(w.API, va)
	Change(w.API, "", va.Name, func(va *storagev1.VolumeAttachment) { va.Status.Attached = true })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := w.mounter.Unmount(t.Context(), user("a").UID); err != nil {
		t.Fatal(err)
	}
	Change(w.API, "", va.Name, func(va *storagev1.VolumeAttachment) {
		va.Status = storagev1.VolumeAttachmentStatus{AttachError: &storagev1.VolumeError{Message: "array is on fire"}}
	})
	if _, err := w.mounter.Mount(t.Context(), user("a"), dataVolume); err == nil || err.Error() != `MountVolume.WaitForAttach failed for volume "pv" : array is on fire` {
		t.Errorf("attachment that fails: %v", err)
	}
}

func TestWhatDriversAskFor(t *testing.T) {
	w := newWorld(t)
	w.register()
	inline := &corev1.Volume{Name: "scratch", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: driverName, ReadOnly: ptr.To(true)}}}
	pod := user("a")
	pod.Spec.ServiceAccountName = "web"
	if _, err := w.mounter.Mount(t.Context(), pod, inline); err == nil || !strings.Contains(err.Error(), `volume mode "Ephemeral" not supported by driver folders.example.com (no CSIDriver object)`) {
		t.Errorf("inline without being offered: %v", err)
	}
	Put(w.API, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driverName}, Spec: storagev1.CSIDriverSpec{
		AttachRequired: ptr.To(false), PodInfoOnMount: ptr.To(true), RequiresRepublish: ptr.To(true), FSGroupPolicy: ptr.To(storagev1.FileFSGroupPolicy),
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral}}})
	got, err := w.mounter.Mount(t.Context(), pod, inline)
	if err != nil || !got.ReadOnly || got.Refresh.IsZero() {
		t.Fatalf("%+v, %v", got, err)
	}
	calls := w.driver.Calls()
	if len(calls) != 1 || !strings.HasSuffix(calls[0], "true SINGLE_NODE_WRITER [ephemeral=true pod.name=a pod.namespace=ns pod.uid=uid-a serviceAccount.name=web]") {
		t.Errorf("calls %q", calls)
	}
	// A volume that grew while no pod had it is grown on the node, for the pod's group, without an attachment.
	w.bound(false)
	Change(w.API, "", "pv", func(pv *corev1.PersistentVolume) {
		pv.Spec.Capacity[corev1.ResourceStorage] = resource.MustParse("2Gi")
	})
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To[int64](4242)}
	if got, err = w.mounter.Mount(t.Context(), pod, dataVolume); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(got.Path); err != nil || info.Mode()&os.ModeSetgid == 0 {
		t.Errorf("the pod's group: %v, %v", info.Mode(), err)
	}
	claim := All[*corev1.PersistentVolumeClaim](w.API)[0]
	if size := claim.Status.Capacity[corev1.ResourceStorage]; size.String() != "2Gi" || !slices.Contains(w.driver.Calls(), "NodeExpandVolume v1") {
		t.Errorf("size %s", size.String())
	}
	if err := w.mounter.Unmount(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(w.driver.Dir)
	if err != nil || len(left) != 1 {
		t.Errorf("folders left: %v, %v", left, err)
	}
	other := &corev1.Volume{Name: "x", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "other.example.com"}}}
	if _, err := w.mounter.Mount(t.Context(), pod, other); err == nil || !strings.HasSuffix(err.Error(), "driver name other.example.com not found in the list of registered CSI drivers") {
		t.Errorf("a driver that is not there: %v", err)
	}
}
