package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kebernetes/kebernetes/apiserver/wire"
)

// sink is a ResponseWriter that keeps nothing.
type sink struct {
	h http.Header
	n int
}

func (s *sink) Header() http.Header         { return s.h }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(b []byte) (int, error) { s.n += len(b); return len(b), nil }
func (s *sink) Flush()                      {}

const protobufType = "application/vnd.kubernetes.protobuf"

func do(s *Server, method, path, accept string, body []byte) *sink {
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.Header.Set("Accept", accept)
	r.Header.Set("Content-Type", accept)
	r.Header.Set("User-Agent", "bench/1")
	w := &sink{h: http.Header{}}
	s.ServeHTTP(w, r)
	return w
}

func configMap(name string) []byte {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": strings.Repeat("x", 1024)}}
	return protobufOf(cm, "ConfigMap")
}

// protobufOf is a core object as clients send it.
func protobufOf(obj runtime.Object, kind string) []byte {
	b := &wire.Buffer{}
	if err := wire.EncodeWhole(b, obj, corev1.SchemeGroupVersion.WithKind(kind), wire.Protobuf); err != nil {
		panic(err)
	}
	return b.B
}

func BenchmarkCreateConfigMap(b *testing.B) {
	s := newTestServer(b)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		if w := do(s, "POST", "/api/v1/namespaces/default/configmaps", protobufType, configMap(fmt.Sprintf("c%d", n))); w.n < 1000 {
			b.Fatal("no object came back")
		}
	}
}

func BenchmarkGetConfigMap(b *testing.B) {
	s := newTestServer(b)
	do(s, "POST", "/api/v1/namespaces/default/configmaps", protobufType, configMap("c"))
	b.ReportAllocs()
	for b.Loop() {
		do(s, "GET", "/api/v1/namespaces/default/configmaps/c", protobufType, nil)
	}
}

func BenchmarkPatchConfigMap(b *testing.B) {
	s := newTestServer(b)
	do(s, "POST", "/api/v1/namespaces/default/configmaps", protobufType, configMap("c"))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		r := httptest.NewRequest("PATCH", "/api/v1/namespaces/default/configmaps/c", strings.NewReader(fmt.Sprintf(`{"data":{"n":"%d"}}`, n)))
		r.Header.Set("Content-Type", "application/merge-patch+json")
		r.Header.Set("User-Agent", "bench/1")
		s.ServeHTTP(&sink{h: http.Header{}}, r)
	}
}

func benchPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": "x", "tier": "y"}}, Spec: corev1.PodSpec{
		NodeSelector: map[string]string{"kbench": "fake"}, Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Containers: []corev1.Container{{Name: "c", Image: "fake", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}}}}}}
}

func BenchmarkCreatePod(b *testing.B) {
	s := newTestServer(b)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		if w := do(s, "POST", "/api/v1/namespaces/default/pods", protobufType, protobufOf(benchPod(fmt.Sprintf("p%d", n)), "Pod")); w.n < 300 {
			b.Fatal("no object came back")
		}
	}
}

func BenchmarkListPods(b *testing.B) {
	s := newTestServer(b)
	l := s.Client(&everyoneUser)
	for i := range 3000 {
		if _, err := l.Create(context.Background(), s.Table.Resource(corev1.Resource("pods")), benchPod(fmt.Sprintf("p%d", i)), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	for name, accept := range map[string]string{"json": "application/json", "protobuf": protobufType, "table": "application/json;as=Table;v=v1;g=meta.k8s.io"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				do(s, "GET", "/api/v1/namespaces/default/pods", accept, nil)
			}
		})
	}
}

// BenchmarkWatch measures what one event costs for each of 200 watchers.
func BenchmarkWatch(b *testing.B) {
	s := newTestServer(b)
	do(s, "POST", "/api/v1/namespaces/default/configmaps", protobufType, configMap("c"))
	const watchers = 200
	rv := s.Store.Snapshot().Revision()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	got := make(chan struct{}, 1<<16)
	for range watchers {
		r := httptest.NewRequest("GET", fmt.Sprintf("/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=%d&fieldSelector=metadata.name%%3Dc", rv), nil)
		r.Header.Set("Accept", protobufType)
		go s.ServeHTTP(&eventSink{sink: sink{h: http.Header{}}, got: got}, r.WithContext(ctx))
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		patch := fmt.Sprintf(`{"data":{"n":"%d"}}`, n)
		r := httptest.NewRequest("PATCH", "/api/v1/namespaces/default/configmaps/c", strings.NewReader(patch))
		r.Header.Set("Content-Type", "application/merge-patch+json")
		s.ServeHTTP(&sink{h: http.Header{}}, r)
		for range watchers {
			<-got
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/watchers, "ns/event")
}

// eventSink tells of each write that holds something.
type eventSink struct {
	sink
	got chan struct{}
}

func (s *eventSink) Write(p []byte) (int, error) {
	s.got <- struct{}{}
	return len(p), nil
}

var _ io.Writer = (*sink)(nil)
