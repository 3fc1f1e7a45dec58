package daemon

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// waits notes whom it was asked to wait for.
type waits []netip.Addr

func (w *waits) WaitWithdrawn(_ context.Context, addrs ...netip.Addr) error {
	*w = append(*w, addrs...)
	return nil
}

func TestWithdrawWaitsForEveryPart(t *testing.T) {
	pod := &corev1.Pod{Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.42.0.5"}, {IP: "fd00::5"}}}}
	want := []netip.Addr{netip.MustParseAddr("10.42.0.5"), netip.MustParseAddr("fd00::5")}
	var one, two waits
	withdraw(&one, &two)(t.Context(), pod)
	if !slices.Equal(one, want) || !slices.Equal(two, want) {
		t.Errorf("waited for %v and %v, want %v", one, two, want)
	}
	// The node's address is others' too: nobody could wait for it to be out of use.
	one = nil
	pod.Spec.HostNetwork = true
	if withdraw(&one)(t.Context(), pod); len(one) > 0 {
		t.Errorf("waited for %v", one)
	}
}
