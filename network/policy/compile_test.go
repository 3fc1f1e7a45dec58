package policy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// String shows what the table does, one line per isolated address and direction, with the contents in the place of sets.
func (m *model) String() string {
	var out []string
	for addr, e := range m.ends {
		for _, side := range []struct{ direction, chain string }{{"in", e.in}, {"out", e.out}} {
			if side.chain == "" {
				continue
			}
			var rules []string
			for _, r := range m.chains[side.chain].rules {
				rules = append(rules, m.show(r))
			}
			slices.Sort(rules)
			text := strings.Join(rules, " | ")
			if len(rules) == 0 {
				text = "nothing"
			}
			out = append(out, fmt.Sprintf("%s %s: %s", addr, side.direction, text))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func (m *model) show(r rule) string {
	var parts []string
	for _, name := range r.sets() {
		s := m.sets[name]
		var elements []string
		for e := range s.count {
			elements = append(elements, showElement(s.kind, e))
		}
		slices.Sort(elements)
		parts = append(parts, fmt.Sprintf("%s{%s}", s.kind, strings.Join(elements, " ")))
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, " ")
}

func showElement(kind setKind, e element) string {
	addr := func(s string) string { a, _ := netip.AddrFromSlice([]byte(s)); return a.String() }
	port := func(s string) string { return fmt.Sprint(int(s[4])<<8 | int(s[5])) }
	proto := func(s string) string {
		return map[byte]string{6: "TCP", 17: "UDP", 132: "SCTP"}[s[0]]
	}
	switch kind {
	case setPeers:
		return addr(e.key)
	case setNamed:
		at := len(e.key) - 8
		return addr(e.key[:at]) + ":" + proto(e.key[at:]) + ":" + port(e.key[at:])
	case setBlocks:
		return addr(e.key) + "-" + addr(e.end)
	}
	if port(e.key) == port(e.end) {
		return proto(e.key) + ":" + port(e.key)
	}
	return proto(e.key) + ":" + port(e.key) + "-" + port(e.end)
}

// parsePod reads "namespace/name node address[,address] label=value,… [port=name:protocol:number,…] [host|done]".
func parsePod(text string) *corev1.Pod {
	f := strings.Fields(text)
	ns, name, _ := strings.Cut(f[0], "/")
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{NodeName: f[1]}}
	for _, ip := range strings.Split(f[2], ",") {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	p.Labels, _ = labels.ConvertSelectorToLabelsMap(f[3])
	c := corev1.Container{Name: "c"}
	for _, word := range f[4:] {
		switch ports, ok := strings.CutPrefix(word, "port="); {
		case ok:
			for _, port := range strings.Split(ports, ",") {
				part := strings.Split(port, ":")
				number, _ := strconv.Atoi(part[2])
				c.Ports = append(c.Ports, corev1.ContainerPort{Name: part[0], Protocol: corev1.Protocol(part[1]), ContainerPort: int32(number)})
			}
		case word == "host":
			p.Spec.HostNetwork = true
		case word == "done":
			p.Status.Phase = corev1.PodSucceeded
		}
	}
	p.Spec.Containers = []corev1.Container{c}
	return p
}

func parsePolicy(name, spec string) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{}
	if err := yaml.UnmarshalStrict([]byte(spec), &np.Spec); err != nil {
		panic(fmt.Sprintf("%s: %v", spec, err))
	}
	np.Namespace, np.Name, _ = strings.Cut(name, "/")
	return np
}

func keyOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func TestCompile(t *testing.T) {
	pods := []string{
		"shop/web n1 10.42.1.2 app=web,tier=front port=http:TCP:8080,metrics:TCP:9090",
		"shop/db n1 10.42.1.3 app=db port=sql:TCP:5432",
		"shop/web2 n2 10.42.2.2 app=web,tier=front port=http:TCP:8081",
		"ops/probe n2 10.42.2.3 app=probe port=http:UDP:53",
		"ops/web n1 10.42.1.4,fd00:42:1::4 app=web port=http:TCP:80",
		"shop/host n1 192.0.2.1 app=web host",
		"shop/done n1 10.42.1.9 app=web done",
	}
	namespaces := map[string]string{"shop": "team=shop", "ops": "team=ops,trusted=yes", "empty": "team=none"}
	for _, test := range []struct {
		name     string
		policies []string // "namespace/name: spec"
		want     string
	}{
		{"no policy", nil, ""},
		{"default deny of ingress isolates all pods of this node in the namespace", []string{`shop/p: {podSelector: {}, policyTypes: [Ingress]}`}, `
10.42.1.2 in: nothing
10.42.1.3 in: nothing`},
		{"the selector isolates", []string{`shop/p: {podSelector: {matchLabels: {app: db}}}`}, `
10.42.1.3 in: nothing`},
		{"expressions", []string{`shop/p: {podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}`}, `
10.42.1.3 in: nothing`},
		{"egress rules make the type, when types are not given", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, egress: [{}]}`}, `
10.42.1.3 in: nothing
10.42.1.3 out: all`},
		{"types win over rules", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, ingress: [{}], policyTypes: [Egress]}`}, `
10.42.1.3 out: nothing`},
		{"an empty rule allows all", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, ingress: [{}]}`}, `
10.42.1.3 in: all`},
		{"pods of the namespace", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`}, `
10.42.1.3 in: pods{10.42.1.2 10.42.2.2}`},
		{"all pods of some namespaces", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {trusted: "yes"}}}]}]}`}, `
