package admission

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// memory is a store over store.Memory, without a disk.
type memory struct {
	*store.Memory
	mu sync.Mutex
}

func (m *memory) Commit(_ context.Context, writes ...store.Write) []store.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]store.Result, len(writes))
	for i, w := range writes {
		current := m.Snapshot().Get(w.Key)
		if w.Expect != store.Any && current != nil && current.Revision != w.Expect {
			out[i].Err = store.ErrConflict
			continue
		}
		m.Mirror(store.Put, w.Key, w.Object, 1)
		out[i].Item = m.Snapshot().Get(w.Key)
	}
	return out
}

// row is what a test knows of a kind.
type row struct {
	kind *kinds.Kind
	new  func() kinds.Object
}

func rowOf(group, resource string, new func() kinds.Object) row {
	name := fmt.Sprintf("%T", new())
	return row{&kinds.Kind{Group: group, Resource: resource, Kind: name[strings.Index(name, ".")+1:]}, new}
}

var rows = map[string]row{
	"Namespace":                 rowOf("", "namespaces", func() kinds.Object { return &corev1.Namespace{} }),
	"Pod":                       rowOf("", "pods", func() kinds.Object { return &corev1.Pod{} }),
	"Binding":                   rowOf("", "pods", func() kinds.Object { return &corev1.Binding{} }),
	"ConfigMap":                 rowOf("", "configmaps", func() kinds.Object { return &corev1.ConfigMap{} }),
	"Node":                      rowOf("", "nodes", func() kinds.Object { return &corev1.Node{} }),
	"Service":                   rowOf("", "services", func() kinds.Object { return &corev1.Service{} }),
	"ServiceAccount":            rowOf("", "serviceaccounts", func() kinds.Object { return &corev1.ServiceAccount{} }),
	"TokenRequest":              rowOf("", "serviceaccounts", func() kinds.Object { return &authenticationv1.TokenRequest{} }),
	"LimitRange":                rowOf("", "limitranges", func() kinds.Object { return &corev1.LimitRange{} }),
	"ResourceQuota":             rowOf("", "resourcequotas", func() kinds.Object { return &corev1.ResourceQuota{} }),
	"PersistentVolume":          rowOf("", "persistentvolumes", func() kinds.Object { return &corev1.PersistentVolume{} }),
	"PersistentVolumeClaim":     rowOf("", "persistentvolumeclaims", func() kinds.Object { return &corev1.PersistentVolumeClaim{} }),
	"Deployment":                rowOf("apps", "deployments", func() kinds.Object { return &appsv1.Deployment{} }),
	"PriorityClass":             rowOf("scheduling.k8s.io", "priorityclasses", func() kinds.Object { return &schedulingv1.PriorityClass{} }),
	"RuntimeClass":              rowOf("node.k8s.io", "runtimeclasses", func() kinds.Object { return &nodev1.RuntimeClass{} }),
	"StorageClass":              rowOf("storage.k8s.io", "storageclasses", func() kinds.Object { return &storagev1.StorageClass{} }),
	"Ingress":                   rowOf("networking.k8s.io", "ingresses", func() kinds.Object { return &networkingv1.Ingress{} }),
	"IngressClass":              rowOf("networking.k8s.io", "ingressclasses", func() kinds.Object { return &networkingv1.IngressClass{} }),
	"Lease":                     rowOf("coordination.k8s.io", "leases", func() kinds.Object { return &coordinationv1.Lease{} }),
	"CertificateSigningRequest": rowOf("certificates.k8s.io", "certificatesigningrequests", func() kinds.Object { return &certificatesv1.CertificateSigningRequest{} }),
	"Role":                      rowOf(rbacv1.GroupName, "roles", func() kinds.Object { return &rbacv1.Role{} }),
	"RoleBinding":               rowOf(rbacv1.GroupName, "rolebindings", func() kinds.Object { return &rbacv1.RoleBinding{} }),
	"ClusterRole":               rowOf(rbacv1.GroupName, "clusterroles", func() kinds.Object { return &rbacv1.ClusterRole{} }),
	"ClusterRoleBinding":        rowOf(rbacv1.GroupName, "clusterrolebindings", func() kinds.Object { return &rbacv1.ClusterRoleBinding{} }),
}

