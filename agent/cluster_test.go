package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/cri"
	"github.com/kebernetes/kebernetes/cri/fake"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// api is as much of an API server as an agent needs: a store with conflicts, status writes and graceful deletion.
type api struct {
	*store.Memory
	mu       sync.Mutex
	revision int64
	uid      int
	statuses int // pod status writes
	// snatched is a pod that somebody deletes for good just before its last status is written.
	snatched string
}

func testTable() *kinds.Table {
	return kinds.NewTable(
		&kinds.Kind{Kind: "Pod", Resource: "pods", Namespaced: true, Versions: []kinds.Version{kinds.V[corev1.Pod, corev1.PodList]("v1")}},
		&kinds.Kind{Kind: "Node", Resource: "nodes", Versions: []kinds.Version{kinds.V[corev1.Node, corev1.NodeList]("v1")}},
		&kinds.Kind{Kind: "ConfigMap", Resource: "configmaps", Namespaced: true, Versions: []kinds.Version{kinds.V[corev1.ConfigMap, corev1.ConfigMapList]("v1")}},
		&kinds.Kind{Kind: "Secret", Resource: "secrets", Namespaced: true, Versions: []kinds.Version{kinds.V[corev1.Secret, corev1.SecretList]("v1")}},
		&kinds.Kind{Kind: "Service", Resource: "services", Namespaced: true, Versions: []kinds.Version{kinds.V[corev1.Service, corev1.ServiceList]("v1")}},
		&kinds.Kind{Kind: "ServiceAccount", Resource: "serviceaccounts", Namespaced: true, Versions: []kinds.Version{kinds.V[corev1.ServiceAccount, corev1.ServiceAccountList]("v1")}},
		&kinds.Kind{Group: "coordination.k8s.io", Kind: "Lease", Resource: "leases", Namespaced: true, Versions: []kinds.Version{kinds.V[coordinationv1.Lease, coordinationv1.LeaseList]("v1")}},
	)
}

func (a *api) Mirrors(string) bool { return true }

func key(k *kinds.Kind, namespace, name string) store.Key {
	return store.Key{Resource: k.GroupResource().String(), Namespace: namespace, Name: name}
}

// put stores obj, or deletes it; the lock is held.
func (a *api) put(k *kinds.Kind, typ store.EventType, obj store.Object) client.Object {
	a.revision++
	obj = obj.DeepCopyObject().(store.Object)
	obj.SetResourceVersion(strconv.FormatInt(a.revision, 10))
	at := key(k, obj.GetNamespace(), obj.GetName())
	e := store.Event{Type: typ, Item: &store.Item{Key: at, Object: obj, Created: a.revision, Revision: a.revision}, Prev: a.Snapshot().Get(at)}
	a.Publish(a.revision, []store.Event{e})
	return obj
}

func (a *api) Get(_ context.Context, k *kinds.Kind, namespace, name string) (client.Object, error) {
	if item := a.Snapshot().Get(key(k, namespace, name)); item != nil {
		return item.Object, nil
	}
	return nil, apierrors.NewNotFound(k.GroupResource(), name)
}

func (a *api) Create(ctx context.Context, k *kinds.Kind, obj client.Object, _ metav1.CreateOptions) (client.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := a.Get(ctx, k, obj.GetNamespace(), obj.GetName()); err == nil {
		return nil, apierrors.NewAlreadyExists(k.GroupResource(), obj.GetName())
	}
	a.uid++
	obj.SetUID(types.UID(fmt.Sprintf("uid-%d", a.uid)))
	obj.SetCreationTimestamp(metav1.Now())
	obj.SetGeneration(1)
	return a.put(k, store.Put, obj), nil
}

func (a *api) Update(ctx context.Context, k *kinds.Kind, sub string, obj client.Object, _ metav1.UpdateOptions) (client.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, err := a.Get(ctx, k, obj.GetNamespace(), obj.GetName())
	if err != nil && obj.GetUID() != "" {
		return nil, apierrors.NewConflict(k.GroupResource(), obj.GetName(), fmt.Errorf("UID in precondition: %s, UID in object meta: ", obj.GetUID()))
	}
	if err != nil {
		return nil, err
	}
	if pod, ok := obj.(*corev1.Pod); ok && a.snatched == pod.Name && pod.Status.ContainerStatuses[0].State.Terminated != nil {
		a.snatched = ""
		a.put(k, store.Delete, old)
		return nil, apierrors.NewConflict(k.GroupResource(), obj.GetName(), fmt.Errorf("UID in precondition: %s, UID in object meta: ", obj.GetUID()))
	}
	if v := obj.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
		return nil, apierrors.NewConflict(k.GroupResource(), obj.GetName(), fmt.Errorf("the object has been modified"))
	}
	if pod, ok := obj.(*corev1.Pod); ok {
		if sub == "status" {
			a.statuses++
			kept := old.(*corev1.Pod).DeepCopy()
			kept.Status = pod.Status
			obj = kept
		} else {
			obj.SetGeneration(old.GetGeneration() + 1)
		}
	}
	return a.put(k, store.Put, obj), nil
}

func (a *api) Patch(context.Context, *kinds.Kind, string, string, string, types.PatchType, []byte, metav1.PatchOptions) (client.Object, error) {
	return nil, fmt.Errorf("no patches here")
}

