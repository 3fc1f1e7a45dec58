package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func request(t *testing.T, signer, name, group string, template x509.CertificateRequest, usages ...certificatesv1.KeyUsage) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.Subject = pkix.Name{CommonName: name, Organization: []string{group}}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: signer, Usages: usages, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
	}}
}

// Each signer signs only what it is for, and only some of that needs nobody's approval.
func TestWhatIsSigned(t *testing.T) {
	const (
		client, server, sign, encipher, any = certificatesv1.UsageClientAuth, certificatesv1.UsageServerAuth, certificatesv1.UsageDigitalSignature,
			certificatesv1.UsageKeyEncipherment, certificatesv1.UsageAny
		user, node, serving = certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName
	)
	type uses []certificatesv1.KeyUsage
	none, dns, ip := x509.CertificateRequest{}, x509.CertificateRequest{DNSNames: []string{"n"}}, x509.CertificateRequest{IPAddresses: []net.IP{{192, 0, 2, 1}}}
	mail := x509.CertificateRequest{DNSNames: []string{"n"}, EmailAddresses: []string{"a@b"}}
	for name, c := range map[string]struct {
		signer, cn, group string
		template          x509.CertificateRequest
		uses              uses
		fails             string
		grants            int
	}{
		"user":                   {user, "ann", "dev", dns, uses{client, sign, encipher}, "", 0},
		"user as server":         {user, "ann", "dev", none, uses{client, server}, `usage "server auth" is not allowed`, 0},
		"user for anything":      {user, "ann", "dev", none, uses{client, any}, `usage "any" is not allowed`, 0},
		"user, no client":        {user, "ann", "dev", none, uses{sign}, `usages must include "client auth"`, 0},
		"node":                   {node, "system:node:n", "system:nodes", none, uses{client, sign}, "", 2},
		"node, not signing":      {node, "system:node:n", "system:nodes", none, uses{client}, `usages must include "digital signature"`, 0},
		"node with a name":       {node, "system:node:n", "system:nodes", dns, uses{client, sign}, "subjectAltNames are not allowed", 0},
		"node in another group":  {node, "system:node:n", "dev", none, uses{client, sign}, "subject organization is not system:nodes", 0},
		"node that is a user":    {node, "ann", "system:nodes", none, uses{client, sign}, "subject common name does not begin with system:node:", 0},
		"serving":                {serving, "system:node:n", "system:nodes", ip, uses{server, sign}, "", 0},
		"serving nothing":        {serving, "system:node:n", "system:nodes", none, uses{server, sign}, "DNS or IP subjectAltName is required", 0},
		"serving with mail":      {serving, "system:node:n", "system:nodes", mail, uses{server, sign}, "email subjectAltNames are not allowed", 0},
		"serving and client":     {serving, "system:node:n", "system:nodes", dns, uses{server, sign, client}, `usage "client auth" is not allowed`, 0},
		"serving, another group": {serving, "system:node:n", "system:masters", dns, uses{server, sign}, "subject organization is not system:nodes", 0},
	} {
		r := request(t, c.signer, c.cn, c.group, c.template, c.uses...)
		r.Spec.Username = "system:node:n"
		p, err := examine(r)
		if text := errorText(err); text != c.fails {
			t.Errorf("%s: %q, want %q", name, text, c.fails)
		}
		if err == nil && (len(p.extended) != 1 || p.ttl != lifetime) {
			t.Errorf("%s: signs %+v", name, p)
		}
		if got := len(grants(r)); got != c.grants {
			t.Errorf("%s: approved by %d rights, want %d", name, got, c.grants)
		}
	}
	r := request(t, user, "ann", "dev", none, client)
	for asked, want := range map[int32]time.Duration{3600: time.Hour, 1 << 30: lifetime} {
		r.Spec.ExpirationSeconds = ptr.To(asked)
		if p, err := examine(r); err != nil || p.ttl != want {
			t.Errorf("asked for %d s, got %v, %v", asked, p.ttl, err)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A request goes an hour after it was settled, a day after nobody did, and with its certificate.
func TestEnd(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	later := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(d)) }
	is := func(kind certificatesv1.RequestConditionType, at time.Duration) certificatesv1.CertificateSigningRequestCondition {
		return certificatesv1.CertificateSigningRequestCondition{Type: kind, Status: corev1.ConditionTrue, LastUpdateTime: later(at)}
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: key.X, NotAfter: now.Add(10 * time.Minute)}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	soon := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, c := range map[string]struct {
		conditions  []certificatesv1.CertificateSigningRequestCondition
		certificate []byte
		want        time.Duration
	}{
		"pending":            {nil, nil, 24 * time.Hour},
		"approved, unsigned": {[]certificatesv1.CertificateSigningRequestCondition{is("Approved", time.Hour)}, nil, 24 * time.Hour},
		"issued":             {[]certificatesv1.CertificateSigningRequestCondition{is("Approved", 30*time.Hour)}, []byte("x"), 31 * time.Hour},
		"issued, expires":    {[]certificatesv1.CertificateSigningRequestCondition{is("Approved", 0)}, soon, 10 * time.Minute},
		"denied":             {[]certificatesv1.CertificateSigningRequestCondition{is("Denied", time.Minute)}, nil, 61 * time.Minute},
		"failed":             {[]certificatesv1.CertificateSigningRequestCondition{is("Approved", 0), is("Failed", time.Minute)}, nil, 61 * time.Minute},
	} {
		r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: later(0)}}
		r.Status.Conditions, r.Status.Certificate = c.conditions, c.certificate
		if got := end(r).Sub(now); got != c.want {
			t.Errorf("%s: ends after %v, want %v", name, got, c.want)
		}
	}
}