// scenario is one file of testdata: what the store holds, then writes and what becomes of them, in order.
type scenario struct {
	Objects []map[string]any `json:"objects"`
	Steps   []struct {
		Do          Operation      `json:"do"` // CREATE by default
		Subresource string         `json:"subresource"`
		As          string         `json:"as"` // a user; admin by default, "node:x" for a node
		Object      map[string]any `json:"object"`
		Old         map[string]any `json:"old"`
		DryRun      bool           `json:"dryRun"`
		// Want are parts that the object must hold afterwards; Error is the whole message.
		Want     map[string]any `json:"want"`
		Error    string         `json:"error"`
		Warnings []string       `json:"warnings"`
		// Keep puts the object into the store when it was let in.
		Keep bool `json:"keep"`
	} `json:"steps"`
}

func decode(t *testing.T, content map[string]any) (kinds.Object, *kinds.Kind) {
	t.Helper()
	kind, _ := content["kind"].(string)
	r, ok := rows[kind]
	if !ok {
		t.Fatalf("unknown kind in %v", content)
	}
	data, err := yaml.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	obj := r.new()
	if err := yaml.UnmarshalStrict(data, obj); err != nil {
		t.Fatal(err)
	}
	return obj, r.kind
}

func put(s *memory, k *kinds.Kind, obj kinds.Object) {
	s.Mirror(store.Put, store.Key{Resource: k.GroupResource().String(), Namespace: obj.GetNamespace(), Name: obj.GetName()}, obj, 1)
}

// TestScenarios runs testdata/*.yaml. Most of them are taken from what a kube-apiserver v1.37.2 answered.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var sc scenario
			if err := yaml.UnmarshalStrict(data, &sc); err != nil {
				t.Fatal(err)
			}
			runScenario(t, &sc)
		})
	}
}

func newChain(t *testing.T) (*memory, Chain) {
	t.Helper()
	s := &memory{Memory: store.NewMemory(1)}
	chain, err := Default(Options{Store: s, Policy: auth.NewPolicy(s)})
	if err != nil {
		t.Fatal(err)
	}
	return s, chain
}

func runScenario(t *testing.T, sc *scenario) {
	s, chain := newChain(t)
	for _, content := range sc.Objects {
		obj, k := decode(t, content)
		put(s, k, obj)
	}
	for i, step := range sc.Steps {
		obj, k := decode(t, step.Object)
		if obj.GetUID() == "" {
			obj.SetUID("uid-of-" + types.UID(obj.GetName()))
		}
		var warnings []string
		r := &Request{
			Operation: step.Do, Kind: k, Version: "v1", Subresource: step.Subresource, Namespace: obj.GetNamespace(), Name: obj.GetName(),
			Object: obj, User: userOf(step.As), DryRun: step.DryRun, Warn: func(text string) { warnings = append(warnings, text) },
		}
		if r.Operation == "" {
			r.Operation = Create
		}
		if r.Operation == Delete {
			r.Object = nil
		}
		if step.Old != nil {
			r.Old, _ = decode(t, step.Old)
		}
		err := chain.Mutate(t.Context(), r)
		if err == nil {
			err = chain.Validate(t.Context(), r)
		}
		where := fmt.Sprintf("step %d (%s %s)", i+1, r.Operation, obj.GetName())
		got := ""
		if err != nil {
			got = err.Error()
			if status := apierrors.APIStatus(nil); !errors.As(err, &status) {
				t.Errorf("%s: %v is no Status", where, err)
			}
		}
		if got != step.Error {
			t.Errorf("%s: error\n%s\nwant\n%s", where, got, step.Error)
			continue
		}
		if fmt.Sprintf("%q", warnings) != fmt.Sprintf("%q", step.Warnings) {
			t.Errorf("%s: warnings\n%s\nwant\n%s", where, strings.Join(warnings, "\n"), strings.Join(step.Warnings, "\n"))
		}
		if step.Want != nil {
			content := map[string]any{}
			data, _ := yaml.Marshal(obj)
			yaml.Unmarshal(data, &content)
			if diff := missing("", step.Want, content); diff != "" {
				t.Errorf("%s: %s in\n%s", where, diff, data)
			}
		}
		if step.Keep && err == nil {
			put(s, k, obj)
		}
	}
}

