package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/kebernetes/kebernetes/store"
)

// legacyIngressClass is the annotation that named an ingress's class before spec.ingressClassName did.
const legacyIngressClass = "kubernetes.io/ingress.class"

// defaultStorageClass gives claims that name no class the default one.
func defaultStorageClass(reader store.Reader) Step {
	return Step{Name: "DefaultStorageClass", Mutate: func(_ context.Context, r *Request) error {
		claim, ok := r.Object.(*corev1.PersistentVolumeClaim)
		if !ok || r.Operation != Create || !r.is("persistentvolumeclaims", "") {
			return nil
		}
		if _, legacy := claim.Annotations[corev1.BetaStorageClassAnnotation]; legacy || claim.Spec.StorageClassName != nil {
			return nil
		}
		class, ok := defaultClass[*storagev1.StorageClass](reader, "storageclasses.storage.k8s.io",
			"storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")
		if ok {
			claim.Spec.StorageClassName = &class.Name
		}
		return nil
	}}
}

// defaultIngressClass gives ingresses that name no class the default one.
func defaultIngressClass(reader store.Reader) Step {
	return Step{Name: "DefaultIngressClass", Mutate: func(_ context.Context, r *Request) error {
		ingress, ok := r.Object.(*networkingv1.Ingress)
		if !ok || r.Operation != Create || !r.is("ingresses.networking.k8s.io", "") {
			return nil
		}
		if _, legacy := ingress.Annotations[legacyIngressClass]; legacy || ingress.Spec.IngressClassName != nil {
			return nil
		}
		class, ok := defaultClass[*networkingv1.IngressClass](reader, "ingressclasses.networking.k8s.io", networkingv1.AnnotationIsDefaultIngressClass)
		if ok {
			ingress.Spec.IngressClassName = &class.Name
		}
		return nil
	}}
}
