package fields

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/builtin"
)

func pod(change func(*corev1.Pod)) kinds.Object {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"app": "x", "tier": "y"}}, Spec: corev1.PodSpec{
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Containers: []corev1.Container{{
			Name: "c", Image: "i", Args: []string{"a"}, Env: []corev1.EnvVar{{Name: "A", Value: "1"}},
			Ports:     []corev1.ContainerPort{{ContainerPort: 80, Protocol: corev1.ProtocolTCP}},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
		}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
	}}
	change(p)
	return p
}

// TestCreatedIsWhatTheMergeSays creates objects one after the other, so that all may take their fields from one before, and
// compares each with what a manager that has seen nothing records.
func TestCreatedIsWhatTheMergeSays(t *testing.T) {
	pods := []func(*corev1.Pod){
		func(*corev1.Pod) {},
		func(p *corev1.Pod) { p.Name, p.Labels["app"] = "q", "z" },
		func(p *corev1.Pod) { p.Labels = map[string]string{"app": "x"} },
		func(p *corev1.Pod) { p.Labels = map[string]string{} },
		func(p *corev1.Pod) { p.Annotations = map[string]string{"a": ""} },
		func(p *corev1.Pod) { p.Spec.Containers[0].Name = "d" },
		func(p *corev1.Pod) { p.Spec.Containers[0].Image = "" },
		func(p *corev1.Pod) { p.Spec.Containers[0].Args = []string{} },
		func(p *corev1.Pod) { p.Spec.Containers[0].Args = []string{"b", "c"} },
		func(p *corev1.Pod) { p.Spec.Containers[0].Env[0].Value = "2" },
		func(p *corev1.Pod) { p.Spec.Containers[0].Env[0].Name = "B" },
		func(p *corev1.Pod) { p.Spec.Containers[0].Env[0].Value = "" },
		func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 81 },
		func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].Protocol = "" },
		func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].Name = "http" },
		func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests["memory"] = resource.MustParse("1Gi") },
		func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests["cpu"] = resource.Quantity{} },
		func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
				HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(80)}}}
		},
		func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
				HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("http")}}}
		},
		func(p *corev1.Pod) { p.Spec.Volumes[0].Name = "w" },
		func(p *corev1.Pod) { p.Spec.Volumes[0].EmptyDir = nil },
		func(p *corev1.Pod) { p.Spec.Volumes[0].EmptyDir.Medium = "Memory" },
		func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64) },
		func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{}} },
		func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "s"}} },
		func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{{UID: "1", Name: "a"}} },
		func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{{UID: "2", Name: "a"}} },
		func(p *corev1.Pod) { p.Finalizers = []string{"a"} },
		func(p *corev1.Pod) { p.Finalizers = []string{"b"} },
		func(p *corev1.Pod) { p.CreationTimestamp = metav1.Unix(1, 0) },
		func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"n": "1"} },
		func(p *corev1.Pod) { p.Status.Conditions = []corev1.PodCondition{{Type: "A"}} },
		func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: "B", LastTransitionTime: metav1.Unix(1, 0)}}
		},
		func(p *corev1.Pod) { p.Status.StartTime = &metav1.Time{} },
		func(p *corev1.Pod) {
			p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)}}
		},
		func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: "{}"} },
	}
	var objects []kinds.Object
	for _, change := range pods {
		objects = append(objects, pod(change))
	}
	deployment := func(surge *intstr.IntOrString) kinds.Object {
		d := &appsv1.Deployment{}
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: surge}
		d.Spec.Template.Spec = pod(func(*corev1.Pod) {}).(*corev1.Pod).Spec
		return d
	}
	zero, one := intstr.FromInt32(0), intstr.FromString("1")
	objects = append(objects, deployment(nil), deployment(&zero), deployment(&one), deployment(&intstr.IntOrString{StrVal: "x"}))

	table := builtin.Table()
	seen := New()
	for round := range 2 {
		for i, obj := range objects {
			gr := schema.GroupResource{Resource: "pods"}
			if _, ok := obj.(*appsv1.Deployment); ok {
				gr = schema.GroupResource{Group: "apps", Resource: "deployments"}
			}
			k := table.Resource(gr)
			now := time.Unix(int64(i), 0)
			got, err := seen.Created(k, k.Storage(), obj.DeepCopyObject().(kinds.Object), "m", now)
			if err != nil {
				t.Fatal(err)
			}
			want, err := New().Created(k, k.Storage(), obj.DeepCopyObject().(kinds.Object), "m", now)
			if err != nil {
				t.Fatal(err)
			}
			if a, b := entries(got), entries(want); a != b {
				t.Errorf("round %d, %T %d:\n%s\nthe merge says\n%s", round, obj, i, a, b)
			}
		}
	}
}

func entries(obj kinds.Object) (out string) {
	for _, e := range obj.GetManagedFields() {
		out += fmt.Sprintln(e.Manager, e.Operation, e.APIVersion, e.Subresource, e.FieldsType, e.FieldsV1.GetRawString())
	}
	return out
}

func TestCreatedForgets(t *testing.T) {
	table := builtin.Table()
	k := table.Resource(schema.GroupResource{Resource: "configmaps"})
	f := New()
	for i := range maxSets + 10 {
		cm := &corev1.ConfigMap{Data: map[string]string{fmt.Sprint(i): ""}}
		if _, err := f.Created(k, k.Storage(), cm, "m", time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if f.sets > maxSets || len(f.created[k.Storage()]) != f.sets {
		t.Errorf("%d sets are kept, %d are counted", len(f.created[k.Storage()]), f.sets)
	}
}

func BenchmarkCreated(b *testing.B) {
	k := builtin.Table().Resource(schema.GroupResource{Resource: "pods"})
	f := New()
	p := pod(func(*corev1.Pod) {})
	b.ReportAllocs()
	for b.Loop() {
		p.SetManagedFields(nil)
		if _, err := f.Created(k, k.Storage(), p, "m", time.Unix(0, 0)); err != nil {
			b.Fatal(err)
		}
	}
}