10.42.1.3 in: pods{10.42.1.4 10.42.2.3 fd00:42:1::4}`},
		{"both selectors mean both", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]}]}`}, `
10.42.1.3 in: pods{10.42.1.2 10.42.1.4 10.42.2.2 fd00:42:1::4}`},
		{"two peers mean either", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}, {podSelector: {matchLabels: {app: web}}}]}]}`}, `
10.42.1.3 in: pods{10.42.1.2 10.42.2.2} | pods{10.42.1.4 10.42.2.3 fd00:42:1::4}`},
		{"a block with holes", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.42.0.0/16, 10.0.0.0/9]}}]}], policyTypes: [Egress]}`}, `
10.42.1.3 out: blocks{10.128.0.0-10.255.255.255}`},
		{"blocks that meet, of both families, up to the last address", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [
			{ipBlock: {cidr: 255.255.255.128/25}}, {ipBlock: {cidr: 255.255.255.0/25}}, {ipBlock: {cidr: "2001:db8::/32", except: ["2001:db8::/33"]}}]}]}`}, `
10.42.1.3 in: blocks{2001:db8:8000::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff 255.255.255.0-255.255.255.255}`},
		{"a block and pods", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}, {podSelector: {}}]}]}`}, `
10.42.1.3 in: blocks{192.0.2.0-192.0.2.255} | pods{10.42.1.2 10.42.1.3 10.42.2.2}`},
		{"ports: default protocol, ranges that meet, all of a protocol", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80}, {port: 81, endPort: 90}, {port: 85, endPort: 100}, {protocol: UDP}, {protocol: SCTP, port: 7}]}]}`}, `
10.42.1.3 in: ports{SCTP:7 TCP:80-100 UDP:0-65535}`},
		{"ports and peers mean both", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]}`}, `
10.42.1.3 in: pods{10.42.1.2 10.42.2.2} ports{TCP:5432}`},
		{"a named port of ingress is the isolated pod's own", []string{`shop/p: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: http}, {port: 1}]}]}`}, `
10.42.1.2 in: named{10.42.1.2:TCP:8080 10.42.2.2:TCP:8081} | ports{TCP:1}`},
		{"a named port of egress is the other pod's", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}], ports: [{port: http}]}]}`}, `
10.42.1.3 out: pods{10.42.1.2 10.42.1.4 10.42.2.2 fd00:42:1::4} named{10.42.1.2:TCP:8080 10.42.1.4:TCP:80 10.42.2.2:TCP:8081 fd00:42:1::4:TCP:80}`},
		{"a named port of another protocol is another port", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{ports: [{port: http, protocol: UDP}]}]}`}, `
10.42.1.3 out: named{10.42.2.3:UDP:53}`},
		{"policies add up", []string{
			`shop/a: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`,
			`shop/b: {podSelector: {}, policyTypes: [Ingress, Egress]}`,
			`shop/c: {podSelector: {matchLabels: {app: db}}, egress: [{ports: [{protocol: UDP, port: 53}]}], policyTypes: [Egress]}`}, `
10.42.1.2 in: nothing
10.42.1.2 out: nothing
10.42.1.3 in: pods{10.42.1.2 10.42.2.2}
10.42.1.3 out: ports{UDP:53}`},
		{"a pod with two addresses is isolated at both", []string{`ops/p: {podSelector: {}}`}, `
10.42.1.4 in: nothing
fd00:42:1::4 in: nothing`},
		{"what cannot be read allows nothing, and the rest holds", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: nonsense}}]}, {ports: [{port: 5, endPort: 4}]},
			{from: [{podSelector: {matchExpressions: [{key: a, operator: Near}]}}]}, {ports: [{port: 9}]}]}`}, `
