package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

// A directory of somebody else's is never taken for keb's own, which reset removes.
func TestIsDataDir(t *testing.T) {
	dir := t.TempDir()
	for _, step := range []struct {
		make string
		want bool
	}{{"", true}, {"thesis.tex", false}, {"keb.lock", true}} {
		if step.make != "" {
			if err := os.WriteFile(filepath.Join(dir, step.make), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := IsDataDir(dir); got != step.want || err != nil {
			t.Errorf("with %q: %v, %v", step.make, got, err)
		}
	}
	if _, err := IsDataDir(filepath.Join(dir, "absent")); err == nil {
		t.Error("an absent directory is no error")
	}
}
