package auth

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/kebernetes/kebernetes/kinds"
)

// tlsIngress is an Ingress of namespace ns that names a certificate.
func tlsIngress(name, secret, class string) *networkingv1.Ingress {
	i := &networkingv1.Ingress{ObjectMeta: meta("ns", name), Spec: networkingv1.IngressSpec{TLS: []networkingv1.IngressTLS{{SecretName: secret}}}}
	if class != "" {
		i.Spec.IngressClassName = &class
	}
	return i
}

func ingressClass(name, controller string, isDefault bool) *networkingv1.IngressClass {
	c := &networkingv1.IngressClass{ObjectMeta: meta("", name), Spec: networkingv1.IngressClassSpec{Controller: controller}}
	if isDefault {
		c.Annotations = map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}
	}
	return c
}

func ingressNode(name, says, label string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: meta("", name)}
	if says != "" {
		n.Annotations = map[string]string{kinds.IngressAnnotation: says}
	}
	if label != "" {
		n.Labels = map[string]string{kinds.IngressLabel: label}
	}
	return n
}

// A node that serves Ingresses reads the certificates that they name, in one way, and no other Secret.
func TestNodeReadsCertificates(t *testing.T) {
	theirs := tlsIngress("theirs", "theirs", "nginx")
	web := tlsIngress("web", "web", "")
	w := newWorld(t, ingressClass("keb", kinds.IngressController, true), ingressClass("nginx", "k8s.io/ingress-nginx", false),
		web, tlsIngress("api", "shared", "keb"), tlsIngress("old", "shared", "keb"), theirs, tlsIngress("lost", "lost", "none"),
		ingressNode("n1", "on", ""), ingressNode("off", "off", ""), ingressNode("silent", "", ""), ingressNode("forbidden", "on", "off"), ingressNode("allowed", "on", "on"))
	const tls = " metadata.name=web,type=kubernetes.io/tls"
	ask := func(node, question string) bool {
		allowed, _ := w.policy.Authorize(can(&User{Name: NodeUserPrefix + node, Groups: []string{GroupNodes}}, question))
		return allowed
	}
	for _, tc := range []struct {
		node, question string
		want           bool
	}{
		{"n1", "watch secrets ns/web" + tls, true},
		{"n1", "list secrets ns/web" + tls, true},
		{"n1", "watch secrets ns/shared metadata.name=shared,type=kubernetes.io/tls", true},
		{"allowed", "watch secrets ns/web" + tls, true},

		{"off", "watch secrets ns/web" + tls, false},
		{"silent", "watch secrets ns/web" + tls, false},
		{"forbidden", "watch secrets ns/web" + tls, false},
		{"gone", "watch secrets ns/web" + tls, false},
		{"n1", "get secrets ns/web", false},
		{"n1", "get secrets ns/web" + tls, false},
		{"n1", "update secrets ns/web" + tls, false},
		{"n1", "delete secrets ns/web" + tls, false},
		{"n1", "watch secrets/x ns/web" + tls, false},
		{"n1", "watch secrets ns/web metadata.name=web", false},
		{"n1", "watch secrets ns/web metadata.name=web,type!=kubernetes.io/tls", false},
		{"n1", "watch secrets ns/web metadata.name=web,type=Opaque", false},
		{"n1", "watch secrets ns/web metadata.name=other,type=kubernetes.io/tls", false},
		{"n1", "watch secrets ns/web type=kubernetes.io/tls", false},
		{"n1", "watch secrets ns type=kubernetes.io/tls", false},
		{"n1", "watch secrets other/web" + tls, false},
		{"n1", "watch secrets ns/api metadata.name=api,type=kubernetes.io/tls", false},
		{"n1", "watch secrets ns/theirs metadata.name=theirs,type=kubernetes.io/tls", false},
		{"n1", "watch secrets ns/lost metadata.name=lost,type=kubernetes.io/tls", false},
		{"n1", "watch configmaps ns/web" + tls, false},
	} {
		if got := ask(tc.node, tc.question); got != tc.want {
			t.Errorf("%s: %s: %v", tc.node, tc.question, got)
		}
	}
	// Every change counts at once.
	for _, change := range []struct {
		name string
		do   func()
		want bool
	}{
		{"another certificate", func() { w.put(tlsIngress("web", "newer", "")) }, false},
		{"the first again", func() { w.put(web) }, true},
		{"another class", func() { w.put(tlsIngress("web", "web", "nginx")) }, false},
		{"the default class again", func() { w.put(web) }, true},
		{"the class is not the default any more", func() { w.put(ingressClass("keb", kinds.IngressController, false)) }, false},
		{"the class is the default again", func() { w.put(ingressClass("keb", kinds.IngressController, true)) }, true},
		{"the node serves no more", func() { w.put(ingressNode("n1", "off", "")) }, false},
		{"the node serves", func() { w.put(ingressNode("n1", "on", "")) }, true},
		{"the Ingress is gone", func() { w.remove(web) }, false},
	} {
		change.do()
		if got := ask("n1", "watch secrets ns/web"+tls); got != change.want {
			t.Errorf("%s: %v", change.name, got)
		}
	}
	w.remove(tlsIngress("api", "shared", "keb"))
	if !ask("n1", "watch secrets ns/shared metadata.name=shared,type=kubernetes.io/tls") {
		t.Error("a certificate that two Ingresses name is lost with one of them")
	}
}
