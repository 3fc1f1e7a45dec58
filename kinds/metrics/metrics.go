// Package metrics holds the kinds of metrics.k8s.io, what nodes and pods use: they are computed when somebody asks, and never
// stored. Only kinds/builtin imports it.
package metrics

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/kebernetes/kebernetes/kinds"
)

// measured is what both rows have in common.
func measured(kind, resource string, namespaced bool, empty func() kinds.Object, list func() runtime.Object) *kinds.Kind {
	return &kinds.Kind{
		Group:      metricsv1beta1.GroupName,
		Kind:       kind,
		Resource:   resource,
		Namespaced: namespaced,
		Virtual:    true,
		Verbs:      []string{"get", "list"},
		Versions:   []kinds.Version{{Name: "v1beta1", New: empty, NewList: list, Storage: true}},
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			{Name: "cpu", Type: "string", Format: "quantity"},
			{Name: "memory", Type: "string", Format: "quantity"},
			{Name: "Window", Type: "string", Format: "duration"},
		},
	}
}

// NodeMetrics is the row of what nodes use.
func NodeMetrics() *kinds.Kind {
	k := measured("NodeMetrics", "nodes", false,
		func() kinds.Object { return new(metricsv1beta1.NodeMetrics) },
		func() runtime.Object { return new(metricsv1beta1.NodeMetricsList) })
	k.Cells = kinds.Print(func(n *metricsv1beta1.NodeMetrics, _ metav1.Time) []any {
		return []any{n.Name, n.Usage.Cpu().String(), n.Usage.Memory().String(), n.Window.Duration.String()}
	})
	return k
}

// PodMetrics is the row of what the containers of pods use.
func PodMetrics() *kinds.Kind {
	k := measured("PodMetrics", "pods", true,
		func() kinds.Object { return new(metricsv1beta1.PodMetrics) },
		func() runtime.Object { return new(metricsv1beta1.PodMetricsList) })
	k.Cells = kinds.Print(func(p *metricsv1beta1.PodMetrics, _ metav1.Time) []any {
		all := corev1.ResourceList{}
		for _, c := range p.Containers {
			for name, used := range c.Usage {
				sum := all[name]
				sum.Add(used)
				all[name] = sum
			}
		}
		return []any{p.Name, all.Cpu().String(), all.Memory().String(), p.Window.Duration.String()}
	})
	return k
}
