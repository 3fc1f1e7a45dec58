package apiserver

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/admission"
	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/kinds/builtin"
	"github.com/kebernetes/kebernetes/store"
)

// send sends one request and returns the answer's code and body.
func send(t testing.TB, h http.Handler, method, path, body string) (int, string) {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if method == "PATCH" {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// lines opens a watch and returns its events as "TYPE name resourceVersion".
func lines(t *testing.T, s *Server, ctx context.Context, path string) <-chan string {
	t.Helper()
	r, w := io.Pipe()
	out := make(chan string)
	started := make(chan struct{})
	go func() {
		defer w.Close()
		s.ServeHTTP(&piped{w: w, h: http.Header{}, started: started}, httptest.NewRequest("GET", path, nil).WithContext(ctx))
	}()
	go func() {
		defer close(out)
		scan := bufio.NewScanner(r)
		for scan.Scan() {
			var e struct {
				Type   string
				Object struct{ Metadata metav1.ObjectMeta }
			}
			if err := json.Unmarshal(scan.Bytes(), &e); err != nil {
				t.Error(err)
				return
			}
			text := e.Type + " " + e.Object.Metadata.Name
			if e.Type == "BOOKMARK" {
				text += e.Object.Metadata.ResourceVersion + e.Object.Metadata.Annotations[metav1.InitialEventsAnnotationKey]
			}
			out <- text
		}
	}()
	<-started
	return out
}

type piped struct {
	w       *io.PipeWriter
	h       http.Header
	started chan struct{}
	once    sync.Once
}

func (p *piped) Header() http.Header         { return p.h }
func (p *piped) WriteHeader(int)             { p.once.Do(func() { close(p.started) }) }
func (p *piped) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *piped) Flush()                      {}

const configMapsPath = "/api/v1/namespaces/default/configmaps"

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		send(t, s, "POST", configMapsPath, `{"metadata":{"name":"old","labels":{"x":"y"}}}`)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		rv := func() string { return fmt.Sprint(s.Store.Snapshot().Revision()) }
		events := lines(t, s, ctx, configMapsPath+"?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=x%3Dy&timeoutSeconds=100")
		expect := func(want string) {
			t.Helper()
			if got := <-events; got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		expect("ADDED old")
		expect("BOOKMARK " + rv() + "true")
		send(t, s, "PATCH", configMapsPath+"/old", `{"metadata":{"labels":{"x":"z"}}}`)
		expect("DELETED old")
		send(t, s, "POST", configMapsPath, `{"metadata":{"name":"other"}}`)
		send(t, s, "PATCH", configMapsPath+"/old", `{"metadata":{"labels":{"x":"y"}}}`)
		expect("ADDED old")
		send(t, s, "PATCH", configMapsPath+"/old", `{"data":{"k":"v"}}`)
		expect("MODIFIED old")
		start := time.Now()
		expect("BOOKMARK " + rv()) // after a quiet minute
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("a bookmark after %v", waited)
		}
		expect("BOOKMARK " + rv()) // and just before the end
		if left, open := <-events; open {
			t.Errorf("the watch goes on with %q", left)
		}
		if lasted := time.Since(start); lasted != 100*time.Second {
			t.Errorf("the watch lasted %v", lasted)
		}
	})
}

