package ingress

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// connectTimeout is how long an endpoint may take to accept a connection. Endpoints are in the same network.
	connectTimeout = 2 * time.Second
	// backendIdle is how long an unused connection to an endpoint is kept: less than servers keep theirs (Node.js and Apache httpd 5
	// seconds, most others more), so that none is closed under a request's nose. A new one costs next to nothing.
	backendIdle = 4 * time.Second
	// idlePerEndpoint and idleInAll bound the unused connections that are kept.
	idlePerEndpoint = 512
	idleInAll       = 8192
	// copyBuffer is the size of what bodies are copied with.
	copyBuffer = 32 << 10
)

// transports are the connections to endpoints, by what is spoken on them.
type transports struct {
	plain, prior, encrypted *http.Transport
	retries                 atomic.Uint64
}

func newTransports() *transports {
	transport := func(set func(*http.Protocols)) *http.Transport {
		dialer := net.Dialer{Timeout: connectTimeout}
		t := &http.Transport{
			DialContext:         dialer.DialContext,
			DisableCompression:  true, // what the client does not ask for is not done to its answer
			MaxIdleConnsPerHost: idlePerEndpoint,
			MaxIdleConns:        idleInAll,
			IdleConnTimeout:     backendIdle,
			TLSHandshakeTimeout: 2 * connectTimeout,
			Protocols:           new(http.Protocols),
		}
		set(t.Protocols)
		return t
	}
	t := &transports{
		plain: transport(func(p *http.Protocols) { p.SetHTTP1(true) }),
		prior: transport(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }),
		encrypted: transport(func(p *http.Protocols) {
			p.SetHTTP1(true)
			p.SetHTTP2(true)
		}),
	}
	// An endpoint's certificate names no pod address, and nobody told us whom to trust: TLS here hides, it does not prove.
	t.encrypted.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
	return t
}

// send makes one attempt at one endpoint.
func (t *transports) send(req *http.Request, host string, p protocol) (*http.Response, error) {
	req.URL.Scheme, req.URL.Host = "http", host
	switch {
	case p == encrypted:
		req.URL.Scheme = "https"
		return t.encrypted.RoundTrip(req)
	case p == http2 && req.Header.Get("Upgrade") == "": // HTTP/2 has no upgrades
		return t.prior.RoundTrip(req)
	}
	return t.plain.RoundTrip(req)
}

func (t *transports) close() {
	t.plain.CloseIdleConnections()
	t.prior.CloseIdleConnections()
	t.encrypted.CloseIdleConnections()
}

// buffers lends out what bodies are copied with.
type buffers struct{ pool sync.Pool }

// Get returns a buffer of copyBuffer bytes.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[copyBuffer]byte); ok {
		return p[:]
	}
	return make([]byte, copyBuffer)
}

// Put takes a buffer back.
func (b *buffers) Put(p []byte) { b.pool.Put((*[copyBuffer]byte)(p)) }
