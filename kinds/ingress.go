package kinds

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

const (
	// IngressController is what an IngressClass says in spec.controller to be served by the nodes of this cluster.
	IngressController = "keb.dev/ingress"
	// IngressAnnotation is how a node says whether it serves Ingresses: IngressOn or IngressOff.
	IngressAnnotation = "keb.dev/ingress"
	// IngressLabel, with any value but IngressOn, keeps a node from the certificates of Ingresses. Its prefix is one that nodes cannot give
	// or take themselves (NodeRestriction).
	IngressLabel = "node-restriction.kubernetes.io/keb-ingress"
	// IngressOn is the value of both for a node that serves.
	IngressOn = "on"
	// IngressOff is that of one that does not.
	IngressOff = "off"

	// legacyIngressClass named the class before spec.ingressClassName did.
	legacyIngressClass = "kubernetes.io/ingress.class"
)

// ServesIngress says whether a node serves Ingresses: it says so, and nobody forbids it.
func ServesIngress(node *corev1.Node) bool {
	label, labelled := node.Labels[IngressLabel]
	return node.Annotations[IngressAnnotation] == IngressOn && (!labelled || label == IngressOn)
}

// IngressClasses are the names of the ingress classes that there are, and whether they are ours.
type IngressClasses struct {
	ours        map[string]bool
	defaultOurs bool
}

// NewIngressClasses reads the classes of a cluster.
func NewIngressClasses(all []*networkingv1.IngressClass) IngressClasses {
	c := IngressClasses{ours: make(map[string]bool, len(all))}
	for _, class := range all {
		ours := class.Spec.Controller == IngressController
		c.ours[class.Name] = ours
		c.defaultOurs = c.defaultOurs || ours && class.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"
	}
	return c
}

// Own says whether an Ingress is ours, and whether it names a class that does not exist.
func (c IngressClasses) Own(i *networkingv1.Ingress) (ours, missing bool) {
	if name := i.Spec.IngressClassName; name != nil {
		ours, exists := c.ours[*name]
		return ours, !exists
	}
	if name, ok := i.Annotations[legacyIngressClass]; ok {
		return c.ours[name], false
	}
	return c.defaultOurs, false
}
