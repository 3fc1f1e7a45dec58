package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// uidAttribute is the subject attribute that carries a user's UID (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates).
var uidAttribute = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57683, 2}

// certificates authenticates client certificates: the common name is the user, the organizations are the groups.
type certificates struct {
	roots *x509.CertPool
	// verified holds the users of certificates whose signature was checked, as many connections show the same few.
	verified *cache[[sha256.Size]byte, verifiedCert]
}

type verifiedCert struct {
	user     *User
	notAfter time.Time
}

// authenticate verifies the chain that a client showed.
func (c *certificates) authenticate(chain []*x509.Certificate, now time.Time) (*User, error) {
	leaf := chain[0]
	sum := sha256.Sum256(leaf.Raw)
	if v, ok := c.verified.get(sum); ok && now.Before(v.notAfter) {
		return v.user, nil
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots:         c.roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("verify client certificate: %w", err)
	}
	if leaf.Subject.CommonName == "" {
		return nil, fmt.Errorf("verify client certificate: no common name")
	}
	user := &User{
		Name:   leaf.Subject.CommonName,
		Groups: withAuthenticated(leaf.Subject.Organization),
		Extra:  map[string][]string{ExtraCredentialID: {"X509SHA256=" + hex.EncodeToString(sum[:])}},
	}
	for _, name := range leaf.Subject.Names {
		if uid, ok := name.Value.(string); ok && name.Type.Equal(uidAttribute) {
			user.UID = uid
		}
	}
	notAfter := leaf.NotAfter
	for _, cert := range chains[0] {
		if cert.NotAfter.Before(notAfter) {
			notAfter = cert.NotAfter
		}
	}
	c.verified.add(sum, verifiedCert{user, notAfter})
	return user, nil
}

// withAuthenticated adds the group of all authenticated users.
func withAuthenticated(groups []string) []string {
	if slices.Contains(groups, GroupAuthenticated) {
		return groups
	}
	return append(slices.Clip(groups), GroupAuthenticated)
}
