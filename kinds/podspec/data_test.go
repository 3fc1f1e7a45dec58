package podspec

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

var rewrite = flag.Bool("rewrite", false, "write what the code answers into testdata")

// A test file is a list of cases, parted by blank lines:
//
//	# what the case shows
//	the input, YAML
//	----
//	the answer
//
// The input has two keys: container is merged into the one container of a minimal pod, spec then into the pod's spec. Files
// about updates have before, which makes the old pod in the same way, and after, which is merged into its spec.
type input struct {
	Metadata  json.RawMessage
	Container json.RawMessage
	Spec      json.RawMessage
	Status    json.RawMessage
	Before    *input
	After     json.RawMessage
}

func TestData(t *testing.T) {
	answers := map[string]func(t *testing.T, in *input) string{
		"defaults":   func(t *testing.T, in *input) string { return beyondMinimal(t, in.pod(t)) },
		"validation": func(t *testing.T, in *input) string { return lines(ValidatePod(in.pod(t))) },
		"template": func(t *testing.T, in *input) string {
			pod := in.decode(t)
			Default(&pod.Spec)
			return lines(ValidateTemplate(&corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}, field.NewPath("template")))
		},
		"warnings":  func(t *testing.T, in *input) string { return strings.Join(PodWarnings(in.pod(t), nil), "\n") },
		"qos":       func(t *testing.T, in *input) string { return string(QOSClass(in.pod(t))) },
		"update":    func(t *testing.T, in *input) string { return lines(ValidatePodUpdate(in.update(t))) },
		"resize":    func(t *testing.T, in *input) string { return lines(ValidateResize(in.update(t))) },
		"ephemeral": func(t *testing.T, in *input) string { return lines(ValidateEphemeralUpdate(in.update(t))) },
		"status":    func(t *testing.T, in *input) string { return lines(ValidateStatusUpdate(in.update(t))) },
	}
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("testdata: %v, %v", files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			answer := answers[name]
			if answer == nil {
				t.Fatalf("no test knows what testdata/%s.txt is about", name)
			}
			replay(t, file, answer)
		})
	}
}

func replay(t *testing.T, file string, answer func(*testing.T, *input) string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, c := range strings.Split(strings.TrimSpace(string(raw)), "\n\n") {
		question, want, ok := strings.Cut(c, "\n----")
		if !ok {
			t.Fatalf("case without an answer:\n%s", c)
		}
		title, body, _ := strings.Cut(question, "\n")
		t.Run(strings.TrimPrefix(title, "# "), func(t *testing.T) {
			var in input
			if err := yaml.UnmarshalStrict([]byte(body), &in); err != nil {
				t.Fatal(err)
			}
			got := strings.TrimRight(strings.ReplaceAll(answer(t, &in), "\n\n", "\n"), "\n")
			out = append(out, strings.TrimRight(question+"\n----\n"+got, "\n"))
			if want = strings.Trim(want, "\n"); got != want && !*rewrite {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
	if *rewrite && !t.Failed() {
		if err := os.WriteFile(file, []byte(strings.Join(out, "\n\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// decode makes a pod of a minimal one.
func (in *input) decode(t *testing.T) *corev1.Pod {
	container := merge(t, []byte(`{"name":"c","image":"i.example/c:1"}`), in.Container)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}}
	unmarshal(t, merge(t, []byte(`{"serviceAccountName":"default","containers":[`+string(container)+`]}`), in.Spec), &pod.Spec)
	if in.Metadata != nil {
		unmarshal(t, in.Metadata, &pod.ObjectMeta)
	}
	if in.Status != nil {
		unmarshal(t, in.Status, &pod.Status)
	}
	return pod
}

func (in *input) pod(t *testing.T) *corev1.Pod {
	pod := in.decode(t)
	DefaultPod(pod)
	return pod
}

func (in *input) update(t *testing.T) (pod, old *corev1.Pod) {
	if in.Before == nil {
		in.Before = &input{}
	}
	old = in.Before.pod(t)
	pod = old.DeepCopy()
	spec, err := json.Marshal(old.Spec)
	if err != nil {
		t.Fatal(err)
	}
	pod.Spec = corev1.PodSpec{}
	unmarshal(t, merge(t, spec, in.After), &pod.Spec)
	if in.Status != nil {
		pod.Status = corev1.PodStatus{}
		unmarshal(t, in.Status, &pod.Status)
	}
	DefaultPod(pod)
	return pod, old
}

func merge(t *testing.T, doc, patch []byte) []byte {
	if patch == nil {
		return doc
	}
	out, err := jsonpatch.MergePatch(doc, patch)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func unmarshal(t *testing.T, raw []byte, into any) {
	if err := yaml.UnmarshalStrict(raw, into); err != nil {
		t.Fatal(err)
	}
}

func toYAML(t *testing.T, v any) string {
	out, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// beyondMinimal prints a pod without what every pod gets; a minimal one it prints whole.
func beyondMinimal(t *testing.T, pod *corev1.Pod) string {
	tree := func(pod *corev1.Pod) (spec, container map[string]any) {
		unmarshal(t, []byte(toYAML(t, pod.Spec)), &spec)
		return spec, spec["containers"].([]any)[0].(map[string]any)
	}
	spec, container := tree(pod)
	minimal, minimalContainer := tree((&input{}).pod(t))
	prune := func(m, like map[string]any) {
		for k := range m {
			if reflect.DeepEqual(m[k], like[k]) {
				delete(m, k)
			}
		}
	}
	if !reflect.DeepEqual(spec, minimal) {
		prune(container, minimalContainer)
		prune(spec, minimal)
	}
	return toYAML(t, spec)
}

func lines(errs field.ErrorList) string {
	var b strings.Builder
	for _, e := range errs {
		b.WriteString(e.Error() + "\n")
	}
	return b.String()
}

// An object that has been through Default may be shared: another run must not write to it.
func TestDefaultWritesOnce(t *testing.T) {
	in := &input{
		Container: json.RawMessage(`{"ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"0.5m","memory":"1Gi"}},"livenessProbe":{"httpGet":{"port":80}}}`),
		Spec:      json.RawMessage(`{"hostNetwork":true,"resources":{"limits":{"cpu":"1"}},"volumes":[{"name":"v","secret":{"secretName":"s"}}]}`),
	}
	pod := in.pod(t)
	before := pod.DeepCopy()
	done := make(chan struct{})
	// The race detector sees a write that changes nothing, too.
	shared := *pod
	go func() {
		defer close(done)
		DefaultPod(&shared)
	}()
	other := *pod
	DefaultPod(&other)
	<-done
	if got, want := toYAML(t, shared.Spec), toYAML(t, before.Spec); got != want {
		t.Errorf("a second run changed\n%s\nto\n%s", want, got)
	}
}
