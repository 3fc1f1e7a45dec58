// Package clienttest is the contract of a client.Transport as tests: every implementation passes Run. Tests alone import it.
package clienttest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
)

// Harness connects to one cluster, which runs its controllers and has no node.
type Harness struct {
	// Admin may do everything. A transport that mirrors keeps config maps and pods, and not services.
	Admin *client.Client
	// As returns a client that acts as the service account of the namespace default whose token is given.
	As func(t *testing.T, account, token string) *client.Client
}

// Run runs the whole contract.
func Run(t *testing.T, h Harness) {
	for name, test := range map[string]func(*testing.T, Harness){
		"Write":       testWrite,
		"Refusals":    testRefusals,
		"Read":        testRead,
		"OwnWrites":   testOwnWrites,
		"Apply":       testApply,
		"Watch":       testWatch,
		"Finalizer":   testFinalizer,
		"Bind":        testBind,
		"Evict":       testEvict,
		"Scale":       testScale,
		"OtherTokens": testToken,
	} {
		t.Run(name, func(t *testing.T) { test(t, h) })
	}
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"value": value}}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "keb.local/c:1"}}, SchedulerName: "nobody"},
	}
}

// must returns what a call returned, and ends the test if that was an error.
func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(out T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// inCopy is the value of a config map in the shared copy, "" for none.
func inCopy(c *client.Client, name string) string {
	if m, ok := client.From[*corev1.ConfigMap](c, c.Snapshot(), "default", name); ok {
		return m.Data["value"]
	}
	return ""
}

// An object's life: what each write returns is what is stored from then on.
func testWrite(t *testing.T, h Harness) {
	c, ctx := h.Admin, t.Context()
	made := must[*corev1.ConfigMap](t)(client.Create(ctx, c, configMap("life", "1")))
	if made.UID == "" || made.ResourceVersion == "" || made.CreationTimestamp.IsZero() || made.ManagedFields == nil {
		t.Errorf("created without what the server adds: %+v", made.ObjectMeta)
	}
	next := made.DeepCopy()
	next.Data["value"] = "2"
	updated := must[*corev1.ConfigMap](t)(client.Update(ctx, c, next))
	if updated.Data["value"] != "2" || updated.ResourceVersion == made.ResourceVersion || made.Data["value"] != "1" {
		t.Errorf("update of %v returned %v", made.Data, updated.Data)
	}
	patched := must[*corev1.ConfigMap](t)(client.Patch[*corev1.ConfigMap](ctx, c, "default", "life", "", types.MergePatchType, []byte(`{"data":{"value":"3"}}`)))
	if patched.Data["value"] != "3" || patched.UID != made.UID {
		t.Errorf("patch returned %v", patched.Data)
	}
	k := client.KindOf[*corev1.ConfigMap](c)
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	must[client.Object](t)(c.Transport.Create(ctx, k, configMap("dry", "1"), dry))
	if _, err := client.Get[*corev1.ConfigMap](ctx, c, "default", "dry"); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run was stored: %v", err)
	}
	if err := client.Remove[*corev1.ConfigMap](ctx, c, "default", "life", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Transport.Get(ctx, k, "default", "life"); !apierrors.IsNotFound(err) {
		t.Errorf("after its deletion: %v", err)
	}
}

// Refusals are API Status errors with their reasons.
func testRefusals(t *testing.T, h Harness) {
	c, ctx := h.Admin, t.Context()
	first := must[*corev1.ConfigMap](t)(client.Create(ctx, c, configMap("refused", "1")))
	stale := first.DeepCopy()
	must[*corev1.ConfigMap](t)(client.Patch[*corev1.ConfigMap](ctx, c, "default", "refused", "", types.MergePatchType, []byte(`{"data":{"value":"2"}}`)))
	stale.Data["value"] = "lost"
	gone := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: new(types.UID("another"))}}
	for name, try := range map[string]struct {
		do   func() error
		want metav1.StatusReason
	}{
		"a name that is taken": {func() error { _, err := client.Create(ctx, c, configMap("refused", "1")); return err }, metav1.StatusReasonAlreadyExists},
		"a state that is old":  {func() error { _, err := client.Update(ctx, c, stale); return err }, metav1.StatusReasonConflict},
		"what is not there":    {func() error { _, err := client.Update(ctx, c, configMap("nobody", "1")); return err }, metav1.StatusReasonNotFound},
		"what is not valid":    {func() error { _, err := client.Create(ctx, c, configMap("Not a name", "1")); return err }, metav1.StatusReasonInvalid},
		"another object":       {func() error { return client.Remove[*corev1.ConfigMap](ctx, c, "default", "refused", gone) }, metav1.StatusReasonConflict},
		"a patch that is none": {func() error {
			_, err := client.Patch[*corev1.ConfigMap](ctx, c, "default", "refused", "", types.MergePatchType, []byte(`[`))
			return err
		}, metav1.StatusReasonBadRequest},
	} {
		if err := try.do(); apierrors.ReasonForError(err) != try.want {
			t.Errorf("%s: %v, want %s", name, err, try.want)
		}
	}
	if got := inCopy(c, "refused"); got != "2" {
		t.Errorf("after all refusals it holds %q", got)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := client.Create(ended, c, configMap("late", "1")); !errors.Is(err, context.Canceled) {
		t.Errorf("a call whose context is done: %v", err)
	}
}

