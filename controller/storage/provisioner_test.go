package storage

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	. "github.com/kebernetes/kebernetes/controller/controllertest"
	"github.com/kebernetes/kebernetes/volume/csi"
	"github.com/kebernetes/kebernetes/volume/local"
)

// nodeDisks gives every node folders below dir, and the CSI driver, if there is one; nodes that are off answer nothing.
type nodeDisks struct {
	dir    string
	driver spec.ControllerServer
	off    map[string]bool
}

func (d *nodeDisks) dial(node, driver string) grpc.ClientConnInterface {
	relay := &csi.Relay{Driver: func(name string) (grpc.ClientConnInterface, error) {
		if name != LocalProvisioner {
			return csi.InProcess(&spec.Controller_ServiceDesc, d.driver), nil
		}
		folders, err := local.Open(filepath.Join(d.dir, node))
		if err != nil {
			return nil, err
		}
		return csi.InProcess(&spec.Controller_ServiceDesc, folders), nil
	}}
	return csi.Dial(func() (http.Handler, error) {
		if d.off[node] {
			return nil, fmt.Errorf("no agent of node %s is connected", node)
		}
		return relay, nil
	}, driver)
}

// start runs all controllers of the package.
func start(t *testing.T, api *API, drivers Drivers) {
	Start(t, append(Controllers(api.Env(t)), DriverControllers(api.Env(t), drivers)...)...)
}

func readyNode(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
}

func localClass(policy corev1.PersistentVolumeReclaimPolicy) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: LocalProvisioner, ReclaimPolicy: &policy,
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer), AllowVolumeExpansion: ptr.To(true)}
}

func chosen(name, size, class, node string) *corev1.PersistentVolumeClaim {
	c := claim(name, size, class)
	c.Annotations = map[string]string{selectedNode: node}
	return c
}

// reasons lists the events of an object.
func reasons(api *API, name string) (out string) {
	synctest.Wait()
	for _, e := range All[*corev1.Event](api) {
		if e.InvolvedObject.Name == name {
			out += e.Reason + ": " + e.Message + "\n"
		}
	}
	return out
}

func TestLocalFoldersAreMadeAndReclaimed(t *testing.T) {
	for _, policy := range []corev1.PersistentVolumeReclaimPolicy{corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain} {
		t.Run(string(policy), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				api := newAPI()
				Put(api, readyNode("n1"))
				Put(api, localClass(policy))
				start(t, api, (&nodeDisks{dir: dir}).dial)
				Put(api, claim("c", "1Gi", "local"))
				expect(t, api, "no node chosen yet", " c Pending ;")
				Change(api, "ns", "c", func(c *corev1.PersistentVolumeClaim) { c.Annotations = map[string]string{selectedNode: "n1"} })
				synctest.Wait()
				volumes := All[*corev1.PersistentVolume](api)
				if len(volumes) != 1 {
					t.Fatalf("volumes %v, events %s", volumes, reasons(api, "c"))
				}
				v := volumes[0]
				expect(t, api, "provisioned", v.Name+" Bound; c Bound "+v.Name+";")
				if v.Spec.Local.Path != filepath.Join(dir, "n1", v.Name) || v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0] != "n1" {
					t.Errorf("volume %+v", v.Spec)
				}
				if bounded := v.Annotations[localBounded]; bounded != "true" && bounded != "false" {
					t.Errorf("whether the folder is kept within its size: %q", bounded)
				}
				if err := os.WriteFile(filepath.Join(v.Spec.Local.Path, "row"), []byte("1"), 0o600); err != nil {
					t.Fatal(err)
				}
				Change(api, "ns", "c", func(c *corev1.PersistentVolumeClaim) {
					c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("3Gi")
				})
				synctest.Wait()
				grown, _ := client.From[*corev1.PersistentVolumeClaim](api.Client(), api.Snapshot(), "ns", "c")
				if q := grown.Status.Capacity[corev1.ResourceStorage]; q.String() != "3Gi" {
					t.Errorf("capacity after growing: %s", q.String())
				}
				if err := client.Remove[*corev1.PersistentVolumeClaim](t.Context(), api.Client(), "ns", "c", metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				_, err := os.Stat(filepath.Join(v.Spec.Local.Path, "row"))
				if policy == corev1.PersistentVolumeReclaimRetain {
					expect(t, api, "retained", v.Name+" Released;")
					if err := client.Remove[*corev1.PersistentVolume](t.Context(), api.Client(), "", v.Name, metav1.DeleteOptions{}); err != nil {
						t.Fatal(err)
					}
					expect(t, api, "let go by hand", "")
					if err != nil {
						t.Errorf("data of a retained volume: %v", err)
					}
					return
				}
				expect(t, api, "reclaimed", "")
				if !errors.Is(err, os.ErrNotExist) {
					t.Errorf("data of a deleted volume: %v", err)
				}
				for _, want := range []string{"WaitForFirstConsumer", "ExternalProvisioning", "Provisioning: External provisioner is provisioning volume for claim \"ns/c\"",
					"ProvisioningSucceeded: Successfully provisioned volume " + v.Name, "VolumeResizeSuccessful"} {
					if got := reasons(api, "c"); !strings.Contains(got, want) {
						t.Errorf("no event %s in\n%s", want, got)
					}
				}
			})
		})
	}
}

