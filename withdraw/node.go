package withdraw

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
)

// Node answers the server for the parts of one node. Safe for concurrent use.
type Node struct {
	Parts []Part
	// CatchUp waits until the node's rules are at a revision of the server's EndpointSlices.
	CatchUp func(ctx context.Context, revision int64) error
	// Next serves the other paths of the node's API.
	Next http.Handler
}

// ServeHTTP implements http.Handler.
func (n *Node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != NodePath {
		n.Next.ServeHTTP(w, r)
		return
	}
	var q question
	if !decode(w, r, &q) {
		return
	}
	ctx := r.Context()
	if err := n.CatchUp(ctx, q.Revision); err != nil {
		http.Error(w, "catch up with the server: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, addr := range q.Addresses {
		wait.Go(func() {
			for _, part := range n.Parts {
				if part.WaitWithdrawn(ctx, addr) != nil {
					return // the server asks no more
				}
			}
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintln(w, addr)
			_ = http.NewResponseController(w).Flush() // a server that is gone asks again
		})
	}
	wait.Wait()
}

// answers takes a node's lines as they are written.
type answers struct {
	header http.Header
	code   int
	line   []byte
	// gone is told of each address.
	gone func(netip.Addr)
}

// Header implements http.ResponseWriter.
func (a *answers) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answers) WriteHeader(code int) {
	if a.code == 0 {
		a.code = code
	}
}

// Write implements http.ResponseWriter.
func (a *answers) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	a.line = append(a.line, p...)
	if a.code != http.StatusOK {
		a.line = a.line[:min(len(a.line), 200)] // why not
		return len(p), nil
	}
	for line := range strings.Lines(string(a.line)) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		a.line = a.line[len(line):]
		if addr, err := netip.ParseAddr(strings.TrimSuffix(line, "\n")); err == nil {
			a.gone(addr)
		}
	}
	if len(a.line) > 100 {
		return 0, fmt.Errorf("no address: %q", a.line)
	}
	return len(p), nil
}

// Flush implements http.Flusher.
func (a *answers) Flush() {}
