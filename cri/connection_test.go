package cri_test

import (
	"strings"
	"testing"

	"github.com/kebernetes/kebernetes/cri"
	"github.com/kebernetes/kebernetes/cri/critest"
)

func TestContract(t *testing.T) {
	h := critest.Containerd(t)
	critest.Run(t, func(*testing.T) critest.Subject {
		return critest.Subject{Runtime: h.Runtime, Image: h.Image, Missing: h.Registry + "/missing:1"}
	})
}

func TestBadEndpoint(t *testing.T) {
	for _, endpoint := range []string{"", "/run/x.sock", "unix://relative", "tcp://127.0.0.1:1"} {
		if _, err := cri.Connect(t.Context(), endpoint); err == nil || !strings.Contains(err.Error(), "want unix:///absolute/path") {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}
