package builtin_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/builtin"
	"github.com/kebernetes/kebernetes/kinds/meta"
)

var rewrite = flag.Bool("rewrite", false, "write what the code answers into testdata")

// A test file is a list of cases, parted by blank lines:
//
//	# what the case shows
//	a manifest, YAML
//	----
//	the answer
//
// The manifest is created. With the key patch beside its own it is then updated by that merge patch, through the
// subresource that the key sub names. The answer is what is wrong with it, one error a line; or else what the server adds to
// the manifest or changes in it, as a merge patch, and after a line of dots the warnings and the table row.
func TestData(t *testing.T) {
	table := builtin.Table()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("testdata: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { replay(t, table, file) })
	}
}

func replay(t *testing.T, table *kinds.Table, file string) {
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
			got := strings.TrimRight(answer(t, table, body), "\n")
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

var now = metav1.NewTime(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))

func answer(t *testing.T, table *kinds.Table, body string) string {
	var in struct {
		metav1.TypeMeta `json:",inline"`
		Sub             string          `json:"sub"`
		Patch           json.RawMessage `json:"patch"`
	}
	if err := yaml.Unmarshal([]byte(body), &in); err != nil {
		t.Fatal(err)
	}
	gvk := in.GroupVersionKind()
	k := table.Kind(gvk.GroupKind())
	if k == nil || k.Version(gvk.Version) == nil {
		t.Fatalf("no such kind: %s", gvk)
	}
	manifest, err := yaml.YAMLToJSON([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	manifest = merge(t, manifest, []byte(`{"sub":null,"patch":null}`))
	obj := decode(t, k, gvk, manifest)
	errs := create(k, obj)
	warnings := warn(k.Warnings, obj, nil)
	if in.Patch != nil {
		if len(errs) > 0 {
			t.Fatal(errs.ToAggregate())
		}
		manifest = merge(t, encode(t, k, gvk, obj), in.Patch)
		old := obj
		obj = decode(t, k, gvk, manifest)
		errs, warnings = update(t, k, in.Sub, obj, old)
	}
	if len(errs) > 0 {
		return lines(errs)
	}
	added, err := jsonpatch.CreateMergePatch(manifest, encode(t, k, gvk, obj))
	if err != nil {
		t.Fatal(err)
	}
	out := withoutIdentity(t, added)
	if len(warnings) > 0 || k.Cells != nil {
		out += "....\n"
	}
	for _, w := range warnings {
		out += "warning: " + w + "\n"
	}
	if k.Cells != nil {
		var cells []string
		for _, c := range k.Cells(obj, now) {
			cells = append(cells, fmt.Sprint(c))
		}
		out += strings.Join(cells, " | ") + "\n"
	}
	return out
}

// withoutIdentity prints a patch without what the server itself gives every object.
func withoutIdentity(t *testing.T, patch []byte) string {
	t.Helper()
	var tree map[string]any
	if err := json.Unmarshal(patch, &tree); err != nil {
		t.Fatal(err)
	}
	if m, ok := tree["metadata"].(map[string]any); ok {
		for _, name := range []string{"name", "namespace", "uid", "resourceVersion", "creationTimestamp"} {
			delete(m, name)
		}
		if len(m) == 0 {
			delete(tree, "metadata")
		}
	}
	text, err := yaml.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(string(text), "{}\n")
}

// decode makes an object of the storage version.
func decode(t *testing.T, k *kinds.Kind, gvk schema.GroupVersionKind, manifest []byte) kinds.Object {
	t.Helper()
	v := k.Version(gvk.Version)
	obj := v.New()
	if err := yaml.UnmarshalStrict(manifest, obj); err != nil {
		t.Fatal(err)
	}
	if v.ToStorage != nil {
		converted, err := v.ToStorage(obj)
		if err != nil {
			t.Fatal(err)
		}
		obj = converted
	}
	if k.Default != nil {
		k.Default(obj)
	}
	return obj
}

func encode(t *testing.T, k *kinds.Kind, gvk schema.GroupVersionKind, obj kinds.Object) []byte {
	t.Helper()
	out := obj.DeepCopyObject().(kinds.Object)
	if v := k.Version(gvk.Version); v.FromStorage != nil {
		converted, err := v.FromStorage(out)
		if err != nil {
			t.Fatal(err)
		}
		out = converted
	}
	out.GetObjectKind().SetGroupVersionKind(gvk)
	raw, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// create does what the server does to a new object, the fields apart that are its own business.
func create(k *kinds.Kind, obj kinds.Object) field.ErrorList {
	if k.Namespaced && obj.GetNamespace() == "" {
		obj.SetNamespace("home")
	}
	if obj.GetName() == "" {
		obj.SetName("o")
	}
	obj.SetUID("b3f1")
	obj.SetCreationTimestamp(now)
	obj.SetResourceVersion("1")
	if k.PrepareCreate != nil {
		k.PrepareCreate(obj)
	}
	errs := meta.Validate(obj, k)
	if k.Validate != nil {
		errs = append(errs, k.Validate(obj)...)
	}
	return errs
}

func update(t *testing.T, k *kinds.Kind, sub string, obj, old kinds.Object) (field.ErrorList, []string) {
	prepare, validate, warnings := k.PrepareUpdate, k.ValidateUpdate, k.Warnings
	var stamp func(obj, old kinds.Object, now metav1.Time)
	if sub != "" {
		s := k.Subresource(sub)
		if s == nil {
			t.Fatalf("no subresource %s", sub)
		}
		prepare, stamp, validate, warnings = s.PrepareUpdate, s.Stamp, s.ValidateUpdate, s.Warnings
	}
	if prepare != nil {
		prepare(obj, old)
	}
	if stamp != nil {
		stamp(obj, old, metav1.NewTime(now.Add(time.Hour)))
	}
	var errs field.ErrorList
	if validate != nil {
		errs = validate(obj, old)
	}
	return errs, warn(warnings, obj, old)
}

func warn(f func(obj, old kinds.Object) []string, obj, old kinds.Object) []string {
	if f == nil {
		return nil
	}
	return f(obj, old)
}

func merge(t *testing.T, doc, patch []byte) []byte {
	t.Helper()
	out, err := jsonpatch.MergePatch(doc, patch)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func lines(errs field.ErrorList) string {
	var b strings.Builder
	for _, e := range errs {
		b.WriteString(strings.TrimSpace(strings.SplitN(e.Error(), "\n", 2)[0]) + "\n")
	}
	return b.String()
}
