package proxy

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the results into testdata")

// TestCompile runs the scripts of testdata: each "step" is a set of objects, as a user would write them, and after each the
// elements that changed are compared.
func TestCompile(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(err, files)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			script, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			wants := map[string]string{}
			for _, f := range script.Files {
				wants[f.Name] = string(f.Data)
			}
			tbl := newTable()
			updated := &txtar.Archive{Comment: script.Comment}
			for _, f := range script.Files {
				step, ok := strings.CutSuffix(f.Name, ".yaml")
				if !ok {
					continue
				}
				got := runStep(t, tbl, f.Data)
				updated.Files = append(updated.Files, f, txtar.File{Name: step + ".rules", Data: []byte(got)})
				if diff := cmp.Diff(wants[step+".rules"], got); diff != "" && !*update {
					t.Errorf("%s (-want +got):\n%s", f.Name, diff)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(updated), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// runStep compiles the services and pods of a step. Slices belong to the services of their own step.
func runStep(t *testing.T, tbl *table, data []byte) string {
	t.Helper()
	var services []*corev1.Service
	var pods []*corev1.Pod
	slicesOf := map[string][]*discoveryv1.EndpointSlice{}
	for _, doc := range bytes.Split(data, []byte("---\n")) {
		var kind metav1.TypeMeta
		err := yaml.Unmarshal(doc, &kind)
		if err == nil {
			switch kind.Kind {
			case "Service":
				svc := &corev1.Service{}
				err = yaml.UnmarshalStrict(doc, svc)
				services = append(services, svc)
			case "EndpointSlice":
				s := &discoveryv1.EndpointSlice{}
				err = yaml.UnmarshalStrict(doc, s)
				slicesOf[s.Labels[discoveryv1.LabelServiceName]] = append(slicesOf[s.Labels[discoveryv1.LabelServiceName]], s)
			case "Pod":
				pod := &corev1.Pod{}
				err = yaml.UnmarshalStrict(doc, pod)
				pods = append(pods, pod)
			default:
				err = fmt.Errorf("kind %q", kind.Kind)
			}
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
	}
	node, b := Node{Name: "node-1", Zone: "zone-a"}, newBatch()
	for _, svc := range services {
		tbl.update(b, owner{NamespacedName: types.NamespacedName{Name: svc.Name}}, compileService(svc, slicesOf[svc.Name], node))
	}
	for _, pod := range pods {
		tbl.update(b, owner{types.NamespacedName{Name: pod.Name}, true}, compilePod(pod, node))
	}
	tbl.seal(b)
	return render(b)
}

// render prints a batch: "+" for what is added, "-" for what goes, "*" for what changes.
func render(b *batch) string {
	var lines []string
	for id, c := range b.elements {
		value := ""
		sign := "*"
		if c.before != nil {
			value = renderValue(id, c.before)
		} else {
			sign = "+"
		}
		if c.after == nil {
			sign = "-"
		} else if next := renderValue(id, c.after); sign == "*" {
			value += " =>" + next
		} else {
			value = next
		}
		lines = append(lines, fmt.Sprintf("%s %s %s%s\n", sign, id.set, renderKey(id, c), value))
	}
	for _, c := range b.newChains {
		lines = append(lines, fmt.Sprintf("+ chain %s\n", c))
	}
	for _, c := range b.oldChains {
		lines = append(lines, fmt.Sprintf("- chain %s\n", c))
	}
	for f := range b.gone {
		lines = append(lines, fmt.Sprintf("forget %s\n", f.endpoint))
	}
	for addr, delta := range b.serving {
		lines = append(lines, fmt.Sprintf("serving %s %+d\n", addr, delta))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func renderKey(id elementID, c change) string {
	key := id.key
	takeAddr := func() string {
		n := 4
		if id.v6 {
			n = 16
		}
		addr, _ := netip.AddrFromSlice([]byte(key[:n]))
		key = key[n:]
		return addr.String()
	}
	takePort := func() string {
		port := binary.BigEndian.Uint16([]byte(key))
		key = key[4:]
		return fmt.Sprint(port)
	}
	takeProto := func() string {
		proto := map[byte]string{6: "tcp", 17: "udp", 132: "sctp"}[key[0]]
		key = key[4:]
		return proto
	}
	var out []string
	switch id.set {
	case setPorts, setOutsidePorts, setUnservedPorts:
		out = append(out, takeProto(), takePort())
	case setClusterIPs, setHairpins:
		out = append(out, takeAddr())
	default:
		out = append(out, takeAddr(), takeProto(), takePort())
	}
	switch id.set {
	case setEndpoints, setIDs:
		out = append(out, fmt.Sprint(binary.NativeEndian.Uint32([]byte(key))))
	case setAllowed:
		out = append(out, takeAddr())
		value := c.after
		if value == nil {
			value = c.before
		}
		key = value.keyEnd[len(value.keyEnd)-len(addrKey(netip.IPv4Unspecified())):]
		if id.v6 {
			key = value.keyEnd[len(value.keyEnd)-16:]
		}
		out = append(out, "-", takeAddr())
	}
	return strings.Join(out, " ")
}

func renderValue(id elementID, v *elementValue) string {
	switch {
	case v.way.chain.n > 0:
		return " " + v.way.chain.String()
	case v.way.code > 0:
		return " " + [...]string{"", "accept", "reject", "drop"}[v.way.code]
	case id.set == setIDs:
		return " " + fmt.Sprint(binary.NativeEndian.Uint32([]byte(v.data)))
	case v.data != "":
		addr, _ := netip.AddrFromSlice([]byte(v.data[:len(v.data)-4]))
		return " " + netip.AddrPortFrom(addr, binary.BigEndian.Uint16([]byte(v.data[len(v.data)-4:]))).String()
	}
	return ""
}

func TestArrange(t *testing.T) {
	parse := func(s string) (out []netip.AddrPort) {
		for _, c := range s {
			out = append(out, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(c)}), 80))
		}
		return out
	}
	for _, test := range []struct{ prev, next, want string }{
		{"", "abc", "abc"}, {"abc", "", ""}, {"abc", "abc", "abc"}, {"abc", "abd", "abd"}, {"abc", "bcd", "dbc"}, {"abc", "bc", "cb"},
		{"abc", "c", "c"}, {"ab", "abcd", "abcd"}, {"ba", "abc", "bac"}, {"abcd", "ad", "ad"},
	} {
		if got := arrange(parse(test.prev), parse(test.next)); !slices.Equal(got, parse(test.want)) {
			t.Errorf("arrange(%s, %s) = %v, want %s", test.prev, test.next, got, test.want)
		}
	}
}

// TestTableMatchesFreshStart turns services over at random and sees that the sum of the changes is what a fresh start would load.
func TestTableMatchesFreshStart(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	tbl, kernel := newTable(), map[elementID]elementValue{}
	chains := map[chain]bool{}
	type object struct {
		svc   *corev1.Service
		slice *discoveryv1.EndpointSlice
	}
	node := Node{Name: "node"}
	now := map[owner]object{}
	for range 2000 {
		b := newBatch()
		for range 1 + rng.IntN(3) {
			i := rng.IntN(6)
			who := owner{NamespacedName: types.NamespacedName{Name: fmt.Sprint(i)}}
			if rng.IntN(4) == 0 {
				delete(now, who)
				tbl.update(b, who, plan{})
				continue
			}
			svc := service(who.Name, fmt.Sprintf("10.43.0.%d", i), func(svc *corev1.Service) {
				if rng.IntN(2) == 0 {
					nodePort(int32(30000 + rng.IntN(2)))(svc) // which may be another's
				}
				if rng.IntN(2) == 0 {
					svc.Spec.ExternalIPs = []string{"203.0.113.1"}
				}
				if rng.IntN(2) == 0 {
					localPolicy(svc)
				}
				if rng.IntN(2) == 0 {
					affinity(svc)
				}
			})
			var addrs []netip.Addr
			for range rng.IntN(5) {
				addrs = append(addrs, netip.AddrFrom4([4]byte{10, 42, 0, byte(rng.IntN(9))}))
			}
			s := slice(who.Name, addrs)
			for j := range s.Endpoints {
				if rng.IntN(2) == 0 {
					elsewhere(&s.Endpoints[j])
				}
				if rng.IntN(3) == 0 {
					terminating(&s.Endpoints[j])
				}
			}
			now[who] = object{svc, s}
			tbl.update(b, who, compileService(svc, []*discoveryv1.EndpointSlice{s}, node))
		}
		tbl.seal(b)
		for _, c := range b.newChains {
			chains[c] = true
		}
		for id, c := range b.elements {
			if have, ok := kernel[id]; ok != (c.before != nil) || ok && have != *c.before {
				t.Fatalf("change of %v from %v, but the kernel has %v", id, c.before, have)
			}
			delete(kernel, id)
			if c.after != nil {
				kernel[id] = *c.after
				if to := c.after.way.chain; to.n > 0 && !chains[to] {
					t.Fatalf("way to chain %s, which is not there", to)
				}
			}
		}
		for _, c := range b.oldChains {
			delete(chains, c)
		}
		for id, v := range kernel {
			if v.way.chain.n > 0 && !chains[v.way.chain] {
				t.Fatalf("%v leads to chain %s, which is gone", id, v.way.chain)
			}
		}
	}
	// Indices and, where services clash, owners depend on history; which frontends are served, and by what, does not.
	fresh, b := newTable(), newBatch()
	for who, o := range now {
		fresh.update(b, who, compileService(o.svc, []*discoveryv1.EndpointSlice{o.slice}, node))
	}
	fresh.seal(b)
	for id, c := range b.elements {
		if id.set == setClusterIPs || id.set == setHairpins || id.set == setServices && id.key[0] == 10 {
			if have, ok := kernel[id]; !ok || have != *c.after {
				t.Errorf("%v: have %v, a fresh start %v", id, have, *c.after)
			}
		}
	}
	clear(now)
	b = newBatch()
	for i := range 6 {
		tbl.update(b, owner{NamespacedName: types.NamespacedName{Name: fmt.Sprint(i)}}, plan{})
	}
	tbl.seal(b)
	if len(b.elements) != len(kernel) || len(b.oldChains) != len(chains) || len(tbl.plans)+len(tbl.claims)+len(tbl.shared)+len(tbl.chains) != 0 {
		t.Errorf("removing all: %d of %d elements, %d of %d chains, left %+v", len(b.elements), len(kernel), len(b.oldChains), len(chains), tbl)
	}
}
