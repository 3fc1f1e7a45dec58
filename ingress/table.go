package ingress

import (
	"crypto/tls"
	"path"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// maxHost is the longest DNS name. A longer Host header names no rule's host.
const maxHost = 253

// route is where the requests that match one path of an Ingress go.
type route struct {
	ingress types.NamespacedName
	// backend is nil when the Ingress names one that is not supported.
	backend *backend
	// redirect sends requests without TLS to HTTPS.
	redirect bool
}

// site holds the paths of one host.
type site struct {
	exact map[string]*route
	// prefixes are without slashes at their ends: "" is "/".
	prefixes map[string]*route
	// longest is the length of the longest prefix: no more of a request's path need be looked at.
	longest int
	// fallback takes what no path matches: the default backend of an Ingress that names this host.
	fallback *route
}

// table says where requests go. Immutable but for the endpoints of its backends; looking something up neither locks nor allocates.
type table struct {
	hosts     map[string]*site
	wildcards map[string]*site // by what stands behind "*."
	any       *site            // rules that name no host; nil for none
	fallback  *route           // nil for none

	certificates         map[string]*tls.Certificate // by server name
	wildcardCertificates map[string]*tls.Certificate // by what stands behind "*."
}

// match returns the route of a request, or nil. host is the Host header, with or without a port; p the decoded path. The most
// special host that has a matching path wins: the exact one, then the wildcard, then rules without a host; of its paths an
// exact one, then the longest prefix. Default backends take what is left.
func (t *table) match(host, p string) *route {
	var buf [maxHost]byte
	name := canonicalHost(buf[:0], host)
	if strings.Contains(p, "/.") {
		p = resolveDots(p)
	}
	exact := t.hosts[string(name)]
	if r := exact.match(p); r != nil {
		return r
	}
	wildcard := t.wildcards[string(parent(name))]
	if r := wildcard.match(p); r != nil {
		return r
	}
	if r := t.any.match(p); r != nil {
		return r
	}
	switch {
	case exact != nil && exact.fallback != nil:
		return exact.fallback
	case wildcard != nil && wildcard.fallback != nil:
		return wildcard.fallback
	}
	return t.fallback
}

// match returns the route of a path, or nil. Prefixes match element by element: "/a" matches "/a", "/a/" and "/a/b", not "/ab".
func (s *site) match(p string) *route {
	if s == nil {
		return nil
	}
	if r := s.exact[p]; r != nil {
		return r
	}
	if len(s.prefixes) == 0 || p == "" || p[0] != '/' {
		return nil
	}
	if len(p) > s.longest {
		// Ending where an element ends: the slash behind the longest prefix counts.
		p = p[:strings.LastIndexByte(p[:s.longest+1], '/')]
	}
	for {
		if r := s.prefixes[p]; r != nil {
			return r
		}
		if p == "" {
			return nil
		}
		p = p[:strings.LastIndexByte(p, '/')]
	}
}

// certificate returns the certificate for a TLS server name, or nil.
func (t *table) certificate(serverName string) *tls.Certificate {
	var buf [maxHost]byte
	name := canonicalHost(buf[:0], serverName)
	if c := t.certificates[string(name)]; c != nil {
		return c
	}
	return t.wildcardCertificates[string(parent(name))]
}

// canonicalHost appends the lower-case name of a Host header to buf, which has room for maxHost bytes: without its port and the
// dot at its end. It is empty for what is no name.
func canonicalHost(buf []byte, host string) []byte {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	host = strings.TrimSuffix(host, ".")
	if len(host) > maxHost {
		return buf
	}
	for i := range len(host) {
		c := host[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		buf = append(buf, c)
	}
	return buf
}

// parent is what stands behind a name's first label, empty when that is all.
func parent(name []byte) []byte {
	for i, c := range name {
		if c == '.' && i > 0 {
			return name[i+1:]
		}
	}
	return nil
}

// resolveDots resolves the elements "." and ".." of a path, so that a request cannot reach one backend by another's path.
func resolveDots(p string) string {
	out := path.Clean(p)
	if out != "/" && (strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")) {
		out += "/"
	}
	return out
}
