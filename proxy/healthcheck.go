package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/network"
)

// healthChecks answers on the health-check node ports: load balancers outside of the cluster ask there which nodes have endpoints of
// a service with externalTrafficPolicy Local. For one goroutine at a time.
type healthChecks struct {
	netns   string // path of the namespace to listen in, "" being the process's own
	logger  *slog.Logger
	servers map[uint16]*healthServer
	running sync.WaitGroup
}

// healthServer answers for one service.
type healthServer struct {
	service   types.NamespacedName
	endpoints atomic.Int64 // on this node
	http      *http.Server
}

// set replaces the health check of a service; port 0 is none. A port that is taken is logged: the balancer finds no answer there,
// which is what it shall do with a node that cannot tell.
func (h *healthChecks) set(service types.NamespacedName, before, after healthCheck) {
	if have := h.servers[before.port]; have != nil && have.service == service && before.port != after.port {
		have.http.Close()
		delete(h.servers, before.port)
	}
	if after.port == 0 {
		return
	}
	have := h.servers[after.port]
	if have == nil {
		listener, err := listenAt(h.netns, after.port)
		if err != nil {
			h.logger.Warn("health-check node port is not open", "service", service.String(), "port", after.port, "error", err)
			return
		}
		have = &healthServer{service: service}
		have.http = &http.Server{Handler: have, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 1 << 14,
			ErrorLog: slog.NewLogLogger(h.logger.Handler(), slog.LevelDebug)}
		h.servers[after.port] = have
		h.running.Go(func() {
			if err := have.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				h.logger.Warn("health-check node port is closed", "service", service.String(), "error", err)
			}
		})
	}
	if have.service == service {
		have.endpoints.Store(int64(after.endpoints))
	}
}

// retain closes the ports that no service wants any longer.
func (h *healthChecks) retain(wanted func(types.NamespacedName) healthCheck) {
	for port, s := range h.servers {
		if wanted(s.service).port != port {
			s.http.Close()
			delete(h.servers, port)
		}
	}
}

// close ends all servers and waits for them.
func (h *healthChecks) close() {
	for _, s := range h.servers {
		s.http.Close()
	}
	h.running.Wait()
}

// ServeHTTP answers 200 where the service has endpoints on this node, or else 503, in kube-proxy's words.
func (s *healthServer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	n := s.endpoints.Load()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(n, 10))
	if n == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	type service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	}
	json.NewEncoder(w).Encode(struct {
		Service             service `json:"service"`
		LocalEndpoints      int64   `json:"localEndpoints"`
		ServiceProxyHealthy bool    `json:"serviceProxyHealthy"`
	}{service{s.service.Namespace, s.service.Name}, n, true})
}

// listenAt opens a port of all addresses.
func listenAt(netns string, port uint16) (listener net.Listener, err error) {
	err = network.InNamespace(netns, func() error {
		listener, err = new(net.ListenConfig).Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
		return err
	})
	return listener, err
}
