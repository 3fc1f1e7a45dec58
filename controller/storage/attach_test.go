package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	. "github.com/kebernetes/kebernetes/controller/controllertest"
)

// arrays is a driver's controller service that notes what it is asked.
type arrays struct {
	spec.UnimplementedControllerServer
	mu    sync.Mutex
	calls []string
	fail  error
}

func (a *arrays) note(format string, args ...any) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail == nil {
		a.calls = append(a.calls, fmt.Sprintf(format, args...))
	}
	return a.fail
}

func (a *arrays) ControllerGetCapabilities(context.Context, *spec.ControllerGetCapabilitiesRequest) (*spec.ControllerGetCapabilitiesResponse, error) {
	return &spec.ControllerGetCapabilitiesResponse{Capabilities: []*spec.ControllerServiceCapability{{Type: &spec.ControllerServiceCapability_Rpc{
		Rpc: &spec.ControllerServiceCapability_RPC{Type: spec.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME}}}}}, nil
}

func (a *arrays) CreateVolume(_ context.Context, r *spec.CreateVolumeRequest) (*spec.CreateVolumeResponse, error) {
	return &spec.CreateVolumeResponse{Volume: &spec.Volume{VolumeId: "id-1", CapacityBytes: 2 << 30, AccessibleTopology: r.GetAccessibilityRequirements().GetPreferred()}},
		a.note("create %v %s", r.Parameters, r.Secrets["key"])
}

func (a *arrays) DeleteVolume(_ context.Context, r *spec.DeleteVolumeRequest) (*spec.DeleteVolumeResponse, error) {
	return &spec.DeleteVolumeResponse{}, a.note("delete %s %s", r.VolumeId, r.Secrets["key"])
}

func (a *arrays) ControllerPublishVolume(_ context.Context, r *spec.ControllerPublishVolumeRequest) (*spec.ControllerPublishVolumeResponse, error) {
	return &spec.ControllerPublishVolumeResponse{PublishContext: map[string]string{"lun": "7"}}, a.note("publish %s %s", r.VolumeId, r.NodeId)
}

func (a *arrays) ControllerUnpublishVolume(_ context.Context, r *spec.ControllerUnpublishVolumeRequest) (*spec.ControllerUnpublishVolumeResponse, error) {
	return &spec.ControllerUnpublishVolumeResponse{}, a.note("unpublish %s %s", r.VolumeId, r.NodeId)
}

func (a *arrays) asked() string {
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	out := strings.Join(a.calls, "; ")
	a.calls = nil
	return out
}

func runsOn(name, node, claim string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node,
		Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}}}
}

// driverCluster has two nodes with a driver, its class and a claim that is provisioned on n1.
func driverCluster(t *testing.T, driver *arrays) *API {
	api := newAPI()
	for _, name := range []string{"n1", "n2"} {
		node := readyNode(name)
		node.Labels["rack"] = "r-" + name
		Put(api, node)
		Put(api, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{
			{Name: "disks.example.com", NodeID: "id-of-" + name, TopologyKeys: []string{"rack"}}}}})
	}
	Put(api, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "disks.example.com", Annotations: map[string]string{BuiltInController: "true"}}})
	Put(api, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c-key"}, Data: map[string][]byte{"key": []byte("sesame")}})
	Put(api, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "disks"}, Provisioner: "disks.example.com", Parameters: map[string]string{
		"speed": "high", "csi.storage.k8s.io/fstype": "xfs",
		"csi.storage.k8s.io/provisioner-secret-name": "${pvc.name}-key", "csi.storage.k8s.io/provisioner-secret-namespace": "${pvc.namespace}"}})
	start(t, api, (&nodeDisks{dir: t.TempDir(), driver: driver}).dial)
	Put(api, chosen("c", "1Gi", "disks", "n1"))
	return api
}

