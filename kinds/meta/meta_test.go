package meta

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/kebernetes/kebernetes/kinds"
)

func texts(errs field.ErrorList) string {
	var out []string
	for _, e := range errs {
		out = append(out, e.Error())
	}
	return strings.Join(out, "\n")
}

func configMap(t *testing.T, metadata string) *corev1.ConfigMap {
	t.Helper()
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "n", ResourceVersion: "1"}}
	if err := yaml.UnmarshalStrict([]byte(metadata), &c.ObjectMeta); err != nil {
		t.Fatal(err)
	}
	return c
}

const qualified = `name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`

func TestValidate(t *testing.T) {
	for _, c := range []struct{ name, metadata, want string }{
		{"good", `{labels: {a: b}, finalizers: [foregroundDeletion, a.example/b]}`, ""},
		{"no name", `{name: ""}`, "metadata.name: Required value: name or generateName is required"},
		{"no namespace", `{namespace: ""}`, "metadata.namespace: Required value"},
		{"label", `{labels: {a b: c}}`, `metadata.labels: Invalid value: "a b": ` + qualified},
		{"long annotations", `{annotations: {a: ` + strings.Repeat("x", 1<<18) + `}}`, "metadata.annotations: Too long: may not be more than 262144 bytes"},
		{"finalizer", `{finalizers: [nodomain]}`, `metadata.finalizers[0]: Invalid value: "nodomain": name is neither a standard finalizer name nor is it fully qualified`},
		{"owner", `{ownerReferences: [{apiVersion: v1, kind: Pod}]}`,
			"metadata.ownerReferences[0].name: Required value: must not be empty\nmetadata.ownerReferences[0].uid: Required value: must not be empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := texts(Validate(configMap(t, c.metadata), &kinds.Kind{Namespaced: true})); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestKindsNameCheck(t *testing.T) {
	k := &kinds.Kind{Namespaced: true, ValidateName: func(name string, prefix bool) []string { return []string{"odd"} }}
	if got := texts(Validate(configMap(t, `{}`), k)); got != `metadata.name: Invalid value: "a": odd` {
		t.Error(got)
	}
}

func TestCustomResourcesFinalizersAreFree(t *testing.T) {
	u := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "a", "finalizers": []any{"nodomain"}}}}
	if got := texts(Validate(u, &kinds.Kind{})); got != "" {
		t.Error(got)
	}
}

func TestValidateUpdate(t *testing.T) {
	for _, c := range []struct{ name, old, metadata, want string }{
		{"good", `{}`, `{labels: {a: b}}`, ""},
		{"uid", `{uid: u}`, `{uid: v}`, `metadata.uid: Invalid value: "v": field is immutable`},
		{"no version", `{}`, `{resourceVersion: ""}`, `metadata.resourceVersion: Invalid value: "": must be specified for an update`},
		{"new finalizer on a dying object", `{deletionTimestamp: "2030-01-01T00:00:00Z"}`, `{deletionTimestamp: "2030-01-01T00:00:00Z", finalizers: [a.example/b]}`,
			`metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"a.example/b"}`},
		// An old name that would not pass today stays.
		{"odd name", `{name: A_b}`, `{name: A_b}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := texts(ValidateUpdate(configMap(t, c.metadata), configMap(t, c.old), &kinds.Kind{Namespaced: true})); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestValidateSelector(t *testing.T) {
	at := field.NewPath("spec", "selector")
	for _, c := range []struct{ name, selector, selects, want string }{
		{"good", `{matchLabels: {a: b}, matchExpressions: [{key: c, operator: Exists}]}`, "a=b,c", ""},
		{"missing", `null`, "", "spec.selector: Required value"},
		{"empty", `{}`, "", "spec.selector: Invalid value: {}: empty selector is invalid for deployment"},
		{"bad operator", `{matchExpressions: [{key: a, operator: Near}]}`, "nothing",
			"spec.selector.matchExpressions[0].operator: Invalid value: \"Near\": not a valid selector operator\n" +
				"spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"Near\"}]}: invalid label selector"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s *metav1.LabelSelector
			if err := yaml.UnmarshalStrict([]byte(c.selector), &s); err != nil {
				t.Fatal(err)
			}
			parsed, errs := ValidateSelector(s, "deployment", at)
			if got := texts(errs); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			selects := "nothing"
			if parsed != nil {
				selects = parsed.String()
			}
			if selects != c.selects {
				t.Errorf("selects %q, want %q", selects, c.selects)
			}
		})
	}
}
