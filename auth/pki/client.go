package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// NodeGroup is the group of all nodes (https://kubernetes.io/docs/reference/access-authn-authz/node/).
	NodeGroup = "system:nodes"
	// NodeUserPrefix precedes a node's name in the name of its user.
	NodeUserPrefix = "system:node:"

	minRSABits = 2048
)

// Client is a client certificate and its key, both PEM.
type Client struct{ Cert, Key []byte }

// Client signs a certificate for a user (its common name) in groups (its organizations), valid for ttl.
func (a *Authority) Client(user string, groups []string, ttl time.Duration) (Client, error) {
	return newClient(a.cluster, user, groups, ttl)
}

// FrontProxyClient signs the certificate with which requests are forwarded to extension API servers.
func (a *Authority) FrontProxyClient(ttl time.Duration) (Client, error) {
	return newClient(a.frontProxy, "front-proxy-client", nil, ttl)
}

func newClient(ca pair, user string, groups []string, ttl time.Duration) (Client, error) {
	key, err := newKey()
	if err != nil {
		return Client{}, fmt.Errorf("sign client certificate of %s: %w", user, err)
	}
	cert, err := ca.signClient(pkix.Name{CommonName: user, Organization: groups}, key.Public(), ttl)
	if err != nil {
		return Client{}, fmt.Errorf("sign client certificate of %s: %w", user, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Client{}, fmt.Errorf("sign client certificate of %s: %w", user, err)
	}
	return Client{Cert: encodeCerts([]*x509.Certificate{cert}), Key: keyPEM}, nil
}

// SignNode signs the request (PEM) of a node for its client certificate, valid for ttl, after CheckNode. Who asks must have been
// authenticated for that node name by the caller.
func (a *Authority) SignNode(csrPEM []byte, node string, ttl time.Duration) ([]byte, error) {
	csr, err := ParseRequest(csrPEM)
	if err != nil {
		return nil, err
	}
	if err := CheckNode(csr, node); err != nil {
		return nil, err
	}
	cert, err := a.cluster.signClient(csr.Subject, csr.PublicKey, ttl)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of node %s: %w", node, err)
	}
	return encodeCerts([]*x509.Certificate{cert}), nil
}

// SignRequest signs what a request asks for: its subject and alternative names for its key, for these uses alone, valid for ttl or as
// long as the CA is. The caller has verified the request and decided that it may be signed. It returns PEM.
func (a *Authority) SignRequest(request *x509.CertificateRequest, use x509.KeyUsage, extended []x509.ExtKeyUsage, ttl time.Duration) ([]byte, error) {
	if err := checkKey(request.PublicKey); err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", request.Subject.CommonName, err)
	}
	now := time.Now()
	cert, err := a.cluster.sign(&x509.Certificate{
		RawSubject: request.RawSubject,
		DNSNames:   request.DNSNames, IPAddresses: request.IPAddresses, EmailAddresses: request.EmailAddresses, URIs: request.URIs,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(ttl),
		KeyUsage: use, ExtKeyUsage: extended,
	}, request.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", request.Subject.CommonName, err)
	}
	return encodeCerts([]*x509.Certificate{cert}), nil
}

// NewNodeKey makes the key of a node, PEM. It is the machine's for as long as it is that node.
func NewNodeKey() ([]byte, error) {
	key, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return encodeKey(key)
}

// OnlyKey returns the private key of a PEM file without the certificates beside it.
func OnlyKey(data []byte) ([]byte, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "PRIVATE KEY" {
			out := pem.EncodeToMemory(block)
			_, err := parseKeys(out)
			return out, err
		}
	}
	return nil, errors.New("no PEM block with a private key")
}

// NodeRequest makes the request (PEM) for the client certificate of a node with a key of NewNodeKey.
func NodeRequest(node string, keyPEM []byte) (csrPEM []byte, err error) {
	keys, err := parseKeys(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("make request of node %s: %w", node, err)
	}
	der, err := x509.CreateCertificateRequest(nil, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: NodeUserPrefix + node, Organization: []string{NodeGroup}},
	}, keys[0])
	if err != nil {
		return nil, fmt.Errorf("make request of node %s: %w", node, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// ParseRequest reads one certificate request (PEM) and verifies that its sender holds the key.
func ParseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("parse certificate request: no PEM block of type CERTIFICATE REQUEST")
	}
	if len(strings.TrimSpace(string(rest))) != 0 {
		return nil, errors.New("parse certificate request: more than one PEM block")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("verify certificate request: %w", err)
	}
	return csr, nil
}

// CheckNode says whether csr asks for nothing but the client certificate of that node: the name and the group alone, and
// a key that is strong enough.
func CheckNode(csr *x509.CertificateRequest, node string) error {
	s := csr.Subject
	switch {
	case s.CommonName != NodeUserPrefix+node:
		return fmt.Errorf("check request of node %s: common name is %q", node, s.CommonName)
	case !slices.Equal(s.Organization, []string{NodeGroup}):
		return fmt.Errorf("check request of node %s: organization is %q, not only %s", node, s.Organization, NodeGroup)
	case len(s.Names) != 2:
		return fmt.Errorf("check request of node %s: the subject has more than a common name and an organization", node)
	case len(csr.DNSNames)+len(csr.EmailAddresses)+len(csr.IPAddresses)+len(csr.URIs) > 0:
		return fmt.Errorf("check request of node %s: a client certificate has no subject alternative names", node)
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return fmt.Errorf("check request of node %s: %w", node, err)
	}
	return nil
}

func checkKey(public crypto.PublicKey) error {
	switch k := public.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return fmt.Errorf("RSA key of %d bits, want at least %d", k.N.BitLen(), minRSABits)
		}
		return nil
	default:
		return fmt.Errorf("unknown type of key %T", public)
	}
}

func (p pair) signClient(subject pkix.Name, public crypto.PublicKey, ttl time.Duration) (*x509.Certificate, error) {
	now := time.Now()
	return p.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: subject.CommonName, Organization: subject.Organization},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(ttl),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, public)
}

// sign signs a leaf, which never outlives the CA.
func (p pair) sign(template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, error) {
	template.BasicConstraintsValid = true
	if template.NotAfter.After(p.certs[0].NotAfter) {
		template.NotAfter = p.certs[0].NotAfter
	}
	return create(template, p.certs[0], public, p.key)
}
