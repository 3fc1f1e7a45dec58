package spec

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestExpand(t *testing.T) {
	lookup := func(name string) (string, bool) {
		v, ok := map[string]string{"A": "1", "B": "$(A)", "": "empty"}[name]
		return v, ok
	}
	for in, want := range map[string]string{
		"":              "",
		"plain":         "plain",
		"$(A)":          "1",
		"x$(A)y$(A)":    "x1y1",
		"$(B)":          "$(A)", // what is put in is not looked at again
		"$(NO)":         "$(NO)",
		"$$(A)":         "$(A)",
		"$$$(A)":        "$1",
		"$$$$(A)":       "$$(A)",
		"$A $":          "$A $",
		"$(A":           "$(A",
		"$((A))":        "$((A))",
		"$()":           "empty",
		"a $(A) $(no) ": "a 1 $(no) ",
	} {
		if got := Expand(in, lookup); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

type sources struct{}

func (sources) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if name != "cfg" {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
	}
	return &corev1.ConfigMap{Data: map[string]string{"a": "1", "odd key.x": "2"}}, nil
}

func (sources) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if name != "s" {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
	}
	return &corev1.Secret{Data: map[string][]byte{"k": []byte("v")}}, nil
}

func (sources) Allocatable() corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi")}
}

func TestEnvironment(t *testing.T) {
	yes, no := true, false
	cfg := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	amount := func(name, divisor string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: name, Divisor: resource.MustParse(divisor)}}
	}
	for _, test := range []struct {
		name string
		c    corev1.Container
		want string
		err  string
	}{
		{"values see those before", corev1.Container{Env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)$(C)"}, {Name: "C", Value: "$$(A)"}}}, "A=1 B=1$(C) C=$(A)", ""},
		{"fields", corev1.Container{Env: []corev1.EnvVar{{Name: "N", ValueFrom: field("metadata.name")}, {Name: "IP", ValueFrom: field("status.podIP")}, {Name: "L", ValueFrom: field("metadata.labels['app']")}}}, "IP=10.0.0.1 L=web N=p", ""},
		{"resources", corev1.Container{
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("150m")}},
			Env:       []corev1.EnvVar{{Name: "C", ValueFrom: amount("requests.cpu", "1m")}, {Name: "C1", ValueFrom: amount("requests.cpu", "1")}, {Name: "M", ValueFrom: amount("limits.memory", "1Mi")}},
		}, "C=150 C1=1 M=1024", ""},
		{"whole objects", corev1.Container{EnvFrom: []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: cfg("cfg")}}, {SecretRef: &corev1.SecretEnvSource{LocalObjectReference: cfg("s")}}}}, "P_a=1 P_odd key.x=2 k=v", ""},
		{"own values win", corev1.Container{Env: []corev1.EnvVar{{Name: "k", Value: "mine"}}, EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: cfg("s")}}}}, "k=mine", ""},
		{"optional", corev1.Container{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: cfg("no"), Optional: &yes}}},
			Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: cfg("cfg"), Key: "no", Optional: &yes}}}}}, "", ""},
		{"no map", corev1.Container{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: cfg("no")}}}}, "", `configmap "no" not found`},
		{"no secret", corev1.Container{Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: cfg("no"), Key: "k", Optional: &no}}}}}, "", `secret "no" not found`},
		{"no key", corev1.Container{Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: cfg("cfg"), Key: "zz"}}}}}, "", "couldn't find key zz in ConfigMap ns/cfg"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.c.Name = "c"
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{test.c}}, Status: corev1.PodStatus{PodIP: "10.0.0.1"}}
			vars, err := Environment(t.Context(), pod, &test.c, nil, sources{})
			if err != nil || test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Fatalf("error %v, want %q", err, test.err)
				}
				return
			}
			var got []string
			for _, v := range vars {
				got = append(got, v.Key+"="+string(v.Value))
			}
			if s := strings.Join(got, " "); s != test.want {
				t.Errorf("%s\nwant %s", s, test.want)
			}
		})
	}
}

func TestServices(t *testing.T) {
	svc := func(ns, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	all := []*corev1.Service{
		svc("default", "kubernetes", "10.43.0.1", corev1.ServicePort{Name: "https", Port: 443, Protocol: "TCP"}),
		svc("ns", "my-db", "10.43.0.2", corev1.ServicePort{Name: "sql", Port: 5432, Protocol: "TCP"}, corev1.ServicePort{Name: "dns", Port: 53, Protocol: "UDP"}),
		svc("ns", "headless", "None", corev1.ServicePort{Port: 1}),
		svc("other", "far", "10.43.0.3", corev1.ServicePort{Port: 1}),
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}}
	got := Services(pod, all)
	for name, want := range map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.43.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443", "KUBERNETES_PORT": "tcp://10.43.0.1:443",
		"MY_DB_SERVICE_HOST": "10.43.0.2", "MY_DB_SERVICE_PORT": "5432", "MY_DB_SERVICE_PORT_DNS": "53", "MY_DB_PORT_53_UDP": "udp://10.43.0.2:53",
		"MY_DB_PORT_53_UDP_PROTO": "udp", "MY_DB_PORT_53_UDP_PORT": "53", "MY_DB_PORT_53_UDP_ADDR": "10.43.0.2", "FAR_SERVICE_HOST": "", "HEADLESS_SERVICE_HOST": "",
	} {
		if got[name] != want {
			t.Errorf("%s=%q, want %q", name, got[name], want)
		}
	}
	no := false
	pod.Spec.EnableServiceLinks = &no
	if got := Services(pod, all); got["MY_DB_SERVICE_HOST"] != "" || got["KUBERNETES_SERVICE_HOST"] == "" {
		t.Errorf("without links: %v", got)
	}
}
