package bundle

import (
	"os/exec"
	"testing"
)

// TestPins runs the tests of the module that builds the executables: `go test ./...` of this one passes it over.
func TestPins(t *testing.T) {
	if testing.Short() {
		t.Skip("the executables' module is left out of short tests")
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "./shim")
	cmd.Dir = "pins"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
