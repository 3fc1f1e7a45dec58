package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/builtin"
)

// server is an API that serves ConfigMaps, Secrets and Pods of one namespace, and counts how it is asked.
type server struct {
	t     *testing.T
	table *kinds.Table
	codec *protobuf.Serializer
	http  *httptest.Server

	mu       sync.Mutex
	changed  sync.Cond
	revision int
	objects  map[string]client.Object // by resource/name
	watches  map[string]int           // that are open, by resource?selector
	wake     map[string]chan struct{} // closed when an object changes, by resource/name
	gets     int
	dials    int
	broken   chan struct{} // closed to end all watches
	refusing bool
}

func newServer(t *testing.T) *server {
	s := &server{t: t, table: builtin.Table(), objects: map[string]client.Object{}, watches: map[string]int{}, wake: map[string]chan struct{}{}, revision: 1, broken: make(chan struct{})}
	s.changed.L = &s.mu
	s.codec = protobuf.NewSerializer(s.table.Scheme(), s.table.Scheme())
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.http.EnableHTTP2 = true
	s.http.StartTLS()
	t.Cleanup(func() {
		s.end()
		s.http.Close()
	})
	return s
}

// end breaks all watches.
func (s *server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.broken)
	s.broken = make(chan struct{})
}

func (s *server) refuse(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusing = yes
}

// put stores an object at the next revision.
func (s *server) put(resource string, obj client.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	obj.SetResourceVersion(strconv.Itoa(s.revision))
	obj.SetNamespace("default")
	if obj.GetUID() == "" {
		obj.SetUID("1")
	}
	s.objects[resource+"/"+obj.GetName()] = obj
	s.tell(resource + "/" + obj.GetName())
}

func (s *server) remove(resource, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	delete(s.objects, resource+"/"+name)
	s.tell(resource + "/" + name)
}

// tell wakes those who watch an object. The lock is held.
func (s *server) tell(object string) {
	if wake := s.wake[object]; wake != nil {
		close(wake)
		delete(s.wake, object)
	}
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/") // api/v1/namespaces/default/resource/name
	resource := parts[len(parts)-1]
	s.mu.Lock()
	if s.refusing {
		s.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	if r.URL.Query().Get("watch") == "true" {
		s.mu.Unlock()
		s.watch(w, r, resource)
		return
	}
	s.gets++
	obj := s.objects[parts[len(parts)-2]+"/"+resource]
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
	if obj == nil {
		status := apierrors.NewNotFound(schema.GroupResource{Resource: parts[len(parts)-2]}, resource).Status()
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write(s.encode(&status))
		return
	}
	_, _ = w.Write(s.encode(obj))
}

func (s *server) encode(obj runtime.Object) []byte {
	obj = obj.DeepCopyObject()
	if gvks, _, err := s.table.Scheme().ObjectKinds(obj); err == nil {
		obj.GetObjectKind().SetGroupVersionKind(gvks[0])
	} else {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "Status"})
	}
	var b bytes.Buffer
	if err := s.codec.Encode(obj, &b); err != nil {
		s.t.Error(err)
	}
	return b.Bytes()
}

// watch serves one object by its name, and of a type where the selector says so, or all of a resource.
func (s *server) watch(w http.ResponseWriter, r *http.Request, resource string) {
	selector := r.URL.Query().Get("fieldSelector")
	name, rest, _ := strings.Cut(strings.TrimPrefix(selector, "metadata.name="), ",")
	picks := func() client.Object {
		obj := s.objects[resource+"/"+name]
		if secret, ok := obj.(*corev1.Secret); ok && rest != "" && "type="+string(secret.Type) != rest {
			return nil
		}
		return obj
	}
	send := func(typ string, obj runtime.Object) bool {
		raw, err := (&metav1.WatchEvent{Type: typ, Object: runtime.RawExtension{Raw: s.encode(obj)}}).Marshal()
		if err != nil {
			s.t.Error(err)
		}
		_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(raw))), raw...))
		w.(http.Flusher).Flush()
		return err == nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := resource + "?" + selector
	s.watches[key]++
	s.changed.Broadcast()
	defer func() {
		s.watches[key]--
		s.changed.Broadcast()
	}()
	w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf;stream=watch")
	broken, had := s.broken, picks()
	if had != nil {
		send("ADDED", had)
	}
	mark := had
	if mark == nil {
		mark = s.table.Resource(schema.GroupResource{Resource: resource}).Storage().New()
	}
	mark = mark.DeepCopyObject().(client.Object)
	mark.SetResourceVersion(strconv.Itoa(s.revision))
	mark.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	for ok := send("BOOKMARK", mark); ok; {
		switch now := picks(); {
		case now == nil && had != nil:
			gone := had.DeepCopyObject().(client.Object)
			gone.SetResourceVersion(strconv.Itoa(s.revision))
			ok, had = send("DELETED", gone), nil
			continue
		case now != nil && (had == nil || had.GetResourceVersion() != now.GetResourceVersion()):
			ok, had = send("MODIFIED", now), now
			continue
		}
		wake := s.wake[resource+"/"+name]
		if wake == nil {
			wake = make(chan struct{})
			s.wake[resource+"/"+name] = wake
		}
		s.mu.Unlock()
		select {
		case <-wake:
		case <-broken:
			ok = false
		case <-r.Context().Done():
			ok = false
		}
		s.mu.Lock()
	}
}

