package cluster

import (
	"context"
	"slices"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// ClusterRoles fills the rules of aggregated cluster roles from the roles that they select.
func ClusterRoles(env controller.Env) *controller.Loop {
	c := env.Client("clusterrole-aggregation-controller")
	return env.NewLoop(c, controller.Controller{
		Name: "clusterrole-aggregation-controller",
		Watches: []controller.Watch{{Resource: client.ResourceOf[*rbacv1.ClusterRole](c), Keys: func(_ client.Event, add func(controller.Key)) {
			for _, role := range client.List[*rbacv1.ClusterRole](c, c.Snapshot(), "", nil) {
				if role.AggregationRule != nil {
					add(controller.KeyOf(role))
				}
			}
		}}},
		Reconcile: func(ctx context.Context, key controller.Key) (time.Duration, error) {
			snap := c.Snapshot()
			role, ok := client.From[*rbacv1.ClusterRole](c, snap, "", key.Name)
			if !ok || role.AggregationRule == nil {
				return 0, nil
			}
			rules, err := aggregate(role, client.List[*rbacv1.ClusterRole](c, snap, "", nil))
			if err != nil || apiequality.Semantic.DeepEqual(rules, role.Rules) {
				return 0, err
			}
			update := role.DeepCopy()
			update.Rules = rules
			_, err = client.Update(ctx, c, update)
			return 0, err
		},
	})
}

// aggregate joins the rules of all roles that role selects, in order of their names, each rule once.
func aggregate(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	var out []rbacv1.PolicyRule
	for i := range role.AggregationRule.ClusterRoleSelectors {
		sel, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for _, other := range all {
			if other.Name == role.Name || !sel.Matches(labels.Set(other.Labels)) {
				continue
			}
			for _, rule := range other.Rules {
				if !slices.ContainsFunc(out, func(r rbacv1.PolicyRule) bool { return apiequality.Semantic.DeepEqual(r, rule) }) {
					out = append(out, *rule.DeepCopy())
				}
			}
		}
	}
	return out, nil
}
