package storage

import (
	"fmt"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	. "github.com/kebernetes/kebernetes/controller/controllertest"
)

func newAPI() *API {
	return New(
		Row[corev1.Pod, corev1.PodList]("", "v1", "pods", true),
		Row[corev1.Node, corev1.NodeList]("", "v1", "nodes", false),
		Row[corev1.Secret, corev1.SecretList]("", "v1", "secrets", true),
		Row[storagev1.CSIDriver, storagev1.CSIDriverList]("storage.k8s.io", "v1", "csidrivers", false),
		Row[storagev1.CSINode, storagev1.CSINodeList]("storage.k8s.io", "v1", "csinodes", false),
		Row[storagev1.VolumeAttachment, storagev1.VolumeAttachmentList]("storage.k8s.io", "v1", "volumeattachments", false),
		Row[corev1.Event, corev1.EventList]("", "v1", "events", true),
		Row[corev1.PersistentVolume, corev1.PersistentVolumeList]("", "v1", "persistentvolumes", false),
		Row[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList]("", "v1", "persistentvolumeclaims", true),
		Row[storagev1.StorageClass, storagev1.StorageClassList]("storage.k8s.io", "v1", "storageclasses", false),
	)
}

func volume(name, size, class string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, StorageClassName: class,
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
	}}
}

func claim(name, size, class string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: ptr.To(class), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
	}}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	return c
}

// state tells of all volumes and claims what they are and what they hold.
func state(api *API) (out string) {
	synctest.Wait()
	for _, v := range All[*corev1.PersistentVolume](api) {
		out += fmt.Sprintf("%s %s;", v.Name, v.Status.Phase)
	}
	for _, c := range All[*corev1.PersistentVolumeClaim](api) {
		out += fmt.Sprintf(" %s %s %s;", c.Name, c.Status.Phase, c.Spec.VolumeName)
	}
	return out
}

func expect(t *testing.T, api *API, when, want string) {
	t.Helper()
	if got := state(api); got != want {
		t.Errorf("%s: %s\nwant %s", when, got, want)
	}
}

func TestClaimsFindVolumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, VolumeBinder(api.Env(t)))
		Put(api, claim("c", "2Gi", ""))
		expect(t, api, "no volume", " c Pending ;")
		Put(api, volume("large", "10Gi", ""))
		expect(t, api, "a volume that fits", "large Bound; c Bound large;")
		for _, v := range []*corev1.PersistentVolume{volume("mid", "5Gi", ""), volume("other-class", "3Gi", "fast"), volume("small", "1Gi", "")} {
			Put(api, v)
		}
		synctest.Wait()
		Put(api, claim("d", "2Gi", ""))
		expect(t, api, "the smallest that fits", "large Bound;mid Bound;other-class Available;small Available; c Bound large; d Bound mid;")
		api.Writes()
		Change(api, "ns", "d", func(c *corev1.PersistentVolumeClaim) { c.Labels = map[string]string{"a": "b"} })
		synctest.Wait()
		if w := api.Writes(); len(w) > 0 {
			t.Errorf("writes %q for a bound claim", w)
		}
		Drop[*corev1.PersistentVolumeClaim](api, "ns", "d")
		Drop[*corev1.PersistentVolume](api, "", "large")
		expect(t, api, "after losses", "mid Released;other-class Available;small Available; c Lost large;")
	})
}

func TestReservedVolumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, VolumeBinder(api.Env(t)))
		reserved := volume("reserved", "5Gi", "")
		reserved.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "mine"}
		Put(api, reserved)
		Put(api, volume("free", "2Gi", ""))
		Put(api, claim("other", "4Gi", ""))
		expect(t, api, "reserved for another", "free Available;reserved Available; other Pending ;")
		Put(api, claim("mine", "1Gi", ""))
		expect(t, api, "reserved for this one", "free Available;reserved Bound; mine Bound reserved; other Pending ;")
		taken := claim("taken", "1Gi", "")
		taken.Spec.VolumeName = "reserved"
		Put(api, taken)
		expect(t, api, "a volume of another", "free Available;reserved Bound; mine Bound reserved; other Pending ; taken Pending reserved;")
	})
}

func TestProvisionersAreAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, VolumeBinder(api.Env(t)))
		Put(api, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "now"}, Provisioner: "example.com/p"})
		Put(api, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "late"}, Provisioner: "example.com/p", VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)})
		Put(api, claim("now", "1Gi", "now"))
		Put(api, claim("late", "1Gi", "late"))
		synctest.Wait()
		asked := func(name string) bool {
			c, _ := client.From[*corev1.PersistentVolumeClaim](api.Client(), api.Snapshot(), "ns", name)
			return c.Annotations[storageProvisioner] == "example.com/p"
		}
		if !asked("now") || asked("late") {
			t.Errorf("asked at once: %t, before a node is chosen: %t", asked("now"), asked("late"))
		}
		Change(api, "ns", "late", func(c *corev1.PersistentVolumeClaim) { c.Annotations = map[string]string{selectedNode: "n"} })
		synctest.Wait()
		if !asked("late") {
			t.Error("not asked after a node was chosen")
		}
		made := volume("made", "1Gi", "now")
		made.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "now", UID: All[*corev1.PersistentVolumeClaim](api)[1].UID}
		Put(api, made)
		expect(t, api, "provisioned", "made Bound; late Pending ; now Bound made;")
	})
}

func TestProtection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, Controllers(api.Env(t))...)
		Put(api, volume("v", "1Gi", ""))
		Put(api, claim("c", "1Gi", ""))
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n",
			Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}}}
		Put(api, pod)
		expect(t, api, "bound", "v Bound; c Bound v;")
		for _, err := range []error{
			client.Remove[*corev1.PersistentVolumeClaim](t.Context(), api.Client(), "ns", "c", metav1.DeleteOptions{}),
			client.Remove[*corev1.PersistentVolume](t.Context(), api.Client(), "", "v", metav1.DeleteOptions{}),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		expect(t, api, "in use", "v Bound; c Bound v;")
		Drop[*corev1.Pod](api, "ns", "p")
		expect(t, api, "no longer in use", "")
	})
}
