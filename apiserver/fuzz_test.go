package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/kebernetes/kebernetes/apiserver/wire"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// fuzzed is a server that is put back after each input.
type fuzzed struct {
	*Server
	store  *memStore
	before store.Snapshot
}

func newFuzzed(f *testing.F) *fuzzed {
	s := newTestServer(f)
	return &fuzzed{Server: s, store: s.Store.(*memStore)}
}

// call sends a request. Whatever is in it, the answer is no failure of the server's, and can be read.
func (z *fuzzed) call(t testing.TB, method, path, contentType, accept string, body []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	z.ServeHTTP(w, r)
	// What the libraries of strategic merge and of apply have no name for is a 500 of upstream's, too.
	unnamed := method == http.MethodPatch && w.Body.String() != panicText+"\n"
	if w.Code >= http.StatusInternalServerError && !unnamed {
		t.Errorf("%s %s %s: %d %s", method, path, contentType, w.Code, w.Body)
	}
	if w.Header().Get("Content-Type") == "application/json" && !json.Valid(w.Body.Bytes()) {
		t.Errorf("%s %s %s: the answer is no JSON: %q", method, path, contentType, w.Body)
	}
	return w
}

// mark is the state that reset goes back to.
func (z *fuzzed) mark() { z.before = z.store.Snapshot() }

// reset takes back what was written since mark.
func (z *fuzzed) reset(t *testing.T) {
	now := z.store.Snapshot()
	if now.Revision() == z.before.Revision() {
		return
	}
	for resource := range now.Resources() {
		for item := range now.List(resource, "") {
			was := z.before.Get(item.Key)
			switch {
			case was == nil:
				z.store.Commit(t.Context(), store.Write{Key: item.Key, Expect: store.Any})
			case was.Revision != item.Revision:
				z.store.Commit(t.Context(), store.Write{Key: item.Key, Object: was.Object.DeepCopyObject().(store.Object), Expect: store.Any})
			}
		}
		for item := range z.before.List(resource, "") {
			if now.Get(item.Key) == nil {
				z.store.Commit(t.Context(), store.Write{Key: item.Key, Object: item.Object.DeepCopyObject().(store.Object), Expect: store.Any})
			}
		}
	}
	z.mark()
}

func collection(k *kinds.Kind, v *kinds.Version) string {
	path := "/apis/" + k.Group + "/" + v.Name
	if k.Group == "" {
		path = "/api/" + v.Name
	}
	if k.Namespaced {
		path += "/namespaces/default"
	}
	return path + "/" + k.Resource
}

// some are manifests that the mutations begin with: several kinds, most shapes of fields.
var some = []string{
	`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: {a: b}, finalizers: [x.io/y]}, data: {a: b}, binaryData: {c: ZA==}}`,
	`{apiVersion: v1, kind: Secret, metadata: {name: a}, type: kubernetes.io/tls, data: {tls.crt: "", tls.key: ""}}`,
	`{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {serviceAccountName: default, containers: [{name: c, image: i, ports: [{containerPort: 80, hostPort: 80, name: http}], env: [{name: a, valueFrom: {fieldRef: {fieldPath: metadata.name}}}],
	  resources: {requests: {cpu: 100m, memory: 1Gi}, limits: {cpu: "1"}}, livenessProbe: {httpGet: {port: http, path: /}}, volumeMounts: [{name: v, mountPath: /m}]}],
	  volumes: [{name: v, projected: {sources: [{secret: {name: s}}, {serviceAccountToken: {path: p}}]}}], tolerations: [{operator: Exists}],
	  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In, values: [b]}]}]}}}}}`,
	`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: NodePort, ports: [{port: 80, targetPort: http, nodePort: 30080}], selector: {a: b}, sessionAffinity: ClientIP}}`,
	`{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicas: 2, selector: {matchLabels: {a: b}}, strategy: {rollingUpdate: {maxSurge: 25%, maxUnavailable: 1}},
	  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`,
	`{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: a}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}], aggregationRule: {clusterRoleSelectors: [{matchLabels: {a: b}}]}}`,
	`{apiVersion: v1, kind: Node, metadata: {name: a}, spec: {podCIDR: 10.1.0.0/24, taints: [{key: a, effect: NoSchedule}]}}`,
	`{apiVersion: batch/v1, kind: CronJob, metadata: {name: a}, spec: {schedule: "@every 1h", timeZone: Etc/UTC, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}}}`,
	`{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a}, spec: {rules: [{host: a.b, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: a, port: {number: 80}}}}]}}]}}`,
	`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}], ports: [{port: 80}]}`,
}

