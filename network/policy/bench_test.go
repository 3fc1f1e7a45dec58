package policy

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/network/networktest"
	"github.com/kebernetes/kebernetes/network/nft"
)

// crowd is 1,000 pods in 10 namespaces, a tenth of them on this node, and 100 policies, each of which selects a tenth of its
// namespace and lets in a tenth of it, another namespace, and a block.
func crowd() (m *model, pods []*pod) {
	m = newModel()
	b := newBatch()
	for i := range 10 {
		m.updateNamespace(b, fmt.Sprint("ns", i), labels.Set{"team": fmt.Sprint(i)})
	}
	for i := range 100 {
		name := fmt.Sprintf("ns%d/p%d", i%10, i)
		np := parsePolicy(name, fmt.Sprintf(`{podSelector: {matchLabels: {app: a%d}}, ingress: [{from: [{podSelector: {matchLabels: {app: a%d}}},
			{namespaceSelector: {matchLabels: {team: "%d"}}}, {ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.%d/32]}}], ports: [{port: 80}, {port: http}]}]}`,
			i/10, (i/10+1)%10, (i+1)%10, i))
		p, err := compilePolicy(np)
		if err != nil {
			panic(err)
		}
		m.updatePolicy(b, keyOf(np), p)
	}
	for i := range 1000 {
		node := i % 100 / 10
		p := newPod(parsePod(fmt.Sprintf("ns%d/pod%d n%d 10.42.%d.%d app=a%d port=http:TCP:8080", i%10, i, node, node, i%250, i/100)), "n0")
		m.updatePod(b, p.key, p)
		pods = append(pods, p)
	}
	return m, pods
}

// A node with many policies: the table is loaded at once, and again over itself, and changed as a whole and in one place.
func TestManyPolicies(t *testing.T) {
	m, pods := crowd()
	k := newTestKernel(t)
	for range 2 {
		if err := k.load(m.whole()); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []*pod{pods[0], pods[10], pods[999]} {
		b := newBatch()
		m.updatePod(b, p.key, nil)
		if err := k.apply(m.changes(b)); err != nil {
			t.Fatal(err)
		}
	}
	b := newBatch()
	for namespace, policies := range m.policies {
		for name := range policies {
			m.updatePolicy(b, types.NamespacedName{Namespace: namespace, Name: name}, nil)
		}
	}
	if err := k.apply(m.changes(b)); err != nil {
		t.Fatal(err)
	}
	if len(m.sets)+len(m.chains)+len(m.ends) != 0 {
		t.Errorf("%d sets, %d chains, %d addresses are left", len(m.sets), len(m.chains), len(m.ends))
	}
}

// BenchmarkCompile is from nothing to the whole table of the node.
func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		m, _ := crowd()
		m.whole()
	}
}

// BenchmarkOnePod is one pod that changes its address among 1,000, without the kernel and with it.
func BenchmarkOnePod(b *testing.B) {
	for _, withKernel := range []bool{false, true} {
		b.Run(fmt.Sprintf("kernel=%t", withKernel), func(b *testing.B) {
			m, pods := crowd()
			var k *kernel
			if withKernel {
				k = newTestKernel(b)
				if err := k.load(m.whole()); err != nil {
					b.Fatal(err)
				}
			}
			key, both := pods[0].key, [2]*pod{pods[0], nil}
			moved := *pods[0]
			moved.addrs = pods[0].addrs[:0:0]
			both[1] = &moved
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				batch := newBatch()
				m.updatePod(batch, key, both[i%2])
				c := m.changes(batch)
				if k == nil {
					continue
				}
				if err := k.apply(c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLoad puts the whole table into the kernel.
func BenchmarkLoad(b *testing.B) {
	m, _ := crowd()
	k := newTestKernel(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := k.load(m.whole()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUnrelatedPod is a pod of a namespace that no policy of the node looks at.
func BenchmarkUnrelatedPod(b *testing.B) {
	m, pods := crowd()
	other := *pods[1]
	other.key, other.local = types.NamespacedName{Namespace: "elsewhere", Name: "x"}, false
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p := &other
		if i%2 == 0 {
			p = nil
		}
		m.updatePod(newBatch(), other.key, p)
	}
}

func newTestKernel(b testing.TB) *kernel {
	b.Helper()
	t, err := nft.Open(DefaultTable, networktest.New(b).Path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(t.Close)
	return &kernel{Table: t, families: families(clusterCIDRs)}
}