// TestWatchTooLate: what is forgotten is told as an event, so that clients list again.
func TestWatchTooLate(t *testing.T) {
	s := newTestServer(t)
	send(t, s, "POST", configMapsPath, `{"metadata":{"name":"a"}}`)
	s.Store.(*memStore).Compact(s.Store.Snapshot().Revision())
	code, body := send(t, s, "GET", configMapsPath+"?watch=1&resourceVersion=2", "")
	var e struct {
		Type   string
		Object metav1.Status
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil || code != 200 || e.Type != "ERROR" || e.Object.Reason != metav1.StatusReasonExpired {
		t.Errorf("%d %s", code, body)
	}
}

func TestListPages(t *testing.T) {
	s := newTestServer(t)
	for _, n := range []string{"a", "b", "c"} {
		send(t, s, "POST", configMapsPath, `{"metadata":{"name":"`+n+`"}}`)
	}
	page := func(query string) (names string, next string, code int) {
		code, body := send(t, s, "GET", configMapsPath+"?"+query, "")
		var l struct {
			Metadata metav1.ListMeta
			Items    []struct{ Metadata metav1.ObjectMeta }
		}
		if err := json.Unmarshal([]byte(body), &l); err != nil {
			t.Fatal(err)
		}
		for _, i := range l.Items {
			names += i.Metadata.Name
		}
		return names, l.Metadata.Continue, code
	}
	names, next, _ := page("limit=1")
	send(t, s, "DELETE", configMapsPath+"/c", "")
	send(t, s, "POST", configMapsPath, `{"metadata":{"name":"bb"}}`)
	if rest, _, _ := page("continue=" + next); names+rest != "abc" {
		t.Errorf("pages show %q, want the state of the first", names+rest)
	}
	// Once that state is forgotten, the answer carries a token for what there is now.
	s.Store.(*memStore).Compact(s.Store.Snapshot().Revision())
	_, next, code := page("continue=" + next)
	if code != http.StatusGone || next == "" {
		t.Fatalf("%d, continue %q", code, next)
	}
	if rest, _, _ := page("continue=" + next); rest != "bbb" {
		t.Errorf("the rest is %q, want b and bb", rest)
	}
}

// TestListTellsWhatRemains pages through a namespace, and through all, while objects come and go.
func TestListTellsWhatRemains(t *testing.T) {
	s := newTestServer(t)
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		send(t, s, "POST", configMapsPath, `{"metadata":{"name":"`+n+`"}}`)
	}
	for _, path := range []string{configMapsPath, "/api/v1/configmaps"} {
		next := ""
		for _, want := range []string{"ab 3", "cd 1", "e 0"} {
			_, body := send(t, s, "GET", path+"?limit=2&continue="+next, "")
			var l corev1.ConfigMapList
			if err := json.Unmarshal([]byte(body), &l); err != nil {
				t.Fatal(err)
			}
			got := ""
			for i := range l.Items {
				got += l.Items[i].Name
			}
			if got = fmt.Sprint(got, " ", ptr.Deref(l.RemainingItemCount, 0)); got != want {
				t.Errorf("%s: page %q, want %q", path, got, want)
			}
			next = l.Continue
			send(t, s, "POST", configMapsPath, `{"metadata":{"generateName":"z"}}`)
			send(t, s, "DELETE", configMapsPath+"/e", "")
		}
		send(t, s, "DELETE", configMapsPath+"?fieldSelector=metadata.name!=a,metadata.name!=b,metadata.name!=c,metadata.name!=d", "")
		send(t, s, "POST", configMapsPath, `{"metadata":{"name":"e"}}`)
	}
}

// guard lets users do what their name says: "get,create".
type guard struct{ everyone }

func (guard) Authorize(a *auth.Attributes) (bool, string) {
	return strings.Contains(a.User.Name, a.Verb), ""
}

// TestLocal: calls inside the process pass the same checks as requests from outside.
func TestLocal(t *testing.T) {
	refused := errors.New("not on my watch")
	s, err := New(Options{
		Table: builtin.Table(), Store: newMemStore(), Authenticator: everyone{}, Authorizer: guard{},
		Admission: admission.Chain{{Name: "t", Validate: func(_ context.Context, r *admission.Request) error {
			if r.Object != nil && r.Object.GetName() == "refused" {
				return apierrors.NewForbidden(corev1.Resource("configmaps"), "refused", refused)
			}
			return nil
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	kind, ctx := s.Table.Resource(corev1.Resource("configmaps")), t.Context()
	make := func(name string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}}
	}
	l := s.Client(&auth.User{Name: "create,patch,delete"})
	obj, err := l.Create(ctx, kind, make("a"), metav1.CreateOptions{})
	if err != nil || obj.GetUID() == "" || obj.GetResourceVersion() == "" || obj.GetManagedFields() != nil {
		t.Fatalf("%+v %v", obj, err)
	}
	if _, err := l.Update(ctx, kind, "", make("a"), metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("update without the right: %v", err)
	}
	if _, err := l.Create(ctx, kind, make("refused"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("admission was not asked: %v", err)
	}
	if _, err := l.Create(ctx, kind, make("Bad_Name"), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("validation was not asked: %v", err)
	}
	obj, err = l.Patch(ctx, kind, "ns", "a", "", types.ApplyYAMLPatchType, []byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: v}}"), metav1.PatchOptions{FieldManager: "me"})
	if err != nil || obj.(*corev1.ConfigMap).Data["k"] != "v" {
		t.Errorf("%+v %v", obj, err)
	}
	if err := l.Delete(ctx, kind, "ns", "a", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := s.Client(&auth.User{Name: "get"}).Get(ctx, kind, "ns", "a"); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}

// counted counts commits.
type counted struct {
	*memStore
	commits int
}

func (c *counted) Commit(ctx context.Context, w ...store.Write) []store.Result {
	c.commits++
	return c.memStore.Commit(ctx, w...)
}

func TestBindManyInOneCommit(t *testing.T) {
	s := newTestServer(t)
	l, pods := s.Client(&everyoneUser), s.Table.Resource(corev1.Resource("pods"))
	var bindings []*corev1.Binding
	for i := range 10 {
		name := fmt.Sprint("p", i)
		if _, err := l.Create(t.Context(), pods, benchPod(name), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		bindings = append(bindings, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}})
	}
	bindings = append(bindings, bindings[0].DeepCopy(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "none", Namespace: "default"}, Target: corev1.ObjectReference{Name: "n"}})
	c := &counted{memStore: s.Store.(*memStore)}
	s.Store = c
	errs := l.Bind(t.Context(), bindings)
	for i, err := range errs[:10] {
		if err != nil {
			t.Errorf("pod %d: %v", i, err)
		}
	}
	if !apierrors.IsConflict(errs[10]) || !apierrors.IsNotFound(errs[11]) {
		t.Errorf("bound twice: %v; not there: %v", errs[10], errs[11])
	}
	if c.commits > 2 { // the second for the pod that was bound twice
		t.Errorf("%d commits", c.commits)
	}
}

// TestConcurrentPatches: patches without a resourceVersion never get lost, whoever comes between.
func TestConcurrentPatches(t *testing.T) {
	s := newTestServer(t)
	send(t, s, "POST", configMapsPath, `{"metadata":{"name":"c"}}`)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if code, body := send(t, s, "PATCH", configMapsPath+"/c", fmt.Sprintf(`{"data":{"k%d":"v"}}`, i)); code != 200 {
				t.Error(body)
			}
		})
	}
	wg.Wait()
	cm, err := s.read(s.Table.Resource(corev1.Resource("configmaps")), "default", "c")
	if err != nil || len(cm.Object.(*corev1.ConfigMap).Data) != 20 {
		t.Errorf("%v %v", cm, err)
	}
}