func TestClaimsThatCannotBeProvisionedSayWhy(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*corev1.PersistentVolumeClaim, *storagev1.StorageClass)
		want   string
	}{
		"many nodes": {func(c *corev1.PersistentVolumeClaim, _ *storagev1.StorageClass) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}, "only the access modes ReadWriteOnce and ReadWriteOncePod are supported"},
		"block": {func(c *corev1.PersistentVolumeClaim, _ *storagev1.StorageClass) {
			c.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
		}, "only volumeMode Filesystem is supported"},
		"selector": {func(c *corev1.PersistentVolumeClaim, _ *storagev1.StorageClass) {
			c.Spec.Selector = &metav1.LabelSelector{}
		}, `failed to provision volume with StorageClass "local": claim Selector is not supported`},
		"at once": {func(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) {
			class.VolumeBindingMode, c.Annotations = nil, nil
		}, "set volumeBindingMode of the class to WaitForFirstConsumer"},
		"no such node": {func(c *corev1.PersistentVolumeClaim, _ *storagev1.StorageClass) { c.Annotations[selectedNode] = "n9" },
			`node "n9" is not in the cluster`},
		"no such class": {func(c *corev1.PersistentVolumeClaim, _ *storagev1.StorageClass) {
			c.Spec.StorageClassName = ptr.To("fast")
		},
			`storageclass.storage.k8s.io "fast" not found`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				api := newAPI()
				Put(api, readyNode("n1"))
				c, class := chosen("c", "1Gi", "local", "n1"), localClass(corev1.PersistentVolumeReclaimDelete)
				test.change(c, class)
				Put(api, class)
				start(t, api, (&nodeDisks{dir: dir}).dial)
				Put(api, c)
				expect(t, api, "refused", " c Pending ;")
				if got := reasons(api, "c"); !strings.Contains(got, "ProvisioningFailed: ") || !strings.Contains(got, test.want) {
					t.Errorf("events\n%swant %s", got, test.want)
				}
			})
		})
	}
}

// TestNodeComesBack: a volume whose node is away is deleted once it is back, and what a crash left there goes, unless it holds data.
func TestNodeComesBack(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"pvc-left", "pvc-full", "mine"} {
		if err := os.MkdirAll(filepath.Join(dir, "n1", name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "n1", "pvc-full", "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		api, disks := newAPI(), &nodeDisks{dir: dir, off: map[string]bool{}}
		Put(api, readyNode("n1"))
		Put(api, localClass(corev1.PersistentVolumeReclaimDelete))
		start(t, api, disks.dial)
		Put(api, chosen("c", "1Gi", "local", "n1"))
		synctest.Wait()
		v := All[*corev1.PersistentVolume](api)[0]
		ready := func(status corev1.ConditionStatus) {
			Change(api, "", "n1", func(n *corev1.Node) { n.Status.Conditions[0].Status = status })
		}
		ready(corev1.ConditionUnknown)
		Drop[*corev1.PersistentVolumeClaim](api, "ns", "c")
		expect(t, api, "the node is away", v.Name+" Released;")
		if got := reasons(api, v.Name); !strings.Contains(got, `VolumeFailedDelete: rpc error: code = Unavailable desc = node "n1" is not ready`) {
			t.Errorf("events %s", got)
		}
		ready(corev1.ConditionTrue)
		expect(t, api, "the node is back", "")
		left, err := os.ReadDir(filepath.Join(dir, "n1"))
		if err != nil || fmt.Sprint(left) != "[d mine/ d pvc-full/]" {
			t.Errorf("on disk: %v, %v", left, err)
		}
	})
}