// Objects come from the shared copy, or from the server when it holds none.
func testRead(t *testing.T, h Harness) {
	c, ctx := h.Admin, t.Context()
	service := must[*corev1.Service](t)(client.Get[*corev1.Service](ctx, c, "default", "kubernetes"))
	if service.Spec.ClusterIP == "" {
		t.Errorf("service kubernetes: %+v", service.Spec)
	}
	for i, app := range []string{"a", "b", "a"} {
		m := configMap(fmt.Sprintf("read-%d", i), "1")
		m.Labels = map[string]string{"read": app}
		must[*corev1.ConfigMap](t)(client.Create(ctx, c, m))
	}
	var names []string
	for _, m := range client.List[*corev1.ConfigMap](c, c.Snapshot(), "default", labels.SelectorFromSet(labels.Set{"read": "a"})) {
		names = append(names, m.Name)
	}
	if got := strings.Join(names, " "); got != "read-0 read-2" {
		t.Errorf("the list holds %s", got)
	}
}

// Whoever wrote reads what they wrote, however many write at once.
func testOwnWrites(t *testing.T, h Harness) {
	c, ctx := h.Admin, t.Context()
	var writers sync.WaitGroup
	for i := range 8 {
		name := fmt.Sprintf("own-%d", i)
		writers.Go(func() {
			for range 20 {
				if _, err := client.Create(ctx, c, configMap(name, "made")); err != nil || inCopy(c, name) != "made" {
					t.Errorf("after the creation of %s: %q, %v", name, inCopy(c, name), err)
				}
				_, err := client.Patch[*corev1.ConfigMap](ctx, c, "default", name, "", types.MergePatchType, []byte(`{"data":{"value":"changed"}}`))
				if err != nil || inCopy(c, name) != "changed" {
					t.Errorf("after the change of %s: %q, %v", name, inCopy(c, name), err)
				}
				if err := client.Remove[*corev1.ConfigMap](ctx, c, "default", name, metav1.DeleteOptions{}); err != nil || inCopy(c, name) != "" {
					t.Errorf("after the deletion of %s: %q, %v", name, inCopy(c, name), err)
				}
			}
		})
	}
	writers.Wait()
}

// An apply makes what is not there, and leaves alone what others own.
func testApply(t *testing.T, h Harness) {
	c, ctx := h.Admin, t.Context()
	k := client.KindOf[*corev1.ConfigMap](c)
	apply := func(manager, data string) error {
		intent := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"},"data":` + data + `}`)
		_, err := c.Transport.Patch(ctx, k, "default", "applied", "", types.ApplyPatchType, intent, metav1.PatchOptions{FieldManager: manager})
		return err
	}
	if err := errors.Join(apply("one", `{"value":"1"}`), apply("two", `{"other":"2"}`)); err != nil {
		t.Fatal(err)
	}
	if err := apply("two", `{"value":"2"}`); !apierrors.IsConflict(err) {
		t.Errorf("a field of another manager: %v", err)
	}
	m := must[*corev1.ConfigMap](t)(client.Get[*corev1.ConfigMap](ctx, c, "default", "applied"))
	if m.Data["value"] != "1" || m.Data["other"] != "2" {
		t.Errorf("applied: %v", m.Data)
	}
}

