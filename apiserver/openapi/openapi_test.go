package openapi

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/yaml"

	"github.com/kebernetes/kebernetes/kinds/builtin"
)

func get(t testing.TB, h http.Handler, path string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("GET", path, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func getJSON(t testing.TB, h http.Handler, path string) map[string]any {
	t.Helper()
	w := get(t, h, path)
	var out map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &out); w.Code != 200 || err != nil {
		t.Fatalf("%s: %d %v", path, w.Code, err)
	}
	return out
}

// at walks into JSON by keys.
func at(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

func TestV3(t *testing.T) {
	h := Handler(builtin.Table())
	apps := getJSON(t, h, "/openapi/v3/apis/apps/v1")
	deployment := "io.k8s.api.apps.v1.Deployment"
	schemas := at(apps, "components", "schemas")
	for _, tc := range []struct {
		keys []string
		want string // JSON
	}{
		{[]string{deployment, "x-kubernetes-group-version-kind"}, `[{"group":"apps","kind":"Deployment","version":"v1"}]`},
		{[]string{deployment + "List", "x-kubernetes-group-version-kind"}, `[{"group":"apps","kind":"DeploymentList","version":"v1"}]`},
		{[]string{deployment + "Spec", "required"}, `["selector","template"]`},
		{[]string{deployment + "Spec", "properties", "strategy", "x-kubernetes-patch-strategy"}, `"retainKeys"`},
		{[]string{deployment, "properties", "spec", "allOf"}, `[{"$ref":"#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}]`},
		{[]string{"io.k8s.api.core.v1.Container", "properties", "ports", "x-kubernetes-list-map-keys"}, `["containerPort","protocol"]`},
		{[]string{"io.k8s.api.core.v1.ContainerPort", "properties", "protocol", "default"}, `"TCP"`},
		{[]string{"io.k8s.apimachinery.pkg.util.intstr.IntOrString", "oneOf"}, `[{"type":"integer"},{"type":"string"}]`},
	} {
		if got, _ := json.Marshal(at(schemas, tc.keys...)); string(got) != tc.want {
			t.Errorf("%s is %s, want %s", strings.Join(tc.keys, "."), got, tc.want)
		}
	}
	const item = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
	for path, ids := range map[string]string{
		"/apis/apps/v1/deployments":                        "get:listAppsV1DeploymentForAllNamespaces",
		"/apis/apps/v1/namespaces/{namespace}/deployments": "delete:deleteAppsV1CollectionNamespacedDeployment get:listAppsV1NamespacedDeployment post:createAppsV1NamespacedDeployment",
		item:                              "delete:deleteAppsV1NamespacedDeployment get:readAppsV1NamespacedDeployment patch:patchAppsV1NamespacedDeployment put:replaceAppsV1NamespacedDeployment",
		item + "/status":                  "get:readAppsV1NamespacedDeploymentStatus patch:patchAppsV1NamespacedDeploymentStatus put:replaceAppsV1NamespacedDeploymentStatus",
		item + "/scale":                   "get:readAppsV1NamespacedDeploymentScale patch:patchAppsV1NamespacedDeploymentScale put:replaceAppsV1NamespacedDeploymentScale",
		"/apis/apps/v1/watch/deployments": "get:watchAppsV1DeploymentListForAllNamespaces",
		"/apis/apps/v1/":                  "get:getAppsV1APIResources",
	} {
		var got []string
		for _, method := range []string{"delete", "get", "patch", "post", "put"} {
			if id, ok := at(apps, "paths", path, method, "operationId").(string); ok {
				got = append(got, method+":"+id)
			}
		}
		if strings.Join(got, " ") != ids {
			t.Errorf("%s has %v, want %s", path, got, ids)
		}
	}
	if scale := at(apps, "paths", item+"/scale", "get", "x-kubernetes-group-version-kind", "group"); scale != "autoscaling" {
		t.Errorf("scale is of group %v", scale)
	}
	core := getJSON(t, h, "/openapi/v3/api/v1")
	if id := at(core, "paths", "/api/v1/namespaces/{namespace}/pods/{name}/exec", "post", "operationId"); id != "connectCoreV1PostNamespacedPodExec" {
		t.Errorf("exec is %v", id)
	}
	dangling(t, core)
}

// dangling fails for references that lead nowhere.
func dangling(t *testing.T, doc map[string]any) {
	t.Helper()
	schemas := at(doc, "components", "schemas").(map[string]any)
	for _, name := range refsIn(doc, "#/components/schemas/") {
		if schemas[name] == nil {
			t.Errorf("reference to %s leads nowhere", name)
		}
	}
}

func TestV2(t *testing.T) {
	doc := getJSON(t, Handler(builtin.Table()), "/openapi/v2")
	for _, tc := range []struct {
		keys []string
		want string
	}{
		{[]string{"swagger"}, `"2.0"`},
		{[]string{"definitions", "io.k8s.api.core.v1.ConfigMap", "properties", "metadata", "$ref"}, `"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"`},
		{[]string{"definitions", "io.k8s.apimachinery.pkg.util.intstr.IntOrString", "format"}, `"int-or-string"`},
		{[]string{"definitions", "io.k8s.api.core.v1.ContainerPort", "properties", "protocol", "default"}, `null`},
		{[]string{"paths", "/api/v1/namespaces/{namespace}/pods/{name}", "patch", "consumes"},
			`["application/json-patch+json","application/merge-patch+json","application/strategic-merge-patch+json","application/apply-patch+yaml"]`},
		{[]string{"paths", "/version/", "get", "operationId"}, `"getCodeVersion"`},
	} {
		if got, _ := json.Marshal(at(doc, tc.keys...)); string(got) != tc.want {
			t.Errorf("%s is %s, want %s", strings.Join(tc.keys, "."), got, tc.want)
		}
	}
	definitions := doc["definitions"].(map[string]any)
	for _, name := range refsIn(doc, "#/definitions/") {
		if definitions[name] == nil {
			t.Errorf("reference to %s leads nowhere", name)
		}
	}
}

// TestProtobuf reads both protobuf forms with the libraries that clients use, and compares with the JSON.
func TestProtobuf(t *testing.T) {
	h := Handler(builtin.Table())
	var two openapiv2.Document
	w := get(t, h, "/openapi/v2", "Accept", mediaV2At)
	if err := proto.Unmarshal(w.Body.Bytes(), &two); err != nil || w.Header().Get("Content-Type") != mediaV2 {
		t.Fatal(err, w.Header())
	}
	if unknown := two.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		t.Errorf("%d bytes of unknown fields", len(unknown))
	}
	var fromProto, fromJSON spec.Swagger
	if ok, err := fromProto.FromGnostic(&two); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := json.Unmarshal(get(t, h, "/openapi/v2").Body.Bytes(), &fromJSON); err != nil {
		t.Fatal(err)
	}
	same(t, fromProto.Definitions, fromJSON.Definitions)
	same(t, fromProto.Paths, fromJSON.Paths)

	var three openapiv3.Document
	w = get(t, h, "/openapi/v3/apis/apps/v1", "Accept", mediaV3At)
	if err := proto.Unmarshal(w.Body.Bytes(), &three); err != nil {
		t.Fatal(err)
	}
	want, err := openapiv3.ParseDocument(get(t, h, "/openapi/v3/apis/apps/v1").Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	schemas := three.GetComponents().GetSchemas().GetAdditionalProperties()
	if len(schemas) != len(want.GetComponents().GetSchemas().GetAdditionalProperties()) || len(three.GetPaths().GetPath()) != len(want.GetPaths().GetPath()) {
		t.Errorf("%d schemas, %d paths", len(schemas), len(three.GetPaths().GetPath()))
	}
	normalise(t, &three)
	normalise(t, want)
	for i, p := range want.GetComponents().GetSchemas().GetAdditionalProperties() {
		if !proto.Equal(schemas[i], p) {
			t.Errorf("schema %s differs:\n%v\n%v", p.GetName(), schemas[i], p)
		}
	}
	if !proto.Equal(&three, want) {
		t.Errorf("paths or other parts differ:\n%.2000v\n%.2000v", three.GetPaths(), want.GetPaths())
	}
}

// normalise writes the free values of a document, which are YAML in any form, as JSON.
func normalise(t *testing.T, doc *openapiv3.Document) {
	t.Helper()
	err := protorange.Range(doc.ProtoReflect(), func(v protopath.Values) error {
		m, ok := v.Index(-1).Value.Interface().(protoreflect.Message)
		if !ok {
			return nil
		}
		if free, ok := m.Interface().(*openapiv3.Any); ok {
			data, err := yaml.YAMLToJSON([]byte(free.Yaml))
			free.Yaml, free.Value = string(data), nil
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, got, want any) {
	t.Helper()
	a, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(want)
	var x, y any
	json.Unmarshal(a, &x)
	json.Unmarshal(b, &y)
	if !reflect.DeepEqual(x, y) {
		t.Errorf("protobuf and JSON differ: %s", firstDifference("", x, y))
	}
}

func firstDifference(path string, x, y any) string {
	a, isMap := x.(map[string]any)
	b, alsoMap := y.(map[string]any)
	if isMap && alsoMap {
		for k := range b {
			if !reflect.DeepEqual(a[k], b[k]) {
				return firstDifference(path+"/"+k, a[k], b[k])
			}
		}
	}
	p, _ := json.Marshal(x)
	q, _ := json.Marshal(y)
	return path + ": " + string(p) + " against " + string(q)
}

func TestConditionalRequests(t *testing.T) {
	h := Handler(builtin.Table())
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	w := get(t, h, "/openapi/v3")
	if err := json.Unmarshal(w.Body.Bytes(), &index); err != nil || w.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Fatal(err, w.Header())
	}
	for _, name := range []string{"api", "api/v1", "apis", "apis/apps", "apis/apps/v1", "version", "openid/v1/jwks", ".well-known/openid-configuration"} {
		url := index.Paths[name].ServerRelativeURL
		w := get(t, h, url)
		if w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s at %s: %d %v", name, url, w.Code, w.Header())
		}
		if again := get(t, h, url, "If-None-Match", w.Header().Get("Etag")); again.Code != http.StatusNotModified {
			t.Errorf("%s: the same once more gives %d", name, again.Code)
		}
		if old := get(t, h, "/openapi/v3/"+name+"?hash=OLD"); old.Code != http.StatusMovedPermanently || old.Header().Get("Location") != url {
			t.Errorf("%s with an old hash: %d to %s, want %s", name, old.Code, old.Header().Get("Location"), url)
		}
	}
	two := get(t, h, "/openapi/v2")
	if again := get(t, h, "/openapi/v2", "If-None-Match", two.Header().Get("Etag")); again.Code != http.StatusNotModified || again.Body.Len() > 0 {
		t.Errorf("v2 once more gives %d", again.Code)
	}
	zipped := get(t, h, "/openapi/v2", "Accept-Encoding", "gzip")
	z, err := gzip.NewReader(zipped.Body)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := io.ReadAll(z); err != nil || string(plain) != two.Body.String() {
		t.Errorf("compressed v2 is another: %v", err)
	}
	for path, code := range map[string]int{"/openapi/v3/apis/none/v1": 404, "/openapi/v4": 404} {
		if w := get(t, h, path); w.Code != code {
			t.Errorf("%s gives %d", path, w.Code)
		}
	}
	if w := get(t, h, "/openapi/v2", "Accept", "image/png"); w.Code != http.StatusNotAcceptable {
		t.Errorf("a picture of the API gives %d", w.Code)
	}
}

func TestConcurrentReaders(t *testing.T) {
	h := Handler(builtin.Table())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if w := get(t, h, "/openapi/v3/apis/apps/v1"); w.Code != 200 {
				t.Error(w.Code)
			}
		})
	}
	wg.Wait()
}

func BenchmarkBuild(b *testing.B) {
	h := Handler(builtin.Table()).(*server)
	rows := h.table.All()
	b.Run("v2 JSON", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			h.buildV2(rows, encodeJSON)
		}
	})
	b.Run("v2 protobuf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			h.buildV2(rows, encodeProtoV2)
		}
	})
	b.Run("v3 apps JSON", func(b *testing.B) {
		b.ReportAllocs()
		part := partsOf(rows)["apis/apps/v1"]
		for b.Loop() {
			h.buildV3(part, encodeJSON)
		}
	})
	b.Run("index", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			get(b, h, "/openapi/v3")
		}
	})
}
