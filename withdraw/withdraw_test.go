package withdraw

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/client/clienttest"
	"github.com/kebernetes/kebernetes/kinds"
)

// rules are a Part whose addresses get new connections until a time.
type rules struct {
	mu    sync.Mutex
	until map[netip.Addr]time.Duration // after start
	start time.Time
	asked []netip.Addr
}

func (r *rules) WaitWithdrawn(ctx context.Context, addrs ...netip.Addr) error {
	r.mu.Lock()
	r.asked = append(r.asked, addrs...)
	var rest time.Duration
	for _, a := range addrs {
		rest = max(rest, r.until[a]-time.Since(r.start))
	}
	r.mu.Unlock()
	select {
	case <-time.After(rest):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// world is a server with nodes whose rules are fakes.
type world struct {
	*clienttest.Memory
	server *Server
	nodes  map[string]http.Handler
	rules  map[string]*rules
	asked  map[string]int // questions
	seen   map[string][]int64
	mu     sync.Mutex
}

func newWorld(names ...string) *world {
	memory, c := clienttest.NewMemory(
		&kinds.Kind{Kind: "Pod", Resource: "pods", Namespaced: true, Versions: []kinds.Version{kinds.V[corev1.Pod, corev1.PodList]("v1")}},
		&kinds.Kind{Kind: "Node", Resource: "nodes", Versions: []kinds.Version{kinds.V[corev1.Node, corev1.NodeList]("v1")}},
		&kinds.Kind{Group: "discovery.k8s.io", Kind: "EndpointSlice", Resource: "endpointslices", Namespaced: true,
			Versions: []kinds.Version{kinds.V[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList]("v1")}},
	)
	w := &world{Memory: memory, nodes: map[string]http.Handler{}, rules: map[string]*rules{}, asked: map[string]int{}, seen: map[string][]int64{}}
	w.server = NewServer(Options{
		Client: c, Logger: slog.New(slog.DiscardHandler),
		Node: func(name string) (http.Handler, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if h := w.nodes[name]; h != nil {
				return h, nil
			}
			return nil, errors.New("not connected")
		},
		Identify: func(r *http.Request) (string, error) {
			if node := r.Header.Get("Node"); node != "" {
				return node, nil
			}
			return "", errors.New("no node")
		},
	})
	for _, name := range names {
		w.node(name, corev1.ConditionTrue)
	}
	return w
}

// end stops the server.
func (w *world) end(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.server.Run(ctx); err != nil {
		t.Error(err)
	}
}

// node adds a node, which is connected.
func (w *world) node(name string, ready corev1.ConditionStatus) {
	w.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}})
	r := &rules{until: map[netip.Addr]time.Duration{}, start: time.Now()}
	w.rules[name] = r
	w.nodes[name] = &Node{Parts: []Part{r, &rules{}}, Next: http.NotFoundHandler(), CatchUp: func(_ context.Context, revision int64) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asked[name]++
		w.seen[name] = append(w.seen[name], revision)
		return nil
	}}
}

// pod adds a pod with its slice, and returns it.
func (w *world) pod(name, node, ip string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "u-" + "1"},
		Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: ip}}}}
	w.Put(pod, &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{ip}}}})
	return pod
}

func (w *world) serves(node, ip string, until time.Duration) {
	w.rules[node].until[netip.MustParseAddr(ip)] = until
}

func (w *world) agent(own string) *Agent {
	return &Agent{Client: w.server.Client, Parts: []Part{w.rules[own]}, Others: w.server.Withdraw, Logger: slog.New(slog.DiscardHandler)}
}

// How long a pod's end waits, and for whom.
func TestWithdraw(t *testing.T) {
	const gather = gatherTime
	for name, tc := range map[string]struct {
		world func(w *world)
		grace time.Duration // default 30 s
		want  time.Duration
		asks  string // the nodes asked
	}{
		"alone": {func(w *world) {
			w.Remove(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "c"}})
		}, 0, arrivalTime, ""},
		"all are done":       {func(w *world) {}, 0, gather + arrivalTime, "b c"},
		"own node, then all": {func(w *world) { w.serves("a", "10.42.0.1", time.Second); w.serves("b", "10.42.0.1", 2*time.Second) }, 0, 2*time.Second + arrivalTime, "b c"},
		"the slowest counts": {func(w *world) { w.serves("b", "10.42.0.1", time.Second); w.serves("c", "10.42.0.1", 2*time.Second) }, 0, 2*time.Second + arrivalTime, "b c"},
		"no service": {func(w *world) {
			w.Remove(&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pod"}})
		}, 0, 0, ""},
		"dead node": {func(w *world) {
			w.nodes["b"] = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		}, 0, answerLimit + arrivalTime, "c"},
		"dead node and haste": {func(w *world) { delete(w.nodes, "b") }, 2 * time.Second, time.Second, "c"},
		"known to be dead":    {func(w *world) { w.node("b", corev1.ConditionUnknown); delete(w.nodes, "b") }, 0, gather + arrivalTime, "c"},
		"in trouble":          {func(w *world) { w.node("b", corev1.ConditionFalse); w.serves("b", "10.42.0.1", time.Second) }, 0, time.Second + arrivalTime, "b c"},
		"never on own node":   {func(w *world) { w.serves("a", "10.42.0.1", time.Hour) }, 0, 15 * time.Second, ""},
		"agent starts anew": {func(w *world) {
			h := w.nodes["b"]
			delete(w.nodes, "b")
			time.AfterFunc(time.Second, func() { w.mu.Lock(); defer w.mu.Unlock(); w.nodes["b"] = h })
		}, 0, 1002*time.Millisecond + arrivalTime, "b c"},
		"connection breaks": {func(w *world) {
			h, first := w.nodes["b"], true
			w.nodes["b"] = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if first {
					first = false
					return
				}
				h.ServeHTTP(rw, r)
			})
		}, 0, gather + askAgain + arrivalTime, "b c"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld("a", "b", "c")
				defer w.end(t)
				pod := w.pod("pod", "a", "10.42.0.1")
				tc.world(w)
				if tc.grace == 0 {
					tc.grace = 30 * time.Second
				}
				ctx, cancel := context.WithTimeout(t.Context(), tc.grace)
				defer cancel()
				began := time.Now()
				w.agent("a").Withdraw(ctx, pod)
				if took := time.Since(began); took != tc.want {
					t.Errorf("took %s, want %s", took, tc.want)
				}
				var asked []string
				for node := range w.asked {
					asked = append(asked, node)
				}
				slices.Sort(asked)
				if got := strings.Join(asked, " "); got != tc.asks {
					t.Errorf("asked %s, want %s", got, tc.asks)
				}
				slice := w.Snapshot().Get(client.Key{Resource: "endpointslices.discovery.k8s.io", Namespace: "default", Name: "pod"})
				if seen := w.seen["c"]; len(seen) > 0 && seen[0] != slice.Revision {
					t.Errorf("c was to catch up with %v, want %d", seen, slice.Revision)
				}
			})
		})
	}
}

