// Package tunnel is the one connection between an agent and the server: the agent opens it, the server opens streams over it, and
// each stream carries a request to the node's API. So the server reaches a node that takes no connections. It knows no
// Kubernetes; only daemon imports it.
package tunnel

import (
	"log/slog"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// Path is where the server takes agents' connections.
	Path = "/keb/v1/tunnel"
	// protocol is what the connection is upgraded to.
	protocol = "keb-tunnel/1"

	// selfHeader holds what an agent's process made up, so that the server knows it again when it comes on another connection.
	selfHeader = "Keb-Agent"

	// pingEvery is how often a quiet connection is tried, by the agent alone: as often as client-go does.
	pingEvery = 30 * time.Second
	// answerTimeout bounds what the other end's machinery answers by itself: a ping, a stream that opens, room to write.
	answerTimeout = 10 * time.Second
)

// settings are those of both ends. Only one end pings: a lost server is the agent's to replace.
func settings(pings bool, log *slog.Logger) *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = pings
	c.KeepAliveInterval = pingEvery
	c.ConnectionWriteTimeout = answerTimeout
	c.StreamOpenTimeout = answerTimeout
	// It tells of every stream that breaks off.
	c.Logger, c.LogOutput = slog.NewLogLogger(log.Handler(), slog.LevelDebug), nil
	return c
}
