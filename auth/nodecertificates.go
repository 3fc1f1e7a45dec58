package auth

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

const (
	resourceIngresses      = "ingresses." + networkingv1.GroupName
	resourceIngressClasses = "ingressclasses." + networkingv1.GroupName
)

// readSecret is readOne, and besides the one way in which a node reads certificates of Ingresses: upstream, which has no ingress of its
// own, has no rule for them.
func readSecret(p *Policy, node string, a *Attributes) (bool, string, bool) {
	allowed, reason, decided := readOne(p, node, a)
	if !allowed && p.servesCertificate(node, a) {
		return true, "", true
	}
	return allowed, reason, decided
}

// servesCertificate says whether a node may read a certificate: by a list or watch that can show nothing but one Secret of type
// kubernetes.io/tls (who deletes it may put a Secret of another type in its place), which an Ingress of the same namespace names, whose
// class is ours, by a node that serves Ingresses and is not forbidden to.
func (p *Policy) servesCertificate(node string, a *Attributes) bool {
	if a.Verb != "list" && a.Verb != "watch" || a.Subresource != "" || a.Namespace == "" || a.Name == "" ||
		!selects(a, "metadata.name", a.Name) || !selects(a, "type", string(corev1.SecretTypeTLS)) {
		return false
	}
	snapshot := p.reader.Snapshot()
	item := snapshot.Get(store.Key{Resource: "nodes", Name: node})
	if item == nil || !kinds.ServesIngress(item.Object.(*corev1.Node)) {
		return false
	}
	p.ready(followIngresses)
	defer p.mu.RUnlock()
	naming := p.named[objectName{a.Namespace, a.Name}]
	if len(naming) == 0 {
		return false
	}
	snapshot = p.reader.Snapshot() // as new as the index
	var all []*networkingv1.IngressClass
	for item := range snapshot.List(resourceIngressClasses, "") {
		all = append(all, item.Object.(*networkingv1.IngressClass))
	}
	classes := kinds.NewIngressClasses(all)
	for name := range naming {
		if item := snapshot.Get(store.Key{Resource: resourceIngresses, Namespace: a.Namespace, Name: name}); item != nil {
			if ours, _ := classes.Own(item.Object.(*networkingv1.Ingress)); ours {
				return true
			}
		}
	}
	return false
}

// namedCertificates are the names of the Ingresses that name a Secret of their namespace.
type namedCertificates map[objectName]map[string]struct{}

func (n *namedCertificates) reset() { *n = namedCertificates{} }

func (n *namedCertificates) apply(old, new store.Object) {
	if i, ok := old.(*networkingv1.Ingress); ok {
		for _, section := range i.Spec.TLS {
			secret := objectName{i.Namespace, section.SecretName}
			delete((*n)[secret], i.Name)
			if len((*n)[secret]) == 0 {
				delete(*n, secret)
			}
		}
	}
	if i, ok := new.(*networkingv1.Ingress); ok {
		for _, section := range i.Spec.TLS {
			if section.SecretName == "" {
				continue
			}
			secret := objectName{i.Namespace, section.SecretName}
			if (*n)[secret] == nil {
				(*n)[secret] = map[string]struct{}{}
			}
			(*n)[secret][i.Name] = struct{}{}
		}
	}
}