// Pods that end together cost each node one question, and none waits for another.
func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b", "c")
		defer w.end(t)
		w.serves("b", "10.42.0.7", 2*time.Second)
		var wait sync.WaitGroup
		for i := range 50 {
			ip := netip.AddrFrom4([4]byte{10, 42, 0, byte(i + 1)}).String()
			pod := w.pod("p"+ip, "a", ip)
			wait.Go(func() {
				began := time.Now()
				w.agent("a").Withdraw(t.Context(), pod)
				want := gatherTime + arrivalTime
				if ip == "10.42.0.7" {
					want = 2*time.Second + arrivalTime
				}
				if took := time.Since(began); took != want {
					t.Errorf("%s took %s, want %s", ip, took, want)
				}
			})
		}
		wait.Wait()
		if w.asked["b"] != 1 || w.asked["c"] != 1 {
			t.Errorf("asked %v times, want each node once", w.asked)
		}
	})
}

// The node's network is others' too: nobody could wait for its address to be out of use.
func TestHostNetwork(t *testing.T) {
	w := newWorld("a", "b")
	pod := w.pod("pod", "a", "192.0.2.1")
	pod.Spec.HostNetwork = true
	w.agent("a").Withdraw(t.Context(), pod)
	if len(w.rules["a"].asked) > 0 || len(w.asked) > 0 {
		t.Errorf("asked %v and %v", w.rules["a"].asked, w.asked)
	}
}

// An agent asks for the pods of its own node, and for no others.
func TestAgentsRequests(t *testing.T) {
	w := newWorld("a", "b")
	w.pod("pod", "a", "10.42.0.1")
	for name, tc := range map[string]struct {
		method, node, body string
		code, asks         int
	}{
		"own pod":       {"POST", "a", `{"namespace":"default","name":"pod","uid":"u-1"}`, 200, 1},
		"other's pod":   {"POST", "b", `{"namespace":"default","name":"pod","uid":"u-1"}`, 403, 0},
		"gone":          {"POST", "b", `{"namespace":"default","name":"gone","uid":"u-1"}`, 200, 0},
		"later of name": {"POST", "a", `{"namespace":"default","name":"pod","uid":"u-2"}`, 200, 0},
		"nobody":        {"POST", "", `{}`, 403, 0},
		"reads":         {"GET", "a", ``, 405, 0},
		"nonsense":      {"POST", "a", `{`, 400, 0},
		"too much":      {"POST", "a", `"` + strings.Repeat("x", mostMessage) + `"`, 413, 0},
	} {
		clear(w.asked)
		req := httptest.NewRequest(tc.method, Path, strings.NewReader(tc.body))
		req.Header.Set("Node", tc.node)
		rec := httptest.NewRecorder()
		w.server.ServeHTTP(rec, req)
		if rec.Code != tc.code || w.asked["b"] != tc.asks {
			t.Errorf("%s: %d %q and %d questions, want %d and %d", name, rec.Code, rec.Body, w.asked["b"], tc.code, tc.asks)
		}
	}
}

// What Ask sends the server understands, and a node's other paths go on.
func TestMessages(t *testing.T) {
	w := newWorld("a", "b")
	pod := w.pod("pod", "a", "10.42.0.1")
	ask := Ask(func(ctx context.Context, path string, body []byte) error {
		req := httptest.NewRequest("POST", path, bytes.NewReader(body))
		req.Header.Set("Node", "a")
		rec := httptest.NewRecorder()
		w.server.ServeHTTP(rec, req)
		if rec.Code != 200 {
			return errors.New(rec.Body.String())
		}
		return nil
	})
	if err := ask(t.Context(), pod); err != nil || w.asked["b"] != 1 {
		t.Errorf("%v, %d questions", err, w.asked["b"])
	}
	for path, want := range map[string]int{NodePath: 200, "/healthz": 404} {
		body, err := json.Marshal(question{Revision: 1})
		if err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		w.nodes["b"].ServeHTTP(rec, httptest.NewRequest("POST", path, bytes.NewReader(body)))
		if rec.Code != want {
			t.Errorf("%s: %d, want %d", path, rec.Code, want)
		}
	}
}
