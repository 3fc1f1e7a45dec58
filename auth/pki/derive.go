package pki

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
)

// Derive returns a 32-byte secret of the cluster for the purpose that label names (HKDF, RFC 5869, over the CA's key). It is the same on
// every server of the cluster and after every restart, until the CA's key is replaced.
func (a *Authority) Derive(label string) ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(a.cluster.key)
	if err != nil {
		return nil, fmt.Errorf("derive key %s: %w", label, err)
	}
	return hkdf.Key(sha256.New, key, nil, label, 32)
}
