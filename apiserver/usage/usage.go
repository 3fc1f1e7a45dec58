// Package usage answers metrics.k8s.io: what nodes and pods use of processors and memory. It asks the nodes themselves, when
// somebody asks, and polls nobody. Only daemon imports it; it imports store, kinds and what auth says of rights.
package usage

import (
	"context"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// The use of processors is a rate between two samples of a node's counters.
const (
	// fresh is for how long two samples answer further questions. It is less than the 15 s between two looks of an autoscaler,
	// which so sees a window of its own each time.
	fresh = 10 * time.Second
	// longest is the longest window that still tells of the present. Who asks after a longer pause waits for a second sample.
	longest = time.Minute
	// shortest is the window that such a question waits for. Nodes count in nanoseconds and stamp in milliseconds, so the rate is
	// exact to a thousandth.
	shortest = time.Second
	// youngest is how long a container must have run to be measured from its start; metrics-server's number.
	youngest = 10 * time.Second
	// patience is how long a node may take for its answer to a question.
	patience = 5 * time.Second
	// atOnce is how many nodes are asked side by side.
	atOnce = 64
)

// Nodes finds the kubelet API of a node.
type Nodes interface {
	// Node returns the handler that answers for a node, or an error that says why it cannot be reached now.
	Node(name string) (http.Handler, error)
}

// Options are what a Meter is made of; all are required.
type Options struct {
	Reader store.Reader
	Nodes  Nodes
	Logger *slog.Logger
}

// Meter measures nodes and pods. Safe for concurrent use.
type Meter struct {
	Options
	mu     sync.Mutex
	meters map[string]*meter // by node
	forget *time.Timer       // drops all samples when nobody has asked for a while
}

// New returns a meter.
func New(o Options) *Meter { return &Meter{Options: o, meters: map[string]*meter{}} }

// meter holds the samples of one node, for whoever has put something into turn.
type meter struct {
	turn          chan struct{}
	before, after *sample
}

// of returns the meter of a node, and keeps all of them for a while.
func (m *Meter) of(node string) *meter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.forget == nil {
		m.forget = time.AfterFunc(longest, m.drop)
	} else {
		m.forget.Reset(longest)
	}
	out := m.meters[node]
	if out == nil {
		out = &meter{turn: make(chan struct{}, 1)}
		m.meters[node] = out
	}
	return out
}

func (m *Meter) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.meters)
}

// window is two samples of a node, the later one no older than fresh.
type window struct{ before, after *sample }

// measure takes samples of a node as far as those at hand are too old. Callers for one node take turns.
func (m *Meter) measure(ctx context.Context, node string) (window, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	of := m.of(node)
	select {
	case of.turn <- struct{}{}:
	case <-ctx.Done():
		return window{}, ctx.Err()
	}
	defer func() { <-of.turn }()
	if of.before != nil && time.Since(of.after.at) < fresh {
		return window{of.before, of.after}, nil
	}
	base := of.after
	if base == nil || time.Since(base.at) > longest {
		first, err := m.sample(ctx, node)
		if err != nil {
			return window{}, err
		}
		of.before, of.after, base = nil, first, first
	}
	if wait := shortest - time.Since(base.at); wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return window{}, ctx.Err()
		}
	}
	next, err := m.sample(ctx, node)
	if err != nil {
		return window{}, err
	}
	of.before, of.after = base, next
	return window{base, next}, nil
}