10.42.1.3 in: ports{TCP:9}`},
		{"nobody is in an empty namespace", []string{`shop/p: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: none}}}]}]}`}, `
10.42.1.3 in: pods{}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newModel()
			for name, l := range namespaces {
				set, _ := labels.ConvertSelectorToLabelsMap(l)
				m.updateNamespace(newBatch(), name, set)
			}
			for _, text := range test.policies {
				name, spec, _ := strings.Cut(text, ": ")
				np := parsePolicy(name, spec)
				p, _ := compilePolicy(np)
				m.updatePolicy(newBatch(), keyOf(np), p)
			}
			for _, text := range pods {
				p := parsePod(text)
				m.updatePod(newBatch(), keyOf(p), newPod(p, "n1"))
			}
			if diff := cmp.Diff(strings.TrimPrefix(test.want, "\n"), m.String()); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
		})
	}
}

// table is what a kernel would hold, kept by changes alone.
type table struct {
	sets   map[string]map[element]bool
	chains map[string][]rule
	ends   map[netip.Addr]ends
}

// apply fails on changes that a kernel would refuse.
func (k *table) apply(c *changes) error {
	for _, s := range c.newSets {
		if k.sets[s.name] != nil {
			return fmt.Errorf("set %s is there", s.name)
		}
		k.sets[s.name] = map[element]bool{}
	}
	for name, elements := range c.oldElements {
		for _, e := range elements {
			if !k.sets[name][e] {
				return fmt.Errorf("element %v of %s is not there", e, name)
			}
			delete(k.sets[name], e)
		}
	}
	for name, elements := range c.newElements {
		for _, e := range elements {
			if k.sets[name] == nil || k.sets[name][e] {
				return fmt.Errorf("element %v of %s is there", e, name)
			}
			k.sets[name][e] = true
		}
	}
	for name, chain := range c.newChains {
		for _, r := range chain.rules {
			for _, s := range r.sets() {
				if k.sets[s] == nil {
					return fmt.Errorf("chain %s names set %s, which is not there", name, s)
				}
			}
		}
		if _, ok := k.chains[name]; ok {
			return fmt.Errorf("chain %s is there", name)
		}
		k.chains[name] = chain.rules
	}
	for addr, e := range c.oldEnds {
		if k.ends[addr] != e {
			return fmt.Errorf("%s leads to %v, not %v", addr, k.ends[addr], e)
		}
		delete(k.ends, addr)
	}
	for addr, e := range c.newEnds {
		if _, ok := k.ends[addr]; ok {
			return fmt.Errorf("%s leads somewhere", addr)
		}
		k.ends[addr] = e
	}
	for name := range c.oldChains {
		for _, e := range k.ends {
			if e.in == name || e.out == name {
				return fmt.Errorf("chain %s is in use", name)
			}
		}
		delete(k.chains, name)
	}
	for _, s := range c.oldSets {
		for name, rules := range k.chains {
			for _, r := range rules {
				if slices.Contains(r.sets(), s.name) {
					return fmt.Errorf("set %s is in use by %s", s.name, name)
				}
			}
		}
		delete(k.sets, s.name)
	}
	return nil
}

