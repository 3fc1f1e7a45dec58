package daemon

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/kebernetes/kebernetes/apiserver"
	"github.com/kebernetes/kebernetes/apiserver/usage"
	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/controller/autoscale"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/builtin"
	"github.com/kebernetes/kebernetes/store"
)

// measure adds the kinds of metrics.k8s.io, with what answers for them. An API that runs alone has none: it has no nodes.
func (s *System) measure(policy auth.Authorizer) (map[schema.GroupResource]apiserver.Computed, error) {
	if s.config.APIOnly {
		return nil, nil
	}
	for _, row := range builtin.Metrics() {
		if err := s.table.Add(row); err != nil {
			return nil, err
		}
	}
	meter := usage.New(usage.Options{Reader: s.store, Nodes: s.nodes, Logger: s.log})
	pods := meter.PodMetrics()
	s.podUsage = usageOf(pods, policy)
	return map[schema.GroupResource]apiserver.Computed{
		metricsv1beta1.Resource("nodes"): meter.NodeMetrics(),
		metricsv1beta1.Resource("pods"):  pods,
	}, nil
}

// usageOf is how the autoscaler reads what pods use: as who it is, without the wire.
func usageOf(pods *usage.PodMetrics, policy auth.Authorizer) autoscale.Usage {
	return func(ctx context.Context, namespace string, sel labels.Selector) ([]*metricsv1beta1.PodMetrics, error) {
		a := auth.Attributes{
			User: auth.Controller(autoscale.Identity), Verb: "list", IsResource: true,
			Group: metricsv1beta1.GroupName, Version: "v1beta1", Resource: "pods", Namespace: namespace,
		}
		if ok, reason := policy.Authorize(&a); !ok {
			return nil, auth.Forbidden(&a, reason)
		}
		objects, err := pods.List(ctx, namespace, func(o store.Object) bool { return sel.Matches(labels.Set(o.GetLabels())) })
		out := make([]*metricsv1beta1.PodMetrics, len(objects))
		for i, o := range objects {
			out[i] = o.(*metricsv1beta1.PodMetrics)
		}
		return out, err
	}
}

// usageRole lets those who may view, edit or administer a namespace read what its pods use, as metrics-server does.
func usageRole() kinds.Object {
	return &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "system:aggregated-metrics-reader", Labels: map[string]string{
			"rbac.authorization.k8s.io/aggregate-to-admin": "true",
			"rbac.authorization.k8s.io/aggregate-to-edit":  "true",
			"rbac.authorization.k8s.io/aggregate-to-view":  "true",
		}},
		Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{metricsv1beta1.GroupName}, Resources: []string{"pods", "nodes"}, Verbs: []string{"get", "list", "watch"},
		}},
	}
}