// A watch tells all changes after its revision in order, each with the state before.
func testWatch(t *testing.T, h Harness) {
	c, ctx := h.Admin, t.Context()
	watch, err := c.Watch("configmaps", c.Snapshot().Revision())
	if err != nil {
		t.Fatal(err)
	}
	made := must[*corev1.ConfigMap](t)(client.Create(ctx, c, configMap("watched", "1")))
	next := made.DeepCopy()
	next.Data["value"] = "2"
	must[*corev1.ConfigMap](t)(client.Update(ctx, c, next))
	if err := client.Remove[*corev1.ConfigMap](ctx, c, "default", "watched", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for len(got) < 3 {
		events, _, err := watch.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Item.Key.Name != "watched" {
				continue
			}
			text := "put "
			if e.Type == client.Delete {
				text = "delete "
			}
			if text += e.Item.Object.(*corev1.ConfigMap).Data["value"]; e.Prev != nil {
				text += " after " + e.Prev.Object.(*corev1.ConfigMap).Data["value"]
			}
			got = append(got, text)
		}
	}
	if text := strings.Join(got, ", "); text != "put 1, put 2 after 1, delete 2 after 2" {
		t.Errorf("events: %s", text)
	}
}

// A deletion that a finalizer holds up is accepted, and shows at once.
func testFinalizer(t *testing.T, h Harness) {
	c, ctx := h.Admin, t.Context()
	held := configMap("held", "1")
	held.Finalizers = []string{"keb.local/hold"}
	must[*corev1.ConfigMap](t)(client.Create(ctx, c, held))
	if err := client.Remove[*corev1.ConfigMap](ctx, c, "default", "held", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if m, ok := client.From[*corev1.ConfigMap](c, c.Snapshot(), "default", "held"); !ok || m.DeletionTimestamp == nil {
		t.Errorf("held: there %v, %+v", ok, m)
	}
	must[*corev1.ConfigMap](t)(client.Patch[*corev1.ConfigMap](ctx, c, "default", "held", "", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
	if _, err := c.Transport.Get(ctx, client.KindOf[*corev1.ConfigMap](c), "default", "held"); !apierrors.IsNotFound(err) {
		t.Errorf("let go: %v", err)
	}
}

// Bindings succeed or fail one by one.
func testBind(t *testing.T, h Harness) {
	c, ctx := h.Admin, t.Context()
	must[*corev1.Pod](t)(client.Create(ctx, c, pod("bound")))
	binding := func(name string) *corev1.Binding {
		return &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	}
	errs := c.Bind(ctx, []*corev1.Binding{binding("absent"), binding("bound")})
	if len(errs) != 2 || !apierrors.IsNotFound(errs[0]) || errs[1] != nil {
		t.Fatalf("bind an absent pod and one that is there: %v", errs)
	}
	if p, _ := client.From[*corev1.Pod](c, c.Snapshot(), "default", "bound"); p.Spec.NodeName != "n" {
		t.Errorf("bound to %q", p.Spec.NodeName)
	}
	if errs := c.Bind(ctx, []*corev1.Binding{binding("bound")}); !apierrors.IsConflict(errs[0]) {
		t.Errorf("bind it again: %v", errs[0])
	}
}

// An eviction deletes its pod.
func testEvict(t *testing.T, h Harness) {
	c, ctx := h.Admin, t.Context()
	must[*corev1.Pod](t)(client.Create(ctx, c, pod("evicted")))
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "evicted"}}
	must[client.Object](t)(c.Post(ctx, client.KindOf[*corev1.Pod](c), "default", "evicted", "eviction", eviction))
	if p, ok := client.From[*corev1.Pod](c, c.Snapshot(), "default", "evicted"); ok && p.DeletionTimestamp == nil {
		t.Error("the pod stays")
	}
}

// A token of a service account makes a client that may do what RBAC lets the account do: nothing here.
func testToken(t *testing.T, h Harness) {
	c, ctx := h.Admin, t.Context()
	must[*corev1.ServiceAccount](t)(client.Create(ctx, c, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "somebody"}}))
	answer := must[client.Object](t)(c.Post(ctx, client.KindOf[*corev1.ServiceAccount](c), "default", "somebody", "token", &authenticationv1.TokenRequest{}))
	token := answer.(*authenticationv1.TokenRequest).Status.Token
	if token == "" {
		t.Fatal("no token")
	}
	somebody := h.As(t, "somebody", token)
	if _, err := client.Create(ctx, somebody, configMap("forbidden", "1")); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "system:serviceaccount:default:somebody") {
		t.Errorf("a write without the right to it: %v", err)
	}
}
