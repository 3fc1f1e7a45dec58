package podspec

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/randfill"
)

// Whatever stands in a pod, it is judged and the judgement can be printed.
func FuzzPod(f *testing.F) {
	for _, seed := range []string{"", "a pod", "another pod that is somewhat longer, so that more of it is filled in"} {
		f.Add([]byte(seed))
	}
	amounts := []string{"0", "1", "-1", "500m", "1Gi", "100n", "1e30", "9223372036854775807"}
	names := []string{"", "a", "A b", "a.b", "..", "/", "c", "hugepages-2Mi", "hugepages-1e30", "cpu", "memory", "v.example/d", "metadata.labels['a']", "$(A)"}
	f.Fuzz(func(t *testing.T, data []byte) {
		fill := randfill.NewFromGoFuzz(data).NilChance(.3).NumElements(0, 3).MaxDepth(12).Funcs(
			func(q *resource.Quantity, c randfill.Continue) {
				*q = resource.MustParse(amounts[c.Intn(len(amounts))])
			},
			func(s *string, c randfill.Continue) { *s = names[c.Intn(len(names))] },
			func(p *intstr.IntOrString, c randfill.Continue) {
				*p = intstr.FromString(names[c.Intn(len(names))])
				if c.Bool() {
					*p = intstr.FromInt32(c.Int31())
				}
			},
			func(m *metav1.ObjectMeta, c randfill.Continue) {
				c.Fill(&m.Name)
				c.Fill(&m.Annotations)
			},
		)
		pod, old := &corev1.Pod{}, &corev1.Pod{}
		fill.Fill(pod)
		fill.Fill(old)
		DefaultPod(pod)
		before := pod.DeepCopy()
		DefaultPod(old)
		for _, errs := range []field.ErrorList{
			ValidatePod(pod), ValidatePodUpdate(pod, old), ValidateResize(pod, old), ValidateEphemeralUpdate(pod, old), ValidateStatusUpdate(pod, old),
			ValidateTemplate(&corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}, field.NewPath("template")),
		} {
			_ = lines(errs)
		}
		PodWarnings(pod, nil)
		QOSClass(pod)
		DefaultPod(pod)
		if got, want := toYAML(t, pod), toYAML(t, before); got != want {
			t.Errorf("a second run of the defaults, or a check, changed\n%s\nto\n%s", want, got)
		}
		MergeLabelKeys(&pod.Spec, pod.Labels)
	})
}