// await waits until the number of open watches, by resource?selector, is so.
func (s *server) await(key string, want int) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.watches[key] != want {
		s.changed.Wait()
	}
}

// asked returns how many objects were read since the last time.
func (s *server) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.gets
	s.gets = 0
	return n
}

// remote connects to the server and mirrors its pods.
func (s *server) remote() (*client.Remote, *client.Client) {
	s.t.Helper()
	config := s.http.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos = nil
	r := client.NewRemote(client.RemoteOptions{
		Server: s.http.URL, TLS: &tls.Config{RootCAs: config.RootCAs}, Agent: "test", Table: s.table, Logger: slog.New(slog.DiscardHandler),
		Mirror: []client.MirrorSpec{{Resource: corev1.Resource("pods"), FieldSelector: "metadata.name=pod"}},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			s.mu.Lock()
			s.dials++
			s.mu.Unlock()
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	})
	ctx, stop := context.WithCancel(context.WithoutCancel(s.t.Context()))
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	s.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
	if err := r.WaitSynced(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	return r, client.New(r, s.table)
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"value": value}}
}

// shown follows what the copy shows of ConfigMaps, one word per event.
func shown(t *testing.T, c *client.Client) func() string {
	w, err := c.Watch("configmaps", c.Snapshot().Revision())
	if err != nil {
		t.Fatal(err)
	}
	var waiting []client.Event
	return func() string {
		for len(waiting) == 0 {
			if waiting, _, err = w.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		e := waiting[0]
		waiting = waiting[1:]
		if e.Type == client.Delete {
			return e.Item.Key.Name + " gone"
		}
		return e.Item.Key.Name + "=" + e.Item.Object.(*corev1.ConfigMap).Data["value"]
	}
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func value(t *testing.T, c *client.Client, name string) string {
	t.Helper()
	m, err := client.Get[*corev1.ConfigMap](t.Context(), c, "default", name)
	if apierrors.IsNotFound(err) {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	return m.Data["value"]
}

// An object is watched once however many hold it, as long as anybody does, and is in the copy for as long.
func TestFollowCounts(t *testing.T) {
	s := newServer(t)
	s.put("configmaps", configMap("a", "1"))
	s.put("configmaps", configMap("b", "1"))
	r, c := s.remote()
	next := shown(t, c)
	const watchA, watchB = "configmaps?metadata.name=a", "configmaps?metadata.name=b"
	hold := func(name string) *client.Hold { return r.Follow("configmaps", "default", name, "") }
	a1 := hold("a")
	s.await(watchA, 1)
	expect(t, next(), "a=1")
	a2, a3, b := hold("a"), hold("a"), hold("b")
	s.await(watchB, 1)
	expect(t, next(), "b=1")
	s.put("configmaps", configMap("a", "2"))
	expect(t, next(), "a=2")
	a1.Release()
	a3.Release()
	s.put("configmaps", configMap("a", "3"))
	expect(t, next(), "a=3")
	s.await(watchA, 1)
	a2.Release()
	expect(t, next(), "a gone")
	s.await(watchA, 0)
	s.put("configmaps", configMap("a", "4"))
	again := hold("a")
	expect(t, next(), "a=4")
	b.Release()
	expect(t, next(), "b gone")
	again.Release()
	expect(t, next(), "a gone")
	s.await(watchA, 0)
	s.await(watchB, 0)
}

// Reads never show less than this process was shown, and need the server only then.
func TestFollowReads(t *testing.T) {
	s := newServer(t)
	s.put("configmaps", configMap("a", "1"))
	r, c := s.remote()
	next := shown(t, c)
	expect(t, value(t, c, "a"), "1")
	if got := s.asked(); got != 1 {
		t.Errorf("what nobody follows was asked for %d times, want once", got)
	}
	defer r.Follow("configmaps", "default", "a", "").Release()
	defer r.Follow("configmaps", "default", "missing", "").Release()
	for range 3 {
		expect(t, value(t, c, "a"), "1")
		expect(t, value(t, c, "missing"), "none")
	}
	if got := s.asked(); got != 0 {
		t.Errorf("%d requests for what the copy holds", got)
	}
	// The pod was made after the object had changed: it must not be shown the old one.
	expect(t, next(), "a=1")
	pods, err := c.Watch("pods", c.Snapshot().Revision())
	if err != nil {
		t.Fatal(err)
	}
	s.put("pods", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod"}})
	if _, _, err := pods.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		expect(t, value(t, c, "a"), "1")
	}
	if got := s.asked(); got != 1 {
		t.Errorf("%d requests after the server had gone on, want one", got)
	}
	s.put("configmaps", configMap("a", "2"))
	s.put("configmaps", configMap("missing", "3"))
	seen := map[string]bool{next(): true, next(): true}
	if !seen["a=2"] || !seen["missing=3"] {
		t.Errorf("shown %v", seen)
	}
	expect(t, value(t, c, "missing"), "3")
	s.remove("configmaps", "missing")
	expect(t, next(), "missing gone")
	expect(t, value(t, c, "missing"), "none")
}

// A broken connection, or a server that is away, loses nothing and says nothing twice.
func TestFollowThroughRestarts(t *testing.T) {
	s := newServer(t)
	for _, name := range []string{"a", "b"} {
		s.put("configmaps", configMap(name, "1"))
	}
	r, c := s.remote()
	next := shown(t, c)
	defer r.Follow("configmaps", "default", "a", "").Release()
	expect(t, next(), "a=1")
	defer r.Follow("configmaps", "default", "b", "").Release()
	expect(t, next(), "b=1")
	s.refuse(true)
	s.end()
	s.await("configmaps?metadata.name=a", 0)
	s.await("configmaps?metadata.name=b", 0)
	// A server that is away does not keep a container from starting.
	expect(t, value(t, c, "a"), "1")
	s.put("configmaps", configMap("b", "2"))
	s.refuse(false)
	expect(t, next(), "b=2")
	s.await("configmaps?metadata.name=a", 1)
	s.put("configmaps", configMap("a", "2"))
	expect(t, next(), "a=2")
}

// What says that it does not change is not watched, until a read shows that another has its place.
func TestFollowImmutable(t *testing.T) {
	s := newServer(t)
	fixed := configMap("a", "1")
	fixed.Immutable = new(true)
	s.put("configmaps", fixed)
	r, c := s.remote()
	next := shown(t, c)
	defer r.Follow("configmaps", "default", "a", "").Release()
	expect(t, next(), "a=1")
	s.await("configmaps?metadata.name=a", 0)
	expect(t, value(t, c, "a"), "1")
	other := configMap("a", "2")
	other.UID = "2"
	s.put("configmaps", other)
	pods, err := c.Watch("pods", c.Snapshot().Revision())
	if err != nil {
		t.Fatal(err)
	}
	s.put("pods", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod"}})
	if _, _, err := pods.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(t, value(t, c, "a"), "2")
	expect(t, next(), "a=2")
	s.await("configmaps?metadata.name=a", 1)
}

// Who sees a Secret only while it has a type does not hide it from who sees it whatever it is.
func TestFollowSelectors(t *testing.T) {
	s := newServer(t)
	secret := func(typ corev1.SecretType, uid string) *corev1.Secret {
		out := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Type: typ}
		out.UID = types.UID(uid)
		return out
	}
	s.put("secrets", secret(corev1.SecretTypeOpaque, "1"))
	r, c := s.remote()
	typed := r.Follow("secrets", "default", "s", "type=kubernetes.io/tls")
	<-typed.Synced
	copied := func() string {
		if got, ok := client.From[*corev1.Secret](c, c.Snapshot(), "default", "s"); ok {
			return string(got.Type)
		}
		return "none"
	}
	expect(t, copied(), "none")
	plain := r.Follow("secrets", "default", "s", "")
	<-plain.Synced
	expect(t, copied(), "Opaque")
	w, err := c.Watch("secrets", c.Snapshot().Revision())
	if err != nil {
		t.Fatal(err)
	}
	s.put("secrets", secret(corev1.SecretTypeTLS, "2"))
	if _, _, err := w.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(t, copied(), "kubernetes.io/tls")
	plain.Release()
	s.await("secrets?metadata.name=s", 0)
	for copied() != "kubernetes.io/tls" { // its own watch may show it only now
		if _, _, err := w.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	typed.Release()
	expect(t, copied(), "none")
}

// However many objects are held, the watches are bounded; the rest is read.
func TestFollowBound(t *testing.T) {
	const most, extra = 1000, 5
	s := newServer(t)
	r, c := s.remote()
	var holds []*client.Hold
	for i := range most + extra {
		s.put("configmaps", configMap(fmt.Sprint("m", i), fmt.Sprint(i)))
	}
	for i := range most + extra {
		holds = append(holds, r.Follow("configmaps", "default", fmt.Sprint("m", i), ""))
	}
	for i, h := range holds {
		<-h.Synced
		if got, ok := client.From[*corev1.ConfigMap](c, c.Snapshot(), "default", fmt.Sprint("m", i)); !ok || got.Data["value"] != fmt.Sprint(i) {
			t.Fatalf("object %d is not in the copy: %v", i, got)
		}
	}
	open := 0
	s.mu.Lock()
	if s.dials > 20 {
		t.Errorf("%d connections", s.dials)
	}
	for key, n := range s.watches {
		if strings.HasPrefix(key, "configmaps?") {
			open += n
		}
	}
	s.mu.Unlock()
	if open != most || s.asked() != extra {
		t.Errorf("%d watches, want %d, and the rest read", open, most)
	}
	for _, h := range holds {
		h.Release()
	}
}