// measureAll measures nodes side by side; those that could not be are left out.
func (m *Meter) measureAll(ctx context.Context, nodes []string) map[string]window {
	var mu sync.Mutex
	out := make(map[string]window, len(nodes))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, node := range nodes {
		g.Go(func() error {
			w, err := m.measure(ctx, node)
			if err != nil {
				m.Logger.Debug("measure node", "node", node, "err", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			out[node] = w
			return nil
		})
	}
	_ = g.Wait()
	return out
}

// NodeMetrics answers for nodes.
func (m *Meter) NodeMetrics() *NodeMetrics { return &NodeMetrics{m} }

// NodeMetrics makes NodeMetrics objects. It implements apiserver.Computed.
type NodeMetrics struct{ m *Meter }

// Get measures one node.
func (n *NodeMetrics) Get(ctx context.Context, _, name string) (kinds.Object, error) {
	out, err := n.List(ctx, "", func(o store.Object) bool { return o.GetName() == name })
	if err != nil || len(out) == 0 {
		return nil, notFound("nodemetrics", name)
	}
	return out[0], nil
}

// List measures the nodes that are shown.
func (n *NodeMetrics) List(ctx context.Context, _ string, shown func(store.Object) bool) ([]kinds.Object, error) {
	var nodes []store.Object
	var names []string
	for item := range n.m.Reader.Snapshot().List("nodes", "") {
		if shown(item.Object) {
			nodes, names = append(nodes, item.Object), append(names, item.Key.Name)
		}
	}
	windows := n.m.measureAll(ctx, names)
	now := metav1.Now()
	out := []kinds.Object{}
	for _, node := range nodes {
		w, ok := windows[node.GetName()]
		if !ok || w.before.node == nil || w.after.node == nil {
			continue
		}
		used, took, ok := w.after.node.since(w.before.node)
		if ok {
			out = append(out, &metricsv1beta1.NodeMetrics{
				ObjectMeta: metav1.ObjectMeta{Name: node.GetName(), Labels: node.GetLabels(), CreationTimestamp: now},
				Timestamp:  metav1.NewTime(w.after.node.at), Window: metav1.Duration{Duration: took}, Usage: used,
			})
		}
	}
	return out, nil
}

// PodMetrics answers for pods.
func (m *Meter) PodMetrics() *PodMetrics { return &PodMetrics{m} }

// PodMetrics makes PodMetrics objects. It implements apiserver.Computed.
type PodMetrics struct{ m *Meter }

// Get measures one pod.
func (p *PodMetrics) Get(ctx context.Context, namespace, name string) (kinds.Object, error) {
	out, err := p.List(ctx, namespace, func(o store.Object) bool { return o.GetName() == name })
	if err != nil || len(out) == 0 {
		return nil, notFound("podmetrics", namespace+"/"+name)
	}
	return out[0], nil
}

// List measures the running pods that are shown, on the nodes where they run. Pods that started a moment ago are left out.
func (p *PodMetrics) List(ctx context.Context, namespace string, shown func(store.Object) bool) ([]kinds.Object, error) {
	var pods []*corev1.Pod
	var nodes []string
	for item := range p.m.Reader.Snapshot().List("pods", namespace) {
		pod := item.Object.(*corev1.Pod)
		if pod.Spec.NodeName == "" || pod.Status.Phase != corev1.PodRunning || !shown(pod) {
			continue
		}
		pods, nodes = append(pods, pod), append(nodes, pod.Spec.NodeName)
	}
	slices.Sort(nodes)
	windows := p.m.measureAll(ctx, slices.Compact(nodes))
	now := metav1.Now()
	out := []kinds.Object{}
	for _, pod := range pods {
		w, ok := windows[pod.Spec.NodeName]
		if !ok {
			continue
		}
		if o := w.pod(pod); o != nil {
			o.CreationTimestamp = now
			out = append(out, o)
		}
	}
	return out, nil
}

// pod is what the containers of a pod used, nil when one of them cannot be told yet: part of a pod would pass for all of it.
func (w window) pod(pod *corev1.Pod) *metricsv1beta1.PodMetrics {
	out := &metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, Labels: pod.Labels}}
	name := podName{pod.Namespace, pod.Name}
	for container, after := range w.after.pods[name] {
		before := w.before.pods[name][container]
		if before == nil || !before.started.Equal(after.started) { // it began in between
			if age := after.at.Sub(after.started); after.started.IsZero() || age < youngest || age > 2*longest {
				return nil
			}
			before = &counters{at: after.started}
		}
		used, took, ok := after.since(before)
		if !ok {
			return nil
		}
		out.Containers = append(out.Containers, metricsv1beta1.ContainerMetrics{Name: container, Usage: used})
		if out.Timestamp.IsZero() || after.at.Before(out.Timestamp.Time) {
			out.Timestamp, out.Window = metav1.NewTime(after.at), metav1.Duration{Duration: took}
		}
	}
	if len(out.Containers) == 0 {
		return nil
	}
	slices.SortFunc(out.Containers, func(a, b metricsv1beta1.ContainerMetrics) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// since is what was used from an earlier reading on. It is not ok when no time went by, the counter began again, or a number is none.
func (c *counters) since(before *counters) (used corev1.ResourceList, took time.Duration, ok bool) {
	took = c.at.Sub(before.at)
	nanoCores := (c.cpu - before.cpu) / took.Seconds() * 1e9
	if took <= 0 || !(nanoCores >= 0 && nanoCores < math.MaxInt64) || !(c.memory >= 0 && c.memory < math.MaxInt64) {
		return nil, 0, false
	}
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(nanoCores), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(c.memory), resource.BinarySI),
	}, took, true
}

// notFound is metrics-server's answer for what it cannot tell.
func notFound(resource, name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Group: metricsv1beta1.GroupName, Resource: resource}, name)
}