func (a *api) Delete(ctx context.Context, k *kinds.Kind, namespace, name string, opts metav1.DeleteOptions) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, err := a.Get(ctx, k, namespace, name)
	if err != nil {
		return err
	}
	if p := opts.Preconditions; p != nil && p.UID != nil && *p.UID != old.GetUID() {
		return apierrors.NewConflict(k.GroupResource(), name, fmt.Errorf("uid"))
	}
	pod, ok := old.(*corev1.Pod)
	grace := int64(0)
	if ok && opts.GracePeriodSeconds == nil {
		grace = *pod.Spec.TerminationGracePeriodSeconds
	} else if ok {
		grace = *opts.GracePeriodSeconds
	}
	if grace == 0 {
		a.put(k, store.Delete, old)
		return nil
	}
	changed := pod.DeepCopy()
	at := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
	changed.DeletionTimestamp, changed.DeletionGracePeriodSeconds = &at, &grace
	changed.Generation++
	a.put(k, store.Put, changed)
	return nil
}

func (a *api) Post(_ context.Context, _ *kinds.Kind, _, _, _ string, body client.Object) (client.Object, error) {
	t := body.(*authenticationv1.TokenRequest)
	t.Status = authenticationv1.TokenRequestStatus{Token: "token", ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))}
	return t, nil
}

func (a *api) Bind(context.Context, []*corev1.Binding) []error { return nil }

// events collects what an agent tells.
type events struct {
	mu   sync.Mutex
	list []string
}

func (e *events) EventAt(obj client.Object, fieldPath, eventType, reason, format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, strings.TrimSpace(eventType+" "+reason+" "+fieldPath+" "+fmt.Sprintf(format, args...)))
}

func (e *events) has(part string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.list {
		if strings.Contains(l, part) {
			return true
		}
	}
	return false
}

// cluster is a node under test with its API.
type cluster struct {
	t       testing.TB
	api     *api
	client  *client.Client
	runtime cri.Runtime
	events  *events
	options Options
	agent   *Agent
	stop    func()
}

// quiet drops logs unless the test is verbose.
func quiet() *slog.Logger {
	if testing.Verbose() {
		return slog.Default()
	}
	return slog.New(slog.DiscardHandler)
}

func newCluster(t testing.TB, runtime cri.Runtime, change func(*Options)) *cluster {
	t.Helper()
	server := &api{Memory: store.NewMemory(0)}
	c := &cluster{t: t, api: server, client: client.New(server, testTable()), runtime: runtime, events: &events{}}
	c.options = Options{
		Client: c.client, Runtime: runtime, NodeName: "n1", NodeIPs: []string{"192.0.2.1"}, Recorder: c.events, Logger: quiet(),
		ClusterDNS: []string{"10.43.0.10"},
		Capacity:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110")},
	}
	if change != nil {
		change(&c.options)
	}
	c.start()
	t.Cleanup(func() { c.stop() })
	return c
}

// start runs an agent, a second one after stop.
func (c *cluster) start() {
	c.t.Helper()
	a, err := New(c.options)
	if err != nil {
		c.t.Fatal(err)
	}
	c.agent = a
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("agent: %v", err)
		}
	})
}

// simulated runs a test in virtual time on a node that has no disk.
func simulated(t *testing.T, opts fake.Options, change func(*Options), test func(t *testing.T, c *cluster, r *fake.Runtime)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := fake.New(opts)
		c := newCluster(t, r, change)
		synctest.Wait()
		test(t, c, r)
		c.stop()
	})
}

func pod(name string, command ...string) *corev1.Pod {
	grace := int64(30)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PodSpec{
			NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace, DNSPolicy: corev1.DNSClusterFirst,
			ServiceAccountName: "default",
			Containers:         []corev1.Container{container("main", command...)},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
}

func container(name string, command ...string) corev1.Container {
	return corev1.Container{
		Name: name, Image: "registry.invalid/app:1", ImagePullPolicy: corev1.PullIfNotPresent, Command: append([]string{"/app"}, command...),
		TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
	}
}

func (c *cluster) create(p *corev1.Pod) {
	c.t.Helper()
	if _, err := client.Create(c.t.Context(), c.client, p); err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
}

// pod reads a pod, nil when it is gone.
func (c *cluster) pod(name string) *corev1.Pod {
	p, _ := client.From[*corev1.Pod](c.client, c.client.Snapshot(), "default", name)
	return p
}

func (c *cluster) delete(name string, grace *int64) {
	c.t.Helper()
	if err := client.Remove[*corev1.Pod](c.t.Context(), c.client, "default", name, metav1.DeleteOptions{GracePeriodSeconds: grace}); err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
}

// after lets time pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// summary is the pod's state in one line: phase, ready, then each container as state*restarts.
func summary(p *corev1.Pod) string {
	if p == nil {
		return "gone"
	}
	out := string(p.Status.Phase)
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			out += " ready"
		}
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, s := range list {
			state := "running"
			switch {
			case s.State.Waiting != nil:
				state = s.State.Waiting.Reason
			case s.State.Terminated != nil:
				state = fmt.Sprintf("%s(%d)", s.State.Terminated.Reason, s.State.Terminated.ExitCode)
			}
			out += fmt.Sprintf(" %s:%s*%d", s.Name, state, s.RestartCount)
		}
	}
	return out
}

func (c *cluster) want(name, want string) {
	c.t.Helper()
	if got := summary(c.pod(name)); got != want {
		c.t.Errorf("%s: %s\nwant %s", name, got, want)
	}
}
