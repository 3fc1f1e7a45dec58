package realnode

import (
	"testing"
)

// TestNode runs one node through its life. The parts share it, for each start costs.
func TestNode(t *testing.T) {
	n := newNode(t)
	t.Logf("ready after %s", n.serve(t))
	n.importImage(t)
	part := func(name string, f func(*testing.T, *node)) bool {
		return t.Run(name, func(t *testing.T) { f(t, n) })
	}
	part("services", testServices)
	part("rollout", testRollout)
	t.Run("pods", func(t *testing.T) {
		for name, f := range map[string]func(*testing.T, *node){
			"files": testFiles, "identity": testIdentity, "order": testOrder, "probes": testProbes, "faults": testFaults, "crash loop": testCrashLoop,
		} {
			t.Run(name, func(t *testing.T) { f(t, n) })
		}
	})
}
