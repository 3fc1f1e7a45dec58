package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller/controllertest"
)

func storageClass(name, provisioner string, mode storagev1.VolumeBindingMode, change ...func(*storagev1.StorageClass)) *storagev1.StorageClass {
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
	for _, f := range change {
		f(c)
	}
	return c
}

func storageClasses() []func(*world) {
	return []func(*world){
		has(storageClass("made", "example.com/csi", storagev1.VolumeBindingWaitForFirstConsumer)),
		has(storageClass("here", noProvisioner, storagev1.VolumeBindingWaitForFirstConsumer)),
		has(storageClass("now", "example.com/csi", storagev1.VolumeBindingImmediate)),
	}
}

func claim(name, class string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("claim-" + name)},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func boundTo(volume string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Spec.VolumeName, c.Status.Phase = volume, corev1.ClaimBound
		c.Annotations = map[string]string{bindCompleted: "yes"}
	}
}

func mode(m corev1.PersistentVolumeAccessMode) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{m} }
}

func volume(name, size string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("volume-" + name)},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: "here", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	for _, f := range change {
		f(v)
	}
	return v
}

func onlyOn(node string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{expression(corev1.LabelHostname, corev1.NodeSelectorOpIn, node)}}}
	}
}

func csi(driver string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: v.Name}
	}
}

func reserved(claim string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: claim}
	}
}

func uses(claims ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, c := range claims {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: c, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c}}})
		}
	}
}

func csiNode(name, driver string, count int32) *storagev1.CSINode {
	return &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.CSINodeSpec{
		Drivers: []storagev1.CSINodeDriver{{Name: driver, Allocatable: &storagev1.VolumeNodeResources{Count: &count}}}}}
}