// stored returns the kinds whose objects clients may create.
func stored(t *kinds.Table) (out []*kinds.Kind) {
	for _, k := range t.All() {
		if !k.Virtual {
			out = append(out, k)
		}
	}
	return out
}

var bodies = []string{"application/json", "application/vnd.kubernetes.protobuf", "application/yaml"}

// A body goes all the way: decoded, filled in, checked, admitted, stored, written, replaced, shown as a table and as YAML.
func FuzzBody(f *testing.F) {
	z := newFuzzed(f)
	all := stored(z.Table)
	for i, k := range all {
		obj := k.Versions[0].New()
		obj.SetName("a")
		gvk := k.GroupKind().WithVersion(k.Versions[0].Name)
		for format := range bodies {
			var b wire.Buffer
			if err := wire.EncodeWhole(&b, obj, gvk, wire.Format(format)); err != nil {
				f.Fatal(err)
			}
			f.Add(uint16(i), uint8(format), bytes.Clone(b.B))
		}
	}
	for _, manifest := range some {
		i, k, j := known(f, all, manifest)
		f.Add(uint16(i), uint8(wire.YAML), []byte(manifest))
		f.Add(uint16(i), uint8(wire.JSON), j)
		obj := k.Versions[0].New()
		if err := json.Unmarshal(j, obj); err != nil {
			f.Fatal(err)
		}
		var b wire.Buffer
		if err := wire.EncodeWhole(&b, obj, obj.GetObjectKind().GroupVersionKind(), wire.Protobuf); err != nil {
			f.Fatal(err)
		}
		f.Add(uint16(i), uint8(wire.Protobuf), bytes.Clone(b.B))
	}
	z.mark()
	f.Fuzz(func(t *testing.T, kind uint16, format uint8, body []byte) {
		if len(body) > 1<<16 {
			return
		}
		k := all[int(kind)%len(all)]
		v := &k.Versions[int(kind)/len(all)%len(k.Versions)]
		contentType, path := bodies[format%3], collection(k, v)
		w := z.call(t, http.MethodPost, path, contentType, "application/json", body)
		if w.Code == http.StatusCreated {
			var head struct{ Metadata struct{ Name string } }
			if err := json.Unmarshal(w.Body.Bytes(), &head); err != nil {
				t.Fatal(err)
			}
			one := path + "/" + head.Metadata.Name
			z.call(t, http.MethodPut, one, contentType, "application/yaml", body)
			z.call(t, http.MethodPut, one+"/status", contentType, "application/vnd.kubernetes.protobuf", body)
			z.call(t, http.MethodGet, one, "", "application/json;as=Table;v=v1;g=meta.k8s.io", nil)
			z.call(t, http.MethodDelete, one, "application/json", "application/json", nil)
		}
		z.reset(t)
	})
}

// known finds the kind of a manifest, and returns that as JSON.
func known(t testing.TB, all []*kinds.Kind, manifest string) (int, *kinds.Kind, []byte) {
	j, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	var head struct{ APIVersion, Kind string }
	if err := json.Unmarshal(j, &head); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(k *kinds.Kind) bool {
		version := k.Group + "/" + k.Versions[0].Name
		if k.Group == "" {
			version = k.Versions[0].Name
		}
		return k.Kind == head.Kind && version == head.APIVersion
	})
	if i < 0 {
		t.Fatalf("no kind %+v", head)
	}
	return i, all[i], j
}

