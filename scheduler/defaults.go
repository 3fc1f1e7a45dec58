package scheduler

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kebernetes/kebernetes/client"
)

// fellows returns what selects the pods of a pod's Services and of its owner, all at once; nil when it has neither. Pods
// without constraints of their own are spread by it.
func (s *Scheduler) fellows(e *entry, snap client.Snapshot) labels.Selector {
	served := s.servedBy(e.kin, snap)
	selector := labels.SelectorFromSet(served)
	found := len(served) > 0
	if owner := e.owner; owner != nil {
		if requirements, ok := s.ownerSelector(e.pod.Namespace, owner, snap); ok {
			selector, found = selector.Add(requirements...), true
		}
	}
	if !found {
		return nil
	}
	return selector
}

// servedBy returns what the Services that select a kin select by.
func (s *Scheduler) servedBy(k *kin, snap client.Snapshot) map[string]string {
	if k.servedEpoch == s.services || !knows[*corev1.Service](s.client) {
		return k.served
	}
	k.served, k.servedEpoch = nil, s.services
	for _, service := range client.List[*corev1.Service](s.client, snap, k.namespace, nil) {
		if selector := service.Spec.Selector; len(selector) > 0 && labels.SelectorFromSet(selector).Matches(k.labels) {
			if k.served == nil {
				k.served = map[string]string{}
			}
			maps.Copy(k.served, selector)
		}
	}
	return k.served
}

// ownerSelector returns the requirements of a controller that pods are alike in.
func (s *Scheduler) ownerSelector(namespace string, owner *metav1.OwnerReference, snap client.Snapshot) (labels.Requirements, bool) {
	var selector labels.Selector
	switch {
	case owner.Kind == "ReplicaSet" && knows[*appsv1.ReplicaSet](s.client):
		if o, ok := client.From[*appsv1.ReplicaSet](s.client, snap, namespace, owner.Name); ok {
			selector = selectorOf(o.Spec.Selector)
		}
	case owner.Kind == "StatefulSet" && knows[*appsv1.StatefulSet](s.client):
		if o, ok := client.From[*appsv1.StatefulSet](s.client, snap, namespace, owner.Name); ok {
			selector = selectorOf(o.Spec.Selector)
		}
	case owner.Kind == "ReplicationController" && knows[*corev1.ReplicationController](s.client):
		if o, ok := client.From[*corev1.ReplicationController](s.client, snap, namespace, owner.Name); ok {
			selector = labels.SelectorFromSet(o.Spec.Selector)
		}
	}
	if selector == nil {
		return nil, false
	}
	return selector.Requirements()
}
