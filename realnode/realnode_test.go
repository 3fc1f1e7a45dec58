package realnode

import (
	"testing"
)

// TestNode runs one node through its life. The parts share it, for each start costs.
func TestNode(t *testing.T) {
	before := groups(t)
	n := newNode(t)
	t.Logf("ready after %s", n.serve(t))
	n.importImage(t)
	part := func(name string, f func(*testing.T, *node)) bool {
		return t.Run(name, func(t *testing.T) { f(t, n) })
	}
	part("services", testServices)
	part("rollout", testRollout)
	part("ingress", testIngress)
	t.Run("pods", func(t *testing.T) {
		for name, f := range map[string]func(*testing.T, *node){
			"files": testFiles, "folder": testFolder, "disk limits": testDiskLimits, "image volume": testImageVolume, "secrets": testSecretsStayInMemory, "configurations": testConfigurations, "claims": testClaimsExplain,
			"identity": testIdentity, "order": testOrder, "probes": testProbes, "faults": testFaults, "crash loop": testCrashLoop, "streams": testStreams, "logs": testLogs, "ends": testEnds,
		} {
			t.Run(name, func(t *testing.T) { f(t, n) })
		}
	})
	part("sandboxes", testSandboxes)
	part("killed", testKilled)
	part("data", testDataSurvives)
	part("adoption", testAdoption)
	part("runtime killed", testRuntimeKilled)
	t.Run("reset", func(t *testing.T) { testReset(t, n, before) })
	part("reset after a crash", testResetAfterCrash)
}
