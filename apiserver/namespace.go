package apiserver

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/kinds"
)

// isNamespace says whether a kind is Namespace, which alone ends when its spec.finalizers do: a controller empties the
// namespace first.
func isNamespace(k *kinds.Kind) bool { return k.Group == "" && k.Resource == "namespaces" }

// namespaceEnded says whether nothing holds a deleted namespace any more.
func namespaceEnded(obj kinds.Object) bool {
	ns := obj.(*corev1.Namespace)
	return ns.DeletionTimestamp != nil && len(ns.Spec.Finalizers) == 0 && len(ns.Finalizers) == 0
}

// decideDeleteNamespace makes a namespace one that is being deleted, or removes it when it has been emptied.
func decideDeleteNamespace(obj kinds.Object, o *metav1.DeleteOptions, now time.Time) deletion {
	ns := obj.(*corev1.Namespace)
	if ns.DeletionTimestamp != nil {
		return deletion{remove: namespaceEnded(ns)}
	}
	marked := ns.DeepCopy()
	ends := metav1.NewTime(now)
	marked.DeletionTimestamp = &ends
	marked.Status.Phase = corev1.NamespaceTerminating
	orphan, _ := dependentsFate(&kinds.Kind{}, ns.Finalizers, o)
	if orphan {
		marked.Finalizers = append(marked.Finalizers, metav1.FinalizerOrphanDependents)
	}
	return deletion{object: marked, remove: namespaceEnded(marked)}
}