// Whatever happens in whatever order, the changes that are made are those that a kernel takes, and the table comes to what a node
// that starts at that moment would load.
func TestChangesAddUp(t *testing.T) {
	specs := []string{
		`{podSelector: {}}`,
		`{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}], ports: [{port: http}, {port: 80}]}]}`,
		`{podSelector: {matchLabels: {app: b}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: x}}}]}]}`,
		`{podSelector: {}, egress: [{to: [{namespaceSelector: {matchLabels: {team: x}}, podSelector: {matchLabels: {app: a}}}], ports: [{port: http}]}], policyTypes: [Egress]}`,
		`{podSelector: {matchLabels: {app: a}}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}], ingress: [{}]}`,
		`{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {}}]}]}`,
	}
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		pick := func(choices ...string) string { return choices[r.IntN(len(choices))] }
		live, kernel := newModel(), &table{sets: map[string]map[element]bool{}, chains: map[string][]rule{}, ends: map[netip.Addr]ends{}}
		pods, policies, namespaces := map[types.NamespacedName]*pod{}, map[types.NamespacedName]*policy{}, map[string]labels.Set{}
		for range 300 {
			b := newBatch()
			for range 1 + r.IntN(4) {
				key := types.NamespacedName{Namespace: pick("x", "y"), Name: pick("1", "2", "3", "4", "5")}
				switch r.IntN(8) {
				case 0:
					delete(pods, key)
					live.updatePod(b, key, nil)
				case 1, 2, 3, 4:
					// Addresses move between pods, as they do in life.
					p := newPod(parsePod(fmt.Sprintf("%s %s 10.42.1.%d app=%s port=http:TCP:%d", key, pick("n1", "n1", "n2"), r.IntN(12), pick("a", "b"), 80+r.IntN(2))), "n1")
					pods[key] = p
					live.updatePod(b, key, p)
				case 5:
					delete(policies, key)
					live.updatePolicy(b, key, nil)
				case 6:
					p, err := compilePolicy(parsePolicy(key.String(), specs[r.IntN(len(specs))]))
					if err != nil {
						t.Fatal(err)
					}
					policies[key] = p
					live.updatePolicy(b, key, p)
				case 7:
					l := labels.Set{"team": pick("x", "y")}
					namespaces[key.Namespace] = l
					live.updateNamespace(b, key.Namespace, l)
				}
			}
			if err := kernel.apply(live.changes(b)); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		fresh, want := newModel(), &table{sets: map[string]map[element]bool{}, chains: map[string][]rule{}, ends: map[netip.Addr]ends{}}
		for name, l := range namespaces {
			fresh.updateNamespace(newBatch(), name, l)
		}
		for key, p := range policies {
			fresh.updatePolicy(newBatch(), key, p)
		}
		for key, p := range pods {
			fresh.updatePod(newBatch(), key, p)
		}
		if err := want.apply(fresh.whole()); err != nil {
			t.Fatalf("seed %d: load: %v", seed, err)
		}
		// Where two pods claim an address, the later one has it, which a fresh start cannot know.
		for addr := range shared(pods) {
			delete(kernel.ends, addr)
			delete(want.ends, addr)
		}
		inUse(kernel)
		inUse(want)
		if diff := cmp.Diff(want, kernel, cmp.AllowUnexported(table{}, ends{}, element{}, rule{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Fatalf("seed %d (-fresh +grown):\n%s", seed, diff)
		}
	}
}

// shared are the addresses that more than one pod claims.
func shared(pods map[types.NamespacedName]*pod) map[netip.Addr]bool {
	seen, out := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, p := range pods {
		for _, a := range p.addrs {
			out[a] = seen[a]
			seen[a] = true
		}
	}
	maps.DeleteFunc(out, func(_ netip.Addr, twice bool) bool { return !twice })
	return out
}

// inUse leaves out what no compared address leads to.
func inUse(k *table) {
	chains := map[string]bool{}
	for _, e := range k.ends {
		chains[e.in], chains[e.out] = true, true
	}
	sets := map[string]bool{}
	maps.DeleteFunc(k.chains, func(name string, rules []rule) bool {
		for _, r := range rules {
			for _, s := range r.sets() {
				sets[s] = sets[s] || chains[name]
			}
		}
		return !chains[name]
	})
	maps.DeleteFunc(k.sets, func(name string, _ map[element]bool) bool { return !sets[name] })
}

// A block holds an address when its range does and none of the exceptions do.
func FuzzBlock(f *testing.F) {
	f.Add("10.0.0.0/8", "10.42.0.0/16", "10.42.7.0/24", "10.42.255.255")
	f.Add("0.0.0.0/0", "0.0.0.0/1", "255.255.255.255/32", "255.255.255.255")
	f.Add("::/0", "2001:db8::/32", "::ffff:1.2.3.4/128", "2001:db7::")
	f.Add("010.1.0.0/16", "10.1.0.0/17", "10.1.1.1/8", "10.1.200.1")
	f.Fuzz(func(t *testing.T, cidr, hole1, hole2, address string) {
		spans, err := readBlock(&networkingv1.IPBlock{CIDR: cidr, Except: []string{hole1, hole2}})
		addr, addrErr := netip.ParseAddr(address)
		if err != nil || addrErr != nil {
			return
		}
		addr = addr.Unmap().WithZone("")
		within := func(text string) bool {
			s, err := readCIDR(text)
			return err == nil && s.first.BitLen() == addr.BitLen() && !addr.Less(s.first) && !s.last.Less(addr)
		}
		want := within(cidr) && !within(hole1) && !within(hole2)
		got := slices.ContainsFunc(merge(slices.Clone(spans)), func(s span) bool {
			return s.first.BitLen() == addr.BitLen() && !addr.Less(s.first) && !s.last.Less(addr)
		})
		if got != want {
			t.Errorf("%s without %s and %s: %v hold %s: %t", cidr, hole1, hole2, spans, addr, got)
		}
		merged := merge(spans)
		for i, s := range merged {
			if s.last.Less(s.first) || i > 0 && !merged[i-1].last.Less(s.first) {
				t.Errorf("spans are out of order: %v", merged)
			}
		}
	})
}