func userOf(as string) *auth.User {
	if as == "" {
		return &auth.User{Name: "admin", Groups: []string{auth.GroupMasters, auth.GroupAuthenticated}}
	}
	if node, ok := strings.CutPrefix(as, "node:"); ok {
		return &auth.User{Name: auth.NodeUserPrefix + node, Groups: []string{auth.GroupNodes, auth.GroupAuthenticated}}
	}
	return &auth.User{Name: as, Groups: []string{auth.GroupAuthenticated}}
}

// missing says what of want is not in got: maps may hold more, lists may not, "<suffix>" at the end of a text stands for five letters, null for nothing there.
func missing(path string, want, got any) string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s is %v", path, got)
		}
		for key, value := range w {
			if value == nil {
				if g[key] != nil {
					return fmt.Sprintf("%s.%s is %v, want nothing", path, key, g[key])
				}
				continue
			}
			if diff := missing(path+"."+key, value, g[key]); diff != "" {
				return diff
			}
		}
		return ""
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return fmt.Sprintf("%s is %v, want %v", path, got, want)
		}
		for i := range w {
			if diff := missing(fmt.Sprintf("%s[%d]", path, i), w[i], g[i]); diff != "" {
				return diff
			}
		}
		return ""
	case string:
		if prefix, ok := strings.CutSuffix(w, "<suffix>"); ok {
			g, _ := got.(string)
			if strings.HasPrefix(g, prefix) && len(g) == len(prefix)+5 {
				return ""
			}
		}
	}
	if fmt.Sprint(want) != fmt.Sprint(got) {
		return fmt.Sprintf("%s is %v, want %v", path, got, want)
	}
	return ""
}

// TestQuotaUnderRace lets many requests spend one quota at once: exactly as many as fit come through.
func TestQuotaUnderRace(t *testing.T) {
	s, chain := newChain(t)
	ns, k := decode(t, map[string]any{"kind": "Namespace", "metadata": map[string]any{"name": "ns"}})
	put(s, k, ns)
	amount := map[string]any{"configmaps": "7"}
	quota, k := decode(t, map[string]any{"kind": "ResourceQuota", "metadata": map[string]any{"name": "q", "namespace": "ns"},
		"spec": map[string]any{"hard": amount}, "status": map[string]any{"hard": amount, "used": map[string]any{"configmaps": "0"}}})
	put(s, k, quota)
	var wg sync.WaitGroup
	var mu sync.Mutex
	let := 0
	for i := range 20 {
		wg.Go(func() {
			obj := &corev1.ConfigMap{}
			obj.Name, obj.Namespace = fmt.Sprint("c", i), "ns"
			r := &Request{Operation: Create, Kind: rows["ConfigMap"].kind, Namespace: "ns", Name: obj.Name, Object: obj, User: userOf(""), Warn: func(string) {}}
			if err := chain.Validate(t.Context(), r); err == nil {
				mu.Lock()
				let++
				mu.Unlock()
			} else if !strings.Contains(err.Error(), "exceeded quota: q, requested: configmaps=1, used: configmaps=7, limited: configmaps=7") {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	used := s.Snapshot().Get(store.Key{Resource: "resourcequotas", Namespace: "ns", Name: "q"}).Object.(*corev1.ResourceQuota).Status.Used["configmaps"]
	if let != 7 || used.Value() != 7 {
		t.Errorf("%d came through, %v are counted", let, used.String())
	}
}

func BenchmarkCreatePod(b *testing.B) {
	s := &memory{Memory: store.NewMemory(1)}
	chain, err := Default(Options{Store: s, Policy: auth.NewPolicy(s)})
	if err != nil {
		b.Fatal(err)
	}
	ns := &corev1.Namespace{}
	ns.Name = "ns"
	put(s, rows["Namespace"].kind, ns)
	sa := &corev1.ServiceAccount{}
	sa.Name, sa.Namespace = "default", "ns"
	put(s, rows["ServiceAccount"].kind, sa)
	user := auth.Controller("replicaset-controller")
	b.ReportAllocs()
	for b.Loop() {
		pod := &corev1.Pod{}
		pod.Name, pod.Namespace = "p", "ns"
		pod.Spec.Containers = []corev1.Container{{Name: "c", Image: "x"}}
		r := &Request{Operation: Create, Kind: rows["Pod"].kind, Namespace: "ns", Name: "p", Object: pod, User: user, Warn: func(string) {}}
		if err := errors.Join(chain.Mutate(b.Context(), r), chain.Validate(b.Context(), r)); err != nil {
			b.Fatal(err)
		}
	}
}