func TestPanicAndLimits(t *testing.T) {
	s := newTestServer(t)
	s.Paths = map[string]http.Handler{"/panic": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("!") })}
	if code, body := send(t, s, "GET", "/panic", ""); code != 500 || strings.TrimSpace(body) != panicText {
		t.Errorf("%d %s", code, body)
	}
	s.Authenticator = named("someone")
	for range cap(s.limits.others.reads.free) {
		s.limits.others.reads.free <- struct{}{}
	}
	for range cap(s.limits.others.reads.queue) {
		s.limits.others.reads.queue <- struct{}{}
	}
	if code, body := send(t, s, "GET", configMapsPath, ""); code != http.StatusTooManyRequests {
		t.Errorf("%d %s", code, body)
	}
	for _, path := range []string{"/livez", configMapsPath} { // probes and other levels go on
		if path == configMapsPath {
			s.Authenticator = named(auth.ServiceAccountPrefix + "a:b")
		}
		if code, body := send(t, s, "GET", path, ""); code != 200 {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

type named string

func (n named) Authenticate(*http.Request) (*auth.User, error) {
	return &auth.User{Name: string(n)}, nil
}

// TestBootstrapRepairs: what is missing from a role comes back at the next start, unless it opted out.
func TestBootstrapRepairs(t *testing.T) {
	st := newMemStore()
	start := func() *Server {
		s, err := New(Options{Table: builtin.Table(), Store: st, Authenticator: everyone{}, Authorizer: everyone{}, Bootstrap: auth.BootstrapObjects()})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.bootstrap(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := start()
	roles := "/apis/rbac.authorization.k8s.io/v1/clusterroles/"
	send(t, s, "PATCH", roles+"system:kube-scheduler", `{"rules":[{"apiGroups":["x"],"resources":["y"],"verbs":["get"]}]}`)
	send(t, s, "PATCH", roles+"system:node", `{"rules":null,"metadata":{"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"false"}}}`)
	rules := func(s *Server, name string) string {
		_, body := send(t, s, "GET", roles+name, "")
		return body
	}
	s = start()
	if got := rules(s, "system:kube-scheduler"); !strings.Contains(got, `"bindings"`) || !strings.Contains(got, `"y"`) {
		t.Errorf("missing rules must come back beside what was added: %s", got)
	}
	if got := rules(s, "system:node"); strings.Contains(got, `"verbs"`) {
		t.Errorf("a role that opted out was changed: %s", got)
	}
	rev := st.Snapshot().Revision()
	start()
	if now := st.Snapshot().Revision(); now != rev {
		t.Errorf("a start that finds all in order wrote %d times", now-rev)
	}
}

func TestBodyLimit(t *testing.T) {
	s := newTestServer(t)
	for name, tc := range map[string]struct {
		body string
		code int
	}{
		"too large": {`{"data":{"k":"` + strings.Repeat("x", maxBody) + `"}}`, http.StatusRequestEntityTooLarge},
		"too deep":  {strings.Repeat(`{"a":`, 20000), http.StatusBadRequest},
	} {
		if code, body := send(t, s, "POST", configMapsPath, tc.body); code != tc.code {
			t.Errorf("%s: %d %.200s", name, code, body)
		}
	}
}