func TestVolumes(t *testing.T) {
	const outright = " no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
	two := []*corev1.Node{node("a", zone("1")), node("b", zone("2"), allocatable("cpu=2"))}
	yes := true
	capacity := func(size string) *storagev1.CSIStorageCapacity {
		q := resource.MustParse(size)
		return &storagev1.CSIStorageCapacity{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "c"}, StorageClassName: "made", Capacity: &q,
			NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelTopologyZone: "2"}}}
	}
	for name, c := range map[string]struct {
		objects []func(*world)
		running []*corev1.Pod
		pod     *corev1.Pod
		want    string // the node and the volumes promised, or the reason
	}{
		"no claim":           {nil, nil, pod("p", uses("c")), `0/2 nodes are available: persistentvolumeclaim "c" not found.` + outright},
		"unbound, immediate": {[]func(*world){has(claim("c", "now"))}, nil, pod("p", uses("c")), "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims." + outright},
		"no such class":      {[]func(*world){has(claim("c", "gone"))}, nil, pod("p", uses("c")), "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims." + outright},
		"claim on its way out": {[]func(*world){has(claim("c", "made", func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = &metav1.Time{} }))}, nil, pod("p", uses("c")),
			`0/2 nodes are available: persistentvolumeclaim "c" is being deleted.` + outright},
		"lost": {[]func(*world){has(claim("c", "made", boundTo("v"), func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost }))}, nil, pod("p", uses("c")),
			`0/2 nodes are available: persistentvolumeclaim "c" bound to non-existent persistentvolume "v".` + outright},
		"volume is gone": {[]func(*world){has(claim("c", "made", boundTo("v")))}, nil, pod("p", uses("c")),
			"0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)." + outright},
		"ephemeral, not yet made": {nil, nil, pod("p", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
		}), `0/2 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim "p-v".` + outright},
		"ephemeral, of another": {[]func(*world){has(claim("p-v", "made"))}, nil, pod("p", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
		}), "0/2 nodes are available: PVC default/p-v was not created for pod default/p (pod is not owner)." + outright},
		"bound, of one node": {[]func(*world){has(claim("c", "here", boundTo("v"))), has(volume("v", "1Gi", onlyOn("b")))}, nil, pod("p", uses("c")), "b"},
		"bound, of a node that is full": {[]func(*world){has(claim("c", "here", boundTo("v"))), has(volume("v", "1Gi", onlyOn("b")))}, nil, pod("p", uses("c"), requests("cpu=3")),
			"0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had volume node affinity conflict." + outright},
		"bound, with a zone": {[]func(*world){has(claim("c", "here", boundTo("v"))),
			has(volume("v", "1Gi", func(v *corev1.PersistentVolume) { v.Labels = map[string]string{corev1.LabelTopologyZone: "0__2"} }))}, nil, pod("p", uses("c")), "b"},
		"the smallest that fits":     {[]func(*world){has(claim("c", "here")), has(volume("x", "5Gi", onlyOn("b"))), has(volume("y", "2Gi", onlyOn("b"))), has(volume("z", "1Mi", onlyOn("b")))}, nil, pod("p", uses("c")), "b y"},
		"two claims, two volumes":    {[]func(*world){has(claim("c", "here")), has(claim("d", "here")), has(volume("x", "1Gi", onlyOn("b"))), has(volume("y", "2Gi", onlyOn("b")))}, nil, pod("p", uses("c", "d")), "b x y"},
		"two claims, one volume":     {[]func(*world){has(claim("c", "here")), has(claim("d", "here")), has(volume("x", "1Gi"))}, nil, pod("p", uses("c", "d")), "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind." + outright},
		"reserved for the claim":     {[]func(*world){has(claim("c", "here")), has(volume("x", "1Gi", onlyOn("a"))), has(volume("y", "9Gi", onlyOn("b"), reserved("c")))}, nil, pod("p", uses("c")), "b y"},
		"reserved for another":       {[]func(*world){has(claim("c", "here")), has(volume("x", "1Gi", reserved("d")))}, nil, pod("p", uses("c")), "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind." + outright},
		"made on demand":             {[]func(*world){has(claim("c", "made"))}, nil, pod("p", uses("c"), selects(corev1.LabelHostname, "b")), "b"},
		"being made on another node": {[]func(*world){has(claim("c", "made", func(c *corev1.PersistentVolumeClaim) { c.Annotations = map[string]string{selectedNode: "b"} }))}, nil, pod("p", uses("c")), "b"},
		"made in one zone": {[]func(*world){has(claim("c", "zoned")), has(storageClass("zoned", "example.com/csi", storagev1.VolumeBindingWaitForFirstConsumer, func(c *storagev1.StorageClass) {
			c.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelTopologyZone, Values: []string{"2"}}}}}
		}))}, nil, pod("p", uses("c")), "b"},
		"made where there is room": {[]func(*world){has(claim("c", "made")), has(&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "example.com/csi"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: &yes}}), has(capacity("1Gi"))},
			nil, pod("p", uses("c")), "b"},
		"no room anywhere": {[]func(*world){has(claim("c", "made")), has(&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "example.com/csi"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: &yes}}), has(capacity("1Mi"))},
			nil, pod("p", uses("c")), "0/2 nodes are available: 2 node(s) did not have enough free storage." + outright},
		"for one pod alone": {[]func(*world){has(claim("c", "here", boundTo("v"), mode(corev1.ReadWriteOncePod))), has(volume("v", "1Gi"))}, []*corev1.Pod{pod("r", uses("c"), on("a"))}, pod("p", uses("c")),
			"0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode." +
				" no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."},
		"for many pods": {[]func(*world){has(claim("c", "here", boundTo("v"))), has(volume("v", "1Gi", onlyOn("b")))}, []*corev1.Pod{pod("r", uses("c"), on("b"))}, pod("p", uses("c")), "b"},
		"as many as the driver attaches": {[]func(*world){has(csiNode("a", "d", 1)), has(csiNode("b", "d", 2)), has(claim("c", "here", boundTo("v"))), has(claim("x", "here", boundTo("w"))), has(claim("y", "here", boundTo("u"))),
			has(volume("v", "1Gi", csi("d"))), has(volume("w", "1Gi", csi("d"))), has(volume("u", "1Gi", csi("d")))},
			[]*corev1.Pod{pod("r", uses("x"), on("a")), pod("s", uses("y"), on("b"))}, pod("p", uses("c")), "b"},
		"attached already": {[]func(*world){has(csiNode("a", "d", 1)), has(csiNode("b", "d", 0)), has(claim("c", "here", boundTo("v"))), has(volume("v", "1Gi", csi("d")))},
			[]*corev1.Pod{pod("r", uses("c"), on("a"))}, pod("p", uses("c")), "a"},
		"more than the driver attaches": {[]func(*world){has(csiNode("a", "example.com/csi", 1)), has(csiNode("b", "example.com/csi", 0)), has(claim("c", "made")), has(claim("d", "made"))}, nil, pod("p", uses("c", "d")),
			"0/2 nodes are available: 2 node(s) exceed max volume count. no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."},
		"a disk":                   {nil, []*corev1.Pod{pod("r", disks("x", true), on("a"))}, pod("p", disks("x", false)), "b"},
		"a disk that is only read": {nil, []*corev1.Pod{pod("r", disks("x", true), on("a")), pod("s", requests("cpu=2"), on("b"))}, pod("p", disks("x", true), requests("cpu=1")), "a"},
	} {
		t.Run(name, func(t *testing.T) {
			nodes, why, _ := build(two, c.running, append(storageClasses(), c.objects...)...).schedule(c.pod, 1)
			if got := strings.Join(nodes, " ") + why; got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func disks(name string, readOnly bool) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{IQN: name, ReadOnly: readOnly}}})
	}
}

