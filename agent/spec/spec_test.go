package spec

import (
	"fmt"
	"math"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func testPod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-0", Namespace: "shop", UID: "u"}, Spec: corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, Containers: []corev1.Container{{Name: "c"}}}}
}

func TestDNS(t *testing.T) {
	d := DNS{Servers: []string{"10.43.0.10"}, Domain: "cluster.local", Node: []byte("# own\nnameserver 192.0.2.53\nsearch old\nsearch example.com.\noptions timeout:1 rotate\n")}
	two := "2"
	for name, test := range map[string]struct {
		change func(*corev1.Pod)
		want   string
	}{
		"cluster first": {func(*corev1.Pod) {}, "[10.43.0.10] [shop.svc.cluster.local svc.cluster.local cluster.local example.com] [ndots:5]"},
		"default":       {func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSDefault }, "[192.0.2.53] [example.com] [timeout:1 rotate]"},
		"host network":  {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, "[192.0.2.53] [example.com] [timeout:1 rotate]"},
		"host network, cluster first": {func(p *corev1.Pod) { p.Spec.HostNetwork, p.Spec.DNSPolicy = true, corev1.DNSClusterFirstWithHostNet },
			"[10.43.0.10] [shop.svc.cluster.local svc.cluster.local cluster.local example.com] [ndots:5]"},
		"none": {func(p *corev1.Pod) {
			p.Spec.DNSPolicy = corev1.DNSNone
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"my.search"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}}}
		}, "[1.1.1.1] [my.search] [ndots:2 edns0]"},
		"additions": {func(p *corev1.Pod) {
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"10.43.0.10", "1.1.1.1"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}
		}, "[10.43.0.10 1.1.1.1] [shop.svc.cluster.local svc.cluster.local cluster.local example.com] [ndots:2]"},
	} {
		pod := testPod()
		test.change(pod)
		c := dnsConfig(pod, d)
		if got := fmt.Sprint(c.Servers, " ", c.Searches, " ", c.Options); got != test.want {
			t.Errorf("%s: %s\nwant %s", name, got, test.want)
		}
	}
}

func TestHostname(t *testing.T) {
	yes, over := true, "over.ride"
	for _, test := range []struct {
		change     func(*corev1.Pod)
		want, fail string
	}{
		{func(p *corev1.Pod) {}, "web-0", ""},
		{func(p *corev1.Pod) { p.Spec.Hostname = "h" }, "h", ""},
		{func(p *corev1.Pod) { p.Name = strings.Repeat("a", 62) + "-b" }, strings.Repeat("a", 62), ""},
		{func(p *corev1.Pod) { p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = "s", &yes }, "web-0.s.shop.svc.cluster.local", ""},
		{func(p *corev1.Pod) { p.Spec.SetHostnameAsFQDN = &yes }, "web-0", ""},
		{func(p *corev1.Pod) {
			p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN, p.Spec.Hostname = "s", &yes, strings.Repeat("h", 60)
		}, "", "is too long (64 characters is the max, 85 characters requested)"},
		{func(p *corev1.Pod) { p.Spec.HostNetwork = true }, "", ""},
		{func(p *corev1.Pod) { p.Spec.HostnameOverride = &over }, "over.ride", ""},
	} {
		pod := testPod()
		test.change(pod)
		got, err := Hostname(pod, Input{DNS: DNS{Domain: "cluster.local"}})
		if got != test.want || (err == nil) != (test.fail == "") || err != nil && !strings.Contains(err.Error(), test.fail) {
			t.Errorf("%q, %v; want %q, %q", got, err, test.want, test.fail)
		}
	}
}

func TestResources(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		out := corev1.ResourceList{}
		if cpu != "" {
			out[corev1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			out[corev1.ResourceMemory] = resource.MustParse(memory)
		}
		return out
	}
	for _, test := range []struct {
		requests, limits corev1.ResourceList
		least            int64
		want             string
	}{
		{nil, nil, math.MinInt64, "shares 2 quota 0 memory 0 oom 1000"},
		{list("100m", "2Gi"), nil, math.MinInt64, "shares 102 quota 0 memory 0 oom 750"},
		{list("1m", "1Mi"), list("5m", "64Mi"), math.MinInt64, "shares 2 quota 1000 memory 67108864 oom 999"},
		{nil, list("500m", ""), math.MinInt64, "shares 512 quota 50000 memory 0 oom 999"},
		{list("2", "1Gi"), list("2", "1Gi"), math.MinInt64, "shares 2048 quota 200000 memory 1073741824 oom -997"},
		{list("2", "1Gi"), list("2", "1Gi"), 0, "shares 2048 quota 200000 memory 1073741824 oom 0"},
	} {
		pod := testPod()
		pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: test.requests, Limits: test.limits}
		c := &pod.Spec.Containers[0]
		r := Resources(pod, c, c.Resources, OOM{Capacity: 8 << 30, Least: test.least}, false)
		if got := fmt.Sprintf("shares %d quota %d memory %d oom %d", r.CpuShares, r.CpuQuota, r.MemoryLimitInBytes, r.OomScoreAdj); got != test.want {
			t.Errorf("%s, want %s", got, test.want)
		}
	}
}

func TestCheckNonRoot(t *testing.T) {
	yes, zero, user := true, int64(0), int64(5)
	for _, test := range []struct {
		user  *int64
		image *rt.Image
		want  string
	}{
		{nil, &rt.Image{Uid: &rt.Int64Value{Value: 0}}, `container has runAsNonRoot and image will run as root (pod: "web-0_shop(u)", container: c)`},
		{nil, &rt.Image{}, `container has runAsNonRoot and image will run as root (pod: "web-0_shop(u)", container: c)`},
		{nil, &rt.Image{Username: "nobody"}, `container has runAsNonRoot and image has non-numeric user (nobody), cannot verify user is non-root (pod: "web-0_shop(u)", container: c)`},
		{nil, &rt.Image{Uid: &rt.Int64Value{Value: 7}}, ""},
		{&zero, &rt.Image{Uid: &rt.Int64Value{Value: 7}}, `container's runAsUser breaks non-root policy (pod: "web-0_shop(u)", container: c)`},
		{&user, &rt.Image{}, ""},
	} {
		pod := testPod()
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: test.user}
		err := CheckNonRoot(pod, &pod.Spec.Containers[0], test.image)
		if err == nil && test.want != "" || err != nil && err.Error() != test.want {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
}

func TestConfigOutlivesTheAgent(t *testing.T) {
	pod := testPod()
	pod.Spec.Containers[0].Image = "img"
	config, err := Config(pod, Container{Spec: &pod.Spec.Containers[0], Attempt: 7}, Input{NodeName: "n", LogDir: "/logs"})
	if err != nil {
		t.Fatal(err)
	}
	if config.LogPath != "c/7.log" || config.Labels[NodeLabel] != "n" || config.Labels["io.kubernetes.container.name"] != "c" || config.Labels["io.kubernetes.pod.uid"] != "u" {
		t.Errorf("%v", config)
	}
	if r := Remember(config.Annotations, 0); r.RestartCount != 7 || r.Hash == "" {
		t.Errorf("remembered %+v", r)
	}
	if r := Remember(nil, 3); r.RestartCount != 3 {
		t.Errorf("without annotations %+v", r)
	}
}
