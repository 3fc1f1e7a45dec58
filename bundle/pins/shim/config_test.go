package main

import (
	"maps"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func encode(t testing.TB, c *rt.PodSandboxConfig) []byte {
	t.Helper()
	data, err := proto.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParsePod(t *testing.T) {
	ports := map[string]string{"net/ipv4/ip_unprivileged_port_start": "0", "net/ipv4/ping_group_range": "0 2147483647"}
	with := func(more map[string]string) map[string]string {
		out := maps.Clone(ports)
		maps.Copy(out, more)
		return out
	}
	linux := func(o *rt.NamespaceOption, sysctls map[string]string) *rt.LinuxPodSandboxConfig {
		return &rt.LinuxPodSandboxConfig{CgroupParent: "/kubepods/podx", Sysctls: sysctls, SecurityContext: &rt.LinuxSandboxSecurityContext{NamespaceOptions: o, Privileged: true}}
	}
	for _, c := range []struct {
		name string
		in   *rt.PodSandboxConfig
		want podConfig
	}{
		{"a usual pod", &rt.PodSandboxConfig{
			Metadata: &rt.PodSandboxMetadata{Name: "p", Namespace: "n", Attempt: 3}, Hostname: "p", Labels: map[string]string{"a": "b"},
			DnsConfig: &rt.DNSConfig{Servers: []string{"10.0.0.1", "10.0.0.2"}, Searches: []string{"a.b", "c"}, Options: []string{"ndots:5"}},
			Linux:     linux(&rt.NamespaceOption{Pid: rt.NamespaceMode_CONTAINER}, map[string]string{"net.ipv4.ip_unprivileged_port_start": "80"}),
		}, podConfig{hostname: "p", hasDNS: true, servers: []string{"10.0.0.1", "10.0.0.2"}, searches: []string{"a.b", "c"}, options: []string{"ndots:5"},
			cgroupParent: "/kubepods/podx", sysctls: with(map[string]string{"net/ipv4/ip_unprivileged_port_start": "80"})}},
		{"next to nothing", &rt.PodSandboxConfig{}, podConfig{sharedPID: true, sysctls: ports}},
		{"shared processes", &rt.PodSandboxConfig{Linux: linux(&rt.NamespaceOption{}, nil)}, podConfig{sharedPID: true, cgroupParent: "/kubepods/podx", sysctls: ports}},
		{"the machine's namespaces", &rt.PodSandboxConfig{Linux: linux(&rt.NamespaceOption{
			Network: rt.NamespaceMode_NODE, Pid: rt.NamespaceMode_NODE, Ipc: rt.NamespaceMode_NODE,
			UsernsOptions: &rt.UserNamespace{Mode: rt.NamespaceMode_NODE},
		}, nil)}, podConfig{hostNetwork: true, hostPID: true, hostIPC: true, cgroupParent: "/kubepods/podx", sysctls: map[string]string{}}},
		{"names of sysctls", &rt.PodSandboxConfig{Linux: linux(&rt.NamespaceOption{Pid: rt.NamespaceMode_CONTAINER}, map[string]string{
			"kernel.shm_rmid_forced": "1", "net.ipv4.conf.eth0/1.forwarding": "1", "net/ipv4/conf/eth0.2/forwarding": "0", "fs.mqueue.msg_max": "9",
		})}, podConfig{cgroupParent: "/kubepods/podx", sysctls: with(map[string]string{
			"kernel/shm_rmid_forced": "1", "net/ipv4/conf/eth0.1/forwarding": "1", "net/ipv4/conf/eth0.2/forwarding": "0", "fs/mqueue/msg_max": "9"})}},
	} {
		got, err := parsePod(encode(t, c.in))
		if err != nil || !reflect.DeepEqual(*got, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
}

func TestParsePodRefuses(t *testing.T) {
	sysctl := func(name string, o *rt.NamespaceOption) *rt.PodSandboxConfig {
		return &rt.PodSandboxConfig{Linux: &rt.LinuxPodSandboxConfig{Sysctls: map[string]string{name: "1"}, SecurityContext: &rt.LinuxSandboxSecurityContext{NamespaceOptions: o}}}
	}
	own, network, ipc := &rt.NamespaceOption{}, &rt.NamespaceOption{Network: rt.NamespaceMode_NODE}, &rt.NamespaceOption{Ipc: rt.NamespaceMode_NODE}
	for name, c := range map[string]*rt.PodSandboxConfig{
		"another's sysctl":             sysctl("kernel.core_pattern", own),
		"a way out":                    sysctl("net/../kernel/core_pattern", own),
		"a way out by dots":            sysctl("net....kernel.core_pattern", own),
		"no name":                      sysctl("", own),
		"network of the machine":       sysctl("net.ipv4.ip_forward", network),
		"IPC of the machine":           sysctl("kernel.shmmax", ipc),
		"message queue of the machine": sysctl("fs.mqueue.msg_max", ipc),
		"user namespace": {Linux: &rt.LinuxPodSandboxConfig{SecurityContext: &rt.LinuxSandboxSecurityContext{
			NamespaceOptions: &rt.NamespaceOption{UsernsOptions: &rt.UserNamespace{Mode: rt.NamespaceMode_POD}}}}},
	} {
		if got, err := parsePod(encode(t, c)); err == nil {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
	if _, err := parsePod([]byte{0x12, 0x7f}); err == nil {
		t.Error("a message that is cut off is taken")
	}
}

func FuzzParsePod(f *testing.F) {
	f.Add(encode(f, &rt.PodSandboxConfig{Hostname: "x", DnsConfig: &rt.DNSConfig{Servers: []string{"1"}}, Linux: &rt.LinuxPodSandboxConfig{
		Sysctls: map[string]string{"net.a": "b"}, SecurityContext: &rt.LinuxSandboxSecurityContext{NamespaceOptions: &rt.NamespaceOption{Ipc: rt.NamespaceMode_NODE}}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var want rt.PodSandboxConfig
		got, err := parsePod(data)
		if err != nil || proto.Unmarshal(data, &want) != nil {
			return
		}
		if got.hostname != want.Hostname || got.cgroupParent != want.GetLinux().GetCgroupParent() {
			t.Errorf("%q: %+v", data, got)
		}
	})
}

func TestResolvConf(t *testing.T) {
	c := podConfig{servers: []string{"10.0.0.1", "10.0.0.2"}, searches: []string{"a.b", "c"}, options: []string{"ndots:5", "timeout:3"}}
	if got, want := c.resolvConf(), "search a.b c\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5 timeout:3\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := new(podConfig).resolvConf(); got != "" {
		t.Errorf("without servers: %q", got)
	}
}