// A patch of any type, of the object or its status, changes it or is refused.
func FuzzPatchRequest(f *testing.F) {
	z := newFuzzed(f)
	all := stored(z.Table)
	var paths []string
	for i, manifest := range some {
		_, k, j := known(f, all, manifest)
		path := collection(k, &k.Versions[0])
		if w := z.call(f, http.MethodPost, path, "application/json", "application/json", j); w.Code != http.StatusCreated {
			f.Fatalf("%s: %s", manifest, w.Body)
		}
		paths = append(paths, path+"/a")
		f.Add(uint8(i), uint8(0), []byte(`[{"op":"add","path":"/metadata/labels","value":{"c":"d"}},{"op":"move","from":"/spec","path":"/metadata/annotations"},{"op":"test","path":"/kind","value":1}]`))
		f.Add(uint8(i), uint8(1), []byte(`{"metadata":{"labels":{"a":null},"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"}]}}`))
		f.Add(uint8(i), uint8(2), []byte(`{"metadata":{"$patch":"merge","finalizers":["a.b/c"]},"spec":{"$retainKeys":["ports"],"ports":[{"port":80,"$patch":"delete"}],"$setElementOrder/ports":[{"port":80}]}}`))
		f.Add(uint8(i), uint8(2), []byte(`{"$deleteFromPrimitiveList/x":["y"],"spec":{"containers":[{"name":"c","$patch":"replace"}]}}`))
		f.Add(uint8(i), uint8(3), []byte(manifest))
		f.Add(uint8(i), uint8(7), j)
	}
	z.mark()
	patches := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType}
	f.Fuzz(func(t *testing.T, target, typ uint8, body []byte) {
		if len(body) > 1<<16 {
			return
		}
		path := paths[int(target)%len(paths)]
		if typ&4 != 0 {
			path += "/status"
		}
		query := fmt.Sprintf("?fieldManager=m&fieldValidation=%s", []string{"Ignore", "Warn", "Strict"}[typ/16%3])
		if typ%4 == 3 && typ&8 != 0 {
			query += "&force=true"
		}
		z.call(t, http.MethodPatch, path+query, string(patches[typ%4]), "application/json", body)
		z.call(t, http.MethodGet, path, "", "application/json;as=Table;v=v1;g=meta.k8s.io", nil)
		z.reset(t)
	})
}

// The headers and the query that say what an answer looks like and which objects are in it.
func FuzzList(f *testing.F) {
	z := newFuzzed(f)
	all := stored(z.Table)
	for _, manifest := range some {
		_, k, j := known(f, all, manifest)
		z.call(f, http.MethodPost, collection(k, &k.Versions[0]), "application/json", "application/json", j)
	}
	for i, k := range all {
		f.Add(uint16(i), "application/json;as=Table;v=v1;g=meta.k8s.io, */*;q=0.1", "a in (b,c),!d", "metadata.name=a", "", "1", "0", "NotOlderThan")
		for _, label := range k.FieldLabels {
			f.Add(uint16(i), "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "a", label+"!=x,metadata.namespace=default", "eyJ2IjoxfQ", "500", "", "")
		}
	}
	f.Fuzz(func(t *testing.T, kind uint16, accept, labels, fields, token, limit, version, match string) {
		k := all[int(kind)%len(all)]
		r := httptest.NewRequest(http.MethodGet, collection(k, &k.Versions[0]), nil)
		q := r.URL.Query()
		for name, value := range map[string]string{
			"labelSelector": labels, "fieldSelector": fields, "continue": token, "limit": limit, "resourceVersion": version, "resourceVersionMatch": match,
		} {
			if value != "" {
				q.Set(name, value)
			}
		}
		r.URL.RawQuery = q.Encode()
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		z.ServeHTTP(w, r)
		if w.Code >= http.StatusInternalServerError && w.Code != http.StatusGatewayTimeout {
			t.Errorf("%s %q: %d %s", r.URL, accept, w.Code, w.Body)
		}
	})
}
