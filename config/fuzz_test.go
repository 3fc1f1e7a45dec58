package config

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever stands in the file, it is refused, or all that follows from it can be computed.
func FuzzLoad(f *testing.F) {
	f.Add([]byte("apiVersion: keb/v1\nnodeName: a\nnodeIP: 10.0.0.1\nserviceCIDR: 10.43.0.0/28\nlisten: \":0\"\n"))
	f.Add([]byte(`{"apiVersion": "keb/v1", "nodeIP": "::1", "certificateNames": ["a"], "apiOnly": true}`))
	f.Add([]byte("apiVersion: &a keb/v1\nlisten: *a\nclusterCIDR: 0.0.0.0/0\n"))
	path := filepath.Join(f.TempDir(), "config")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(path)
		if err != nil {
			return
		}
		if c, err = Default(Merge(c, Config{APIOnly: true, NodeIP: c.NodeIP})); err != nil {
			return
		}
		if c.Validate() == nil && (!c.DNSAddress().IsValid() || !c.APIServiceAddress().IsValid()) {
			t.Errorf("valid, but without addresses: %+v", c)
		}
	})
}
