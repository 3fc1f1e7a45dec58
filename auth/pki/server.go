package pki

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// serverLifetime is how long a server certificate lasts; it is renewed when a third of it is left.
const serverLifetime = 90 * 24 * time.Hour

// Server is the API server's certificate: in memory only, signed again before it expires and whenever a client comes to
// an address that it is not for yet.
// Safe for concurrent use.
type Server struct {
	authority *Authority

	mu    sync.Mutex
	names []string
	ips   []netip.Addr
	seen  []netip.Addr // addresses that clients came to, beside those in ips
	cert  *tls.Certificate
}

// ServerNames are the names and addresses that every API server of a cluster answers to: those of the service
// "kubernetes" under domain ("cluster.local"), and loopback. Whatever else it is reached by, host names or
// addresses, comes in extra.
func ServerNames(domain string, serviceIP netip.Addr, extra ...string) (names []string, ips []netip.Addr) {
	names = []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + domain, "localhost",
	}
	ips = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	if serviceIP.IsValid() {
		ips = append(ips, serviceIP)
	}
	for _, e := range extra {
		if ip, err := netip.ParseAddr(e); err == nil {
			ips = append(ips, ip.Unmap())
		} else if e != "" {
			names = append(names, e)
		}
	}
	slices.Sort(names)
	slices.SortFunc(ips, netip.Addr.Compare)
	return slices.Compact(names), slices.Compact(ips)
}

// Server returns the certificate of a server with these names and addresses.
func (a *Authority) Server(names []string, ips []netip.Addr) *Server {
	return &Server{authority: a, names: names, ips: ips}
}

// maxSeen bounds how many of the machine's addresses a certificate learns: the newest win.
const maxSeen = 32

// see adds the address that a client came to, which is one of the machine's own: so the certificate follows the machine as its
// addresses change, and clients reach it by any of them. It must hold s.mu.
func (s *Server) see(local net.Addr) {
	tcp, ok := local.(*net.TCPAddr)
	if !ok || tcp.IP.IsLoopback() {
		return
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	if !ip.IsValid() || slices.Contains(s.ips, ip) || slices.Contains(s.seen, ip) {
		return
	}
	s.seen = append(s.seen[max(0, len(s.seen)+1-maxSeen):], ip)
	s.cert = nil
}

// TLSConfig returns the configuration of an HTTPS server. It asks clients for a certificate but leaves its verification to the
// authenticator, as a bad one is answered with 401, not with a broken connection.
func (s *Server) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		ClientAuth: tls.RequestClientCert,
		ClientCAs:  s.authority.Pool(),
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.certificate(hello.Conn.LocalAddr(), time.Now())
		},
	}
}

func (s *Server) certificate(local net.Addr, now time.Time) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.see(local)
	if s.cert != nil && now.Before(s.cert.Leaf.NotAfter.Add(-serverLifetime/3)) && now.After(s.cert.Leaf.NotBefore) {
		return s.cert, nil
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(serverLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    s.names,
	}
	for _, ip := range slices.Concat(s.ips, s.seen) {
		template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
	}
	key, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("sign server certificate: %w", err)
	}
	leaf, err := s.authority.cluster.sign(template, key.Public())
	if err != nil {
		return nil, fmt.Errorf("sign server certificate: %w", err)
	}
	// The CA goes along for joining nodes, which know only its hash.
	s.cert = &tls.Certificate{Certificate: [][]byte{leaf.Raw, s.authority.cluster.certs[0].Raw}, PrivateKey: key, Leaf: leaf}
	return s.cert, nil
}
