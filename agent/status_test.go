package agent

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/cri/fake"
)

// TestReported: who has something to say in the node's status knows when it is said, without waiting for a heartbeat.
func TestReported(t *testing.T) {
	var used []corev1.UniqueVolumeName
	simulated(t, fake.Options{}, func(o *Options) {
		o.VolumesInUse = func() ([]corev1.UniqueVolumeName, error) { return used, nil }
	}, func(t *testing.T, c *cluster, _ *fake.Runtime) {
		after(3 * time.Second)
		used = []corev1.UniqueVolumeName{"kubernetes.io/csi/d^v"}
		began := time.Now()
		if err := c.agent.Status().Reported(t.Context()); err != nil {
			t.Fatal(err)
		}
		n, _ := client.From[*corev1.Node](c.client, c.client.Snapshot(), "", "n1")
		if took := time.Since(began); took > 0 || !slices.Equal(n.Status.VolumesInUse, used) {
			t.Errorf("after %s the node has %v in use", took, n.Status.VolumesInUse)
		}
	})
}