func TestCSIVolumesAreMadeAttachedAndRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := &arrays{}
		api := driverCluster(t, driver)
		if got := driver.asked(); got != "create map[speed:high] sesame" {
			t.Fatalf("asked %q; events %s", got, reasons(api, "c"))
		}
		v := All[*corev1.PersistentVolume](api)[0]
		size := v.Spec.Capacity[corev1.ResourceStorage]
		if s := v.Spec.CSI; s.VolumeHandle != "id-1" || s.FSType != "xfs" || size.String() != "2Gi" || v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0] != "r-n1" {
			t.Errorf("volume %+v", v.Spec)
		}
		Put(api, runsOn("p", "n1", "c"))
		if got := driver.asked(); got != "publish id-1 id-of-n1" {
			t.Errorf("asked %q", got)
		}
		name := attachmentName("id-1", "disks.example.com", "n1")
		va, ok := client.From[*storagev1.VolumeAttachment](api.Client(), api.Snapshot(), "", name)
		if !ok || !va.Status.Attached || va.Status.AttachmentMetadata["lun"] != "7" {
			t.Errorf("attachment %+v", va)
		}
		node, _ := client.From[*corev1.Node](api.Client(), api.Snapshot(), "", "n1")
		if len(node.Status.VolumesAttached) != 1 || node.Status.VolumesAttached[0].Name != "kubernetes.io/csi/disks.example.com^id-1" {
			t.Errorf("attached to the node: %v", node.Status.VolumesAttached)
		}
		if got := reasons(api, "p"); !strings.Contains(got, `SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume "`+v.Name+`" `) {
			t.Errorf("events %s", got)
		}
		// A second node has to wait until the first has unmounted the volume, though its pod is gone.
		Change(api, "", "n1", func(n *corev1.Node) {
			n.Status.VolumesInUse = []corev1.UniqueVolumeName{"kubernetes.io/csi/disks.example.com^id-1"}
		})
		Put(api, runsOn("q", "n2", "c"))
		if got := reasons(api, "q"); !strings.Contains(got, `FailedAttachVolume: Multi-Attach error for volume "`+v.Name+`" Volume is already used by pod(s) p`) {
			t.Errorf("events %s", got)
		}
		Drop[*corev1.Pod](api, "ns", "p")
		if got := driver.asked(); got != "" {
			t.Errorf("asked %q while in use", got)
		}
		Change(api, "", "n1", func(n *corev1.Node) { n.Status.VolumesInUse = nil })
		if got := driver.asked(); got != "unpublish id-1 id-of-n1; publish id-1 id-of-n2" {
			t.Errorf("asked %q", got)
		}
		// The end of the pod and its claim: detached first, deleted then.
		Drop[*corev1.Pod](api, "ns", "q")
		Drop[*corev1.PersistentVolumeClaim](api, "ns", "c")
		if got := driver.asked(); got != "unpublish id-1 id-of-n2; delete id-1 sesame" {
			t.Errorf("asked %q", got)
		}
		expect(t, api, "reclaimed", "")
	})
}

func TestAttachmentThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := &arrays{}
		api := driverCluster(t, driver)
		driver.asked()
		driver.mu.Lock()
		driver.fail = errors.New("array is on fire")
		driver.mu.Unlock()
		Put(api, runsOn("p", "n1", "c"))
		synctest.Wait()
		if got := reasons(api, "p"); !strings.Contains(got, "FailedAttachVolume: AttachVolume.Attach failed for volume ") || !strings.Contains(got, "array is on fire") {
			t.Errorf("events %s", got)
		}
	})
}

func TestEphemeralClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, EphemeralVolumes(api.Env(t)))
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
			Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: claim("", "1Gi", "x").Spec}}}}}}}
		Put(api, claim("p-v", "1Gi", "y"))
		Put(api, pod)
		if got := reasons(api, "p"); !strings.Contains(got, "FailedBinding: ephemeral volume controller: PVC ns/p-v was not created for pod ns/p (pod is not owner)") {
			t.Errorf("events %s", got)
		}
		Drop[*corev1.PersistentVolumeClaim](api, "ns", "p-v")
		synctest.Wait()
		made, ok := client.From[*corev1.PersistentVolumeClaim](api.Client(), api.Snapshot(), "ns", "p-v")
		if !ok || ptr.Deref(made.Spec.StorageClassName, "") != "x" || made.Labels["a"] != "b" || !metav1.IsControlledBy(made, All[*corev1.Pod](api)[0]) {
			t.Errorf("claim %+v", made)
		}
	})
}
