package ingress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// defaultLifetime is how long the default certificate says that it holds. Clients do not trust it anyhow, and each start makes a new one.
const defaultLifetime = 365 * 24 * time.Hour

// certificates remembers what came of the Secrets, so that each is parsed once, and so that one that went bad still serves
// what it held before.
type certificates map[types.NamespacedName]*certificate

type certificate struct {
	secret *corev1.Secret
	usable *tls.Certificate // nil when there never was one
	err    error            // of secret as it is
}

// of returns the certificate of a Secret, nil for one that is not there. With an error, which tells what is wrong with the Secret,
// the certificate is the last good one, or nil.
func (c certificates) of(key types.NamespacedName, secret *corev1.Secret) (*tls.Certificate, error) {
	if secret == nil {
		delete(c, key)
		return nil, fmt.Errorf("secret %q does not exist", key.Name)
	}
	known := c[key]
	if known == nil {
		known = &certificate{}
		c[key] = known
	}
	if known.secret == secret {
		return known.usable, known.err
	}
	known.secret = secret
	parsed, err := parseCertificate(secret)
	known.err = err
	if err == nil {
		known.usable = parsed
	}
	return known.usable, err
}

// forget drops all Secrets but those that keep has.
func (c certificates) forget(keep map[types.NamespacedName]bool) {
	for key := range c {
		if !keep[key] {
			delete(c, key)
		}
	}
}

func parseCertificate(secret *corev1.Secret) (*tls.Certificate, error) {
	if secret.Type != corev1.SecretTypeTLS {
		// Nodes may read no others for their Ingresses.
		return nil, fmt.Errorf("secret %q is of type %s; want %s", secret.Name, secret.Type, corev1.SecretTypeTLS)
	}
	for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
		if len(secret.Data[key]) == 0 {
			return nil, fmt.Errorf("secret %q has no %s", secret.Name, key)
		}
	}
	pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, fmt.Errorf("secret %q: %w", secret.Name, err)
	}
	return &pair, nil
}

// selfSigned makes the certificate for clients that ask for a name nobody has one for.
func selfSigned(now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "keb ingress default certificate"},
		DNSNames:     []string{"ingress.local"},
		NotBefore:    now.Add(-time.Hour), // clocks differ
		NotAfter:     now.Add(defaultLifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the certificate back: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
