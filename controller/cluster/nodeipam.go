package cluster

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// The ranges that nodes get, as upstream's defaults --node-cidr-mask-size-ipv4 and -ipv6 have them.
const (
	nodeMaskIPv4 = 24
	nodeMaskIPv6 = 64
)

// NodeIPAM gives every node ranges of pod addresses of its own, one from each range of the cluster.
func NodeIPAM(env controller.Env, ranges []netip.Prefix) *controller.Loop {
	c := env.Client("node-controller")
	r := &nodeIPAM{
		client: c,
		events: client.NewRecorder(c, "cidrAllocator", env.Logger),
		nodes: controller.NewIndex(func(obj client.Object, add func(controller.Group)) {
			for _, cidr := range podCIDRs(obj.(*corev1.Node)) {
				add(controller.Group{cidr})
			}
		}),
	}
	for _, p := range ranges {
		r.pools = append(r.pools, &pool{prefix: p.Masked(), bits: nodeBits(p)})
	}
	return env.NewLoop(c, controller.Controller{
		Name: "node-ipam-controller",
		// One at a time: two nodes must not be given the same range.
		Workers:   1,
		Watches:   []controller.Watch{{Resource: client.ResourceOf[*corev1.Node](c), Index: r.nodes, Keys: r.changed}},
		Reconcile: r.reconcile,
	})
}

type nodeIPAM struct {
	client *client.Client
	events *client.Recorder
	nodes  *controller.Index // by range
	pools  []*pool
}

// changed adds nodes without a range: the one of the event, and when a node went, all that may have waited for its range.
func (r *nodeIPAM) changed(ev client.Event, add func(controller.Key)) {
	if ev.Type == client.Put {
		if len(podCIDRs(ev.Item.Object.(*corev1.Node))) == 0 {
			add(controller.Key{Name: ev.Item.Key.Name})
		}
		return
	}
	for _, node := range client.List[*corev1.Node](r.client, r.client.Snapshot(), "", nil) {
		if len(podCIDRs(node)) == 0 {
			add(controller.Key{Name: node.Name})
		}
	}
}

func podCIDRs(node *corev1.Node) []string {
	if len(node.Spec.PodCIDRs) == 0 && node.Spec.PodCIDR != "" {
		return []string{node.Spec.PodCIDR}
	}
	return node.Spec.PodCIDRs
}

func (r *nodeIPAM) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	node, ok := client.From[*corev1.Node](r.client, r.client.Snapshot(), "", key.Name)
	if !ok || len(podCIDRs(node)) > 0 {
		return 0, nil
	}
	var cidrs []string
	for _, p := range r.pools {
		cidr, ok := p.next(func(s string) bool { return r.nodes.Len(controller.Group{s}) > 0 })
		if !ok {
			r.events.Event(node, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: %s", node.Name, "CIDRNotAvailable")
			return 0, nil
		}
		cidrs = append(cidrs, cidr)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": node.UID}, "spec": map[string]any{"podCIDR": cidrs[0], "podCIDRs": cidrs}})
	if err != nil {
		return 0, err
	}
	if _, err := client.Patch[*corev1.Node](ctx, r.client, "", node.Name, "", types.StrategicMergePatchType, patch); err != nil {
		return 0, fmt.Errorf("give node %s the range %v: %w", node.Name, cidrs, err)
	}
	return 0, nil
}

// nodeBits is the prefix length of a node's range; a cluster's range that is smaller goes to one node as a whole.
func nodeBits(cluster netip.Prefix) int {
	if cluster.Addr().Is4() {
		return max(nodeMaskIPv4, cluster.Bits())
	}
	return max(nodeMaskIPv6, cluster.Bits())
}

// pool hands out the ranges of a prefix in turn, so that one that was just given back is not used again at once.
type pool struct {
	prefix netip.Prefix
	bits   int
	at     uint64
}

// next returns the next range that is not used.
func (p *pool) next(used func(string) bool) (string, bool) {
	size := uint64(1) << min(p.bits-p.prefix.Bits(), 63)
	for range size {
		cidr := p.nth(p.at % size).String()
		p.at++
		if !used(cidr) {
			return cidr, true
		}
	}
	return "", false
}

// nth is the range at a position of the prefix.
func (p *pool) nth(n uint64) netip.Prefix {
	if p.prefix.Addr().Is4() {
		b := p.prefix.Addr().As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|uint32(n<<(32-p.bits)))
		return netip.PrefixFrom(netip.AddrFrom4(b), p.bits)
	}
	b := p.prefix.Addr().As16()
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	if shift := 128 - p.bits; shift >= 64 {
		hi |= n << (shift - 64)
	} else {
		lo |= n << shift
		hi |= n >> (64 - shift)
	}
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return netip.PrefixFrom(netip.AddrFrom16(b), p.bits)
}
