package join

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/kebernetes/kebernetes/auth/pki"
)

// ErrNotJoined says that a machine is not part of a cluster.
var ErrNotJoined = errors.New("this machine has not joined a cluster")

// The files of an identity: one with the key, which stays, and the certificate, so that both are always of one piece.
const (
	keyFile     = "node.pem"
	clusterFile = "cluster.json"
)

// Identity is what makes a machine a node: its name, key and certificate, and the server that it belongs to. Safe for concurrent use.
type Identity struct {
	// Server is the URL of the API, Node the machine's name, Cluster what the server said of the cluster when the machine joined.
	Server  string
	Node    string
	Cluster Cluster

	dir       string
	key       []byte            // PEM
	transport http.RoundTripper // nil: a connection by TLS

	mu    sync.Mutex
	roots *x509.CertPool
	cert  *tls.Certificate
}

// saved is the content of clusterFile.
type saved struct {
	Server  string  `json:"server"`
	Node    string  `json:"node"`
	CA      string  `json:"ca"`
	Cluster Cluster `json:"cluster"`
}

// Open reads the identity that an earlier Join left in dir. The error is ErrNotJoined when there is none.
func Open(dir string) (*Identity, error) {
	text, err := os.ReadFile(filepath.Join(dir, clusterFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotJoined
	}
	if err != nil {
		return nil, fmt.Errorf("read the node's identity: %w", err)
	}
	var s saved
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, clusterFile), err)
	}
	i := &Identity{dir: dir, Server: s.Server, Node: s.Node, Cluster: s.Cluster}
	file := filepath.Join(dir, keyFile)
	info, err := os.Lstat(file)
	if err != nil {
		return nil, fmt.Errorf("read the node's key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read the node's key: mode %v of %s lets others read it; chmod 600 it", info.Mode(), file)
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the node's key: %w", err)
	}
	if i.key, err = pki.OnlyKey(pem); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if err := i.take([]byte(s.CA), pem); err != nil {
		return nil, fmt.Errorf("read the node's identity in %s: %w", dir, err)
	}
	return i, nil
}

// take uses certificates: those of the CA, and the node's own beside its key.
func (i *Identity) take(ca, pem []byte) error {
	cert, err := tls.X509KeyPair(pem, pem)
	if err != nil {
		return fmt.Errorf("the node's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return errors.New("the cluster's CA is no certificate")
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.roots, i.cert = roots, &cert
	return nil
}

// save keeps what the server answered, and uses it. The certificate comes last: until it is there, the machine has not joined.
func (i *Identity) save(a *Answer) error {
	pem := append(append([]byte{}, i.key...), a.Certificate...)
	if err := i.take([]byte(a.CA), pem); err != nil {
		return fmt.Errorf("the server's answer: %w", err)
	}
	text, err := json.Marshal(saved{Server: i.Server, Node: i.Node, CA: a.CA, Cluster: a.Cluster})
	if err != nil {
		return err
	}
	if err := pki.WriteFile(filepath.Join(i.dir, keyFile), pem, 0o600); err != nil {
		return err
	}
	return pki.WriteFile(filepath.Join(i.dir, clusterFile), text, 0o600)
}

// Certificate is the node's present one.
func (i *Identity) Certificate() *tls.Certificate {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.cert
}

// NotAfter is when the node's certificate ends.
func (i *Identity) NotAfter() time.Time { return i.Certificate().Leaf.NotAfter }

// TLS returns the configuration of connections to the server, which follows the certificates as they are renewed.
func (i *Identity) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return i.Certificate(), nil
		},
		// Verified below, by the roots of the moment.
		InsecureSkipVerify: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			i.mu.Lock()
			roots := i.roots
			i.mu.Unlock()
			return verify(c, roots)
		},
	}
}

// verify verifies the server's certificate by its own name and the roots, as crypto/tls itself does.
func verify(c tls.ConnectionState, roots *x509.CertPool) error {
	if len(c.PeerCertificates) == 0 {
		return errors.New("the server shows no certificate")
	}
	between := x509.NewCertPool()
	for _, cert := range c.PeerCertificates[1:] {
		between.AddCert(cert)
	}
	_, err := c.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, DNSName: c.ServerName, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}
