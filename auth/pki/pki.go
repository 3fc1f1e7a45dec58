// Package pki is the cluster's own certificate authority. On disk it keeps only what cannot be made again: the keys and
// certificates of the cluster CA and the front-proxy CA, and the keys that sign service-account tokens. Everything else
// (the server's certificate, client certificates) is signed on demand and lives in memory or in the file of its user.
// daemon, join, cli and testcluster may import it; it imports nothing else of this module.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

const (
	// caLifetime is upstream's (kubeadm's) ten years.
	caLifetime = 10 * 365 * 24 * time.Hour
	// backdate covers clocks that run behind ours.
	backdate = 5 * time.Minute
)

// Authority signs the certificates of one cluster. Safe for concurrent use.
type Authority struct {
	cluster    pair
	frontProxy pair
	signing    []crypto.Signer
}

// pair is a CA: its certificates, the signing one first, and the key of the first.
type pair struct {
	certs []*x509.Certificate
	key   crypto.Signer
}

// Open loads the authority from dir, or creates what is missing there. dir is created with mode 0700, keys are written with
// mode 0600, each file at once and completely. It fails, and changes nothing, when a file is damaged, when a key may be read
// by others than its owner, when a certificate has lost its key, or when a CA has expired.
//
// Files: ca.key, ca.crt, front-proxy-ca.key, front-proxy-ca.crt and service-account.key. A .crt file may hold more CA
// certificates after the first, which are trusted but do not sign; service-account.key may hold more keys after the first, whose
// tokens are accepted. That is how both are rotated.
func Open(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create pki directory: %w", err)
	}
	a := &Authority{}
	for _, ca := range []struct {
		into       *pair
		file, name string
	}{
		{&a.cluster, "ca", "kubernetes"},
		{&a.frontProxy, "front-proxy-ca", "front-proxy-ca"},
	} {
		p, err := openCA(filepath.Join(dir, ca.file), ca.name, time.Now())
		if err != nil {
			return nil, err
		}
		*ca.into = p
	}
	signing, err := openKeys(filepath.Join(dir, "service-account.key"))
	if err != nil {
		return nil, err
	}
	a.signing = signing
	return a, syncDir(dir)
}

// CA returns the PEM of the certificates that clients of the cluster trust.
func (a *Authority) CA() []byte { return encodeCerts(a.cluster.certs) }

// FrontProxyCA returns the PEM of the certificates that extension API servers trust for requests forwarded to them.
func (a *Authority) FrontProxyCA() []byte { return encodeCerts(a.frontProxy.certs) }

// Pool returns the certificates that clients and the server verify each other with.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range a.cluster.certs {
		pool.AddCert(c)
	}
	return pool
}

// Hash names the cluster CA as kubeadm does: "sha256:" and the hexadecimal digest of its public key info. A joining node that holds it
// needs no other proof that it talks to the right server.
func (a *Authority) Hash() string { return Hash(a.cluster.certs[0]) }

// Hash is the hash of any certificate's public key info, for the side that verifies.
func Hash(cert *x509.Certificate) string { return KeyHash(cert.RawSubjectPublicKeyInfo) }

// KeyHash is the hash of a public key info (DER), as Hash writes it.
func KeyHash(info []byte) string {
	sum := sha256.Sum256(info)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// SigningKeys returns the keys of service-account tokens: the first signs, all of them verify.
func (a *Authority) SigningKeys() []crypto.Signer { return a.signing }

func openCA(base, name string, now time.Time) (pair, error) {
	certFile, keyFile := base+".crt", base+".key"
	certPEM, certErr := os.ReadFile(certFile)
	if certErr != nil && !errors.Is(certErr, os.ErrNotExist) {
		return pair{}, fmt.Errorf("read certificate: %w", certErr)
	}
	if certErr == nil {
		if _, err := os.Lstat(keyFile); err != nil {
			return pair{}, fmt.Errorf("open certificate authority: %s is there, its key is not: %w", certFile, err)
		}
	}
	keys, err := openKeys(keyFile)
	if err != nil {
		return pair{}, err
	}
	if certErr != nil {
		cert, err := selfSigned(keys[0], name, now)
		if err != nil {
			return pair{}, fmt.Errorf("sign %s: %w", certFile, err)
		}
		p := pair{certs: []*x509.Certificate{cert}, key: keys[0]}
		return p, writeFile(certFile, encodeCerts(p.certs), 0o644)
	}
	certs, err := parseCerts(certPEM)
	if err != nil {
		return pair{}, fmt.Errorf("parse %s: %w", certFile, err)
	}
	if !keys[0].Public().(*ecdsa.PublicKey).Equal(certs[0].PublicKey) {
		return pair{}, fmt.Errorf("open certificate authority: %s is not the key of %s", keyFile, certFile)
	}
	if now.After(certs[0].NotAfter) {
		return pair{}, fmt.Errorf("open certificate authority: %s expired on %s", certFile, certs[0].NotAfter.Format(time.DateOnly))
	}
	return pair{certs: certs, key: keys[0]}, nil
}

func selfSigned(key crypto.Signer, name string, now time.Time) (*x509.Certificate, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		DNSNames:              []string{name},
	}
	return create(template, template, key.Public(), key)
}

// create signs template with a random serial number.
func create(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// openKeys reads the private keys of a file, or writes a new one there.
func openKeys(file string) ([]crypto.Signer, error) {
	info, err := os.Lstat(file)
	if errors.Is(err, os.ErrNotExist) {
		key, err := newKey()
		if err != nil {
			return nil, fmt.Errorf("create %s: %w", file, err)
		}
		data, err := encodeKey(key)
		if err != nil {
			return nil, fmt.Errorf("create %s: %w", file, err)
		}
		return []crypto.Signer{key}, writeFile(file, data, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("open key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open key %s: not a regular file", file)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("open key %s: mode %04o lets others read it; chmod 600 it", file, info.Mode().Perm())
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	keys, err := parseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", file, err)
	}
	return keys, nil
}

// newKey makes a P-256 key: made in microseconds, where an RSA key would take most of a start-up.
func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func encodeCerts(certs []*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// parseKeys accepts P-256 keys only, the one kind that this package makes.
func parseKeys(data []byte) ([]crypto.Signer, error) {
	var keys []crypto.Signer
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		ec, ok := key.(*ecdsa.PrivateKey)
		if !ok || ec.Curve != elliptic.P256() {
			return nil, errors.New("the key is not an ECDSA P-256 key")
		}
		keys = append(keys, ec)
	}
	if len(keys) == 0 {
		return nil, errors.New("no PEM block with a private key")
	}
	return keys, nil
}

func parseCerts(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM block with a certificate")
	}
	return certs, nil
}

// WriteFile replaces a file at once and for sure: a crash leaves the old content or the new one.
func WriteFile(file string, data []byte, mode os.FileMode) error {
	if err := writeFile(file, data, mode); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

// writeFile replaces file at once: a crash leaves the old content or the new one. The new one is sure once syncDir has been called.
func writeFile(file string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