// Two pods of one batch are not promised the same volume, nor one claim on two nodes.
func TestPromisesOfABatch(t *testing.T) {
	w := build([]*corev1.Node{node("a"), node("b")}, nil, append(storageClasses(), has(claim("c", "here")), has(claim("d", "here")), has(claim("shared", "made")),
		has(volume("x", "1Gi", onlyOn("a"))), has(volume("y", "1Gi", onlyOn("b"))))...)
	var got []string
	for _, p := range []*corev1.Pod{pod("p", uses("c")), pod("q", uses("d"))} {
		nodes, why, _ := w.schedule(p, 1)
		got = append(got, strings.Join(nodes, " ")+why)
	}
	if slices.Sort(got); fmt.Sprint(got) != "[a x b y]" {
		t.Errorf("got %q", got)
	}
	first, _, _ := w.schedule(pod("r", uses("shared")), 1)
	second, _, _ := w.schedule(pod("s", uses("shared")), 1)
	if len(first) != 1 || !slices.Equal(first, second) {
		t.Errorf("one claim on %v and %v", first, second)
	}
}

// A pod whose claim waits for its node: the claim learns of the node, and the pod gets it once the claim is bound.
func TestPodWaitsForItsClaim(t *testing.T) {
	play(t, func(t *testing.T, a *api) {
		controllertest.Put(a.API, storageClass("made", "example.com/csi", storagev1.VolumeBindingWaitForFirstConsumer))
		controllertest.Put(a.API, claim("c", "made"))
		controllertest.Put(a.API, node("a", allocatable("cpu=2")))
		controllertest.Put(a.API, pod("p", requests("cpu=2"), uses("c")))
		a.expect(t, "p=-")
		chosen := func() string {
			c, err := client.Get[*corev1.PersistentVolumeClaim](t.Context(), a.Client(), "default", "c")
			if err != nil {
				t.Fatal(err)
			}
			return c.Annotations[selectedNode]
		}
		if chosen() != "a" {
			t.Errorf("selected node %q", chosen())
		}
		p, _ := client.Get[*corev1.Pod](t.Context(), a.Client(), "default", "p")
		if p.Status.NominatedNodeName != "a" {
			t.Errorf("nominated %q", p.Status.NominatedNodeName)
		}
		// Its room is taken meanwhile.
		controllertest.Put(a.API, pod("q", requests("cpu=1")))
		a.expect(t, "p=- q=-")
		// What makes the volume gives up, by taking the node back: another attempt follows.
		controllertest.Change(a.API, "default", "c", func(c *corev1.PersistentVolumeClaim) { c.Annotations = nil })
		time.Sleep(2 * mostBackoff)
		synctest.Wait()
		if got := a.events("p"); !slices.Contains(got, `Warning FailedScheduling: running PreBind plugin "VolumeBinding": binding volumes: provisioning failed for PVC "c"`) {
			t.Errorf("events: %q", got)
		}
		controllertest.Drop[*corev1.Pod](a.API, "default", "q")
		time.Sleep(2 * mostBackoff)
		synctest.Wait()
		if chosen() != "a" {
			t.Fatalf("selected node %q", chosen())
		}
		controllertest.Put(a.API, volume("v", "1Gi", onlyOn("a")))
		controllertest.Change(a.API, "default", "c", boundTo("v"))
		a.expect(t, "p=a")
	})
}

func TestPodWaitsForItsClaimInVain(t *testing.T) {
	play(t, func(t *testing.T, a *api) {
		controllertest.Put(a.API, storageClass("here", noProvisioner, storagev1.VolumeBindingWaitForFirstConsumer))
		controllertest.Put(a.API, claim("c", "here"))
		controllertest.Put(a.API, volume("v", "1Gi", onlyOn("a")))
		controllertest.Put(a.API, node("a"))
		controllertest.Put(a.API, pod("p", uses("c")))
		a.expect(t, "p=-")
		v, _ := client.Get[*corev1.PersistentVolume](t.Context(), a.Client(), "", "v")
		if ref := v.Spec.ClaimRef; ref == nil || ref.Name != "c" || ref.UID != "claim-c" || v.Annotations[boundByController] != "yes" {
			t.Errorf("volume %+v", v)
		}
		time.Sleep(mostWait)
		synctest.Wait()
		if got := a.events("p"); !slices.Contains(got, `Warning FailedScheduling: running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded`) {
			t.Errorf("events: %q", got)
		}
		controllertest.Drop[*corev1.Pod](a.API, "default", "p")
		a.expect(t, "")
	})
}

func TestClaimWakesItsPod(t *testing.T) {
	play(t, func(t *testing.T, a *api) {
		controllertest.Put(a.API, storageClass("now", "example.com/csi", storagev1.VolumeBindingImmediate))
		controllertest.Put(a.API, claim("c", "now"))
		controllertest.Put(a.API, node("a"))
		controllertest.Put(a.API, pod("p", uses("c")))
		a.expect(t, "p=-")
		a.Writes()
		controllertest.Put(a.API, node("b")) // helps nobody
		time.Sleep(mostBackoff)
		synctest.Wait()
		if w := a.Writes(); len(w) > 0 {
			t.Errorf("a node woke it: %q", w)
		}
		controllertest.Put(a.API, volume("v", "1Gi", onlyOn("b")))
		controllertest.Change(a.API, "default", "c", boundTo("v"))
		time.Sleep(mostBackoff)
		a.expect(t, "p=b")
	})
}
