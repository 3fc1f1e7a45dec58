// Package nodeapi is the HTTP API of a node, the kubelet's: logs, exec, attach and port-forward of its pods, what runs, and
// metrics. It finds containers through the runtime by the labels that the agent gives them, so it needs nothing of the
// agent's own state. The API server reaches it through daemon, in the same process or over the agent's connection; callers have been
// authorised there. Only daemon imports it.
package nodeapi

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/cri"
)

// The labels by which the kubelet marks what it runs; every tool that looks at a node's runtime knows them.
const (
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"
)

// Options are what an API is made of; all but Metrics and Machine are needed.
type Options struct {
	Client   *client.Client
	Runtime  cri.Runtime
	NodeName string
	// Metrics answers for the process; nil: there are none.
	Metrics http.Handler
	// Machine is what the whole machine has used: processor time and the bytes of its working set. nil: it is not told.
	Machine func() (cpu time.Duration, memory int64, err error)
	Logger  *slog.Logger
}

// API serves one node. Safe for concurrent use.
type API struct {
	Options
	mux *http.ServeMux
}

// New returns the API as an http.Handler.
func New(o Options) *API {
	a := &API{Options: o, mux: http.NewServeMux()}
	a.mux.HandleFunc("GET /healthz", a.health)
	a.mux.HandleFunc("GET /pods", a.pods)
	a.mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.logs)
	// Exec and attach come as POST (SPDY) or GET (WebSocket), with or without the pod's uid.
	a.mux.HandleFunc("/exec/{namespace}/{pod}/{container}", a.exec)
	a.mux.HandleFunc("/exec/{namespace}/{pod}/{uid}/{container}", a.exec)
	a.mux.HandleFunc("/attach/{namespace}/{pod}/{container}", a.attach)
	a.mux.HandleFunc("/attach/{namespace}/{pod}/{uid}/{container}", a.attach)
	a.mux.HandleFunc("/portForward/{namespace}/{pod}", a.portForward)
	a.mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", a.portForward)
	a.mux.HandleFunc("GET /stats/summary", a.summary)
	a.mux.HandleFunc("GET /metrics/resource", a.resourceMetrics)
	if o.Metrics != nil {
		a.mux.Handle("GET /metrics", o.Metrics)
	}
	return a
}

func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		a.connect(w, r)
		return
	}
	a.mux.ServeHTTP(w, r)
}

func (a *API) health(w http.ResponseWriter, r *http.Request) {
	if _, err := a.Runtime.Version(r.Context()); err != nil {
		fail(w, apierrors.NewServiceUnavailable("container runtime: "+err.Error()))
		return
	}
	fmt.Fprint(w, "ok")
}

// pods lists what is bound to this node.
func (a *API) pods(w http.ResponseWriter, _ *http.Request) {
	list := &corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	for _, p := range a.bound() {
		list.Items = append(list.Items, *p)
	}
	answer(w, list)
}

func (a *API) bound() []*corev1.Pod {
	var out []*corev1.Pod
	for _, p := range client.List[*corev1.Pod](a.Client, a.Client.Snapshot(), "", nil) {
		if p.Spec.NodeName == a.NodeName {
			out = append(out, p)
		}
	}
	return out
}

// sandbox finds the ready sandbox of a pod.
func (a *API) sandbox(ctx context.Context, namespace, pod, uid string) (string, error) {
	labels := map[string]string{labelPodNamespace: namespace, labelPodName: pod}
	if uid != "" {
		labels[labelPodUID] = uid
	}
	found, err := a.Runtime.ListPodSandbox(ctx, &rt.PodSandboxFilter{
		LabelSelector: labels,
		State:         &rt.PodSandboxStateValue{State: rt.PodSandboxState_SANDBOX_READY},
	})
	if err != nil {
		return "", apierrors.NewInternalError(fmt.Errorf("list sandboxes: %w", err))
	}
	if len(found) == 0 {
		return "", apierrors.NewNotFound(corev1.Resource("pods"), pod)
	}
	return found[0].Id, nil
}

// container finds the newest container of that name in a pod, or with previous the one before it.
func (a *API) container(ctx context.Context, namespace, pod, uid, name string, previous bool) (*rt.Container, error) {
	labels := map[string]string{labelPodNamespace: namespace, labelPodName: pod, labelContainerName: name}
	if uid != "" {
		labels[labelPodUID] = uid
	}
	found, err := a.Runtime.ListContainers(ctx, &rt.ContainerFilter{LabelSelector: labels})
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("list containers: %w", err))
	}
	var newest, before *rt.Container
	for _, c := range found {
		switch {
		case newest == nil || c.CreatedAt > newest.CreatedAt:
			newest, before = c, newest
		case before == nil || c.CreatedAt > before.CreatedAt:
			before = c
		}
	}
	switch {
	case previous && before == nil:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("previous terminated container %q in pod %q not found", name, pod))
	case previous:
		return before, nil
	case newest == nil:
		return nil, apierrors.NewBadRequest(a.whyNone(ctx, namespace, pod, name))
	}
	return newest, nil
}

// whyNone says in upstream's words why a pod has no container of that name yet.
func (a *API) whyNone(ctx context.Context, namespace, pod, name string) string {
	p, err := client.Get[*corev1.Pod](ctx, a.Client, namespace, pod)
	if err != nil {
		return fmt.Sprintf("pod %q not found on this node", pod)
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, s := range list {
			if s.Name == name && s.State.Waiting != nil {
				text := fmt.Sprintf("container %q in pod %q is waiting to start: ", name, pod)
				if s.State.Waiting.Message != "" {
					return text + s.State.Waiting.Message
				}
				return text + s.State.Waiting.Reason
			}
		}
	}
	return fmt.Sprintf("container %q in pod %q is not available", name, pod)
}

// answer writes an object as JSON.
func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return // the client went away
	}
}

// fail writes an error as a Status object, which the API server hands on.
func fail(w http.ResponseWriter, err error) {
	status := apierrors.NewInternalError(err).Status()
	if s, ok := err.(apierrors.APIStatus); ok {
		status = s.Status()
	}
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(status)
}

// flag reads a boolean query parameter as the kubelet does: 1 or true.
func flag(r *http.Request, name string) bool {
	v := strings.ToLower(r.URL.Query().Get(name))
	return v == "1" || v == "true"
}
