package daemon

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	"github.com/kebernetes/kebernetes/config"
)

// A server that cannot be wired lets go of its store: the next start finds it free.
func TestNewThatFailsClosesTheStore(t *testing.T) {
	c, err := config.Default(config.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0", NodeIP: "127.0.0.1", AdvertiseIP: "127.0.0.1", APIOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("tcp", c.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	log := slog.New(slog.DiscardHandler)
	broken := c
	broken.WriteKubeconfig = filepath.Join(c.DataDir, "pki", "ca.crt", "kubeconfig") // below a file
	if _, err := New(t.Context(), broken, socket, log); err == nil {
		t.Fatal("wired")
	}
	s, err := New(t.Context(), c, socket, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}
