package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

const (
	// lifetime is that of a certificate whose request asks for none, and the longest: the default of upstream's --cluster-signing-duration.
	lifetime = 365 * 24 * time.Hour

	nodeGroup      = "system:nodes"
	nodeUserPrefix = "system:node:"
)

// Signer signs approved requests of the cluster's own signers
// (https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers). What a signer
// must not sign it marks as failed, for good; requests of other signers are left to others.
func Signer(env controller.Env, sign Sign) *controller.Loop {
	c := env.Client(identity)
	return env.NewLoop(c, controller.Controller{
		Name:    "certificatesigningrequest-signing-controller",
		Watches: watch(c),
		Reconcile: func(ctx context.Context, key controller.Key) (time.Duration, error) {
			r, ok := client.From[*certificatesv1.CertificateSigningRequest](c, c.Snapshot(), "", key.Name)
			if !ok || !waits(r) {
				return 0, nil
			}
			done := r.DeepCopy()
			p, err := examine(r)
			if err == nil {
				done.Status.Certificate, err = sign(p.request, p.use, p.extended, p.ttl)
			}
			if err != nil {
				done.Status.Conditions = append(done.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
					Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(),
				})
			}
			_, err = client.UpdateStatus(ctx, c, done)
			return 0, err
		},
	})
}

// waits says whether it is our turn.
func waits(r *certificatesv1.CertificateSigningRequest) bool {
	return rules[r.Spec.SignerName] != nil && len(r.Status.Certificate) == 0 &&
		condition(r, certificatesv1.CertificateApproved) != nil &&
		condition(r, certificatesv1.CertificateDenied) == nil && condition(r, certificatesv1.CertificateFailed) == nil
}

// permit is what may be signed.
type permit struct {
	request  *x509.CertificateRequest
	use      x509.KeyUsage
	extended []x509.ExtKeyUsage
	ttl      time.Duration
}

// rules say what each signer signs. Read only.
var rules = map[string]func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error{
	certificatesv1.KubeAPIServerClientSignerName:        clientRule,
	certificatesv1.KubeAPIServerClientKubeletSignerName: nodeClientRule,
	certificatesv1.KubeletServingSignerName:             nodeServingRule,
}

// examine returns what a request asks for if its signer may give it.
func examine(r *certificatesv1.CertificateSigningRequest) (permit, error) {
	request, err := parse(r.Spec.Request)
	if err != nil {
		return permit{}, err
	}
	if err := rules[r.Spec.SignerName](request, r.Spec.Usages); err != nil {
		return permit{}, err
	}
	p := permit{request: request, ttl: lifetime}
	if s := r.Spec.ExpirationSeconds; s != nil {
		p.ttl = min(p.ttl, time.Duration(*s)*time.Second)
	}
	for _, u := range r.Spec.Usages {
		switch u {
		case certificatesv1.UsageDigitalSignature:
			p.use |= x509.KeyUsageDigitalSignature
		case certificatesv1.UsageKeyEncipherment:
			p.use |= x509.KeyUsageKeyEncipherment
		case certificatesv1.UsageClientAuth:
			p.extended = append(p.extended, x509.ExtKeyUsageClientAuth)
		case certificatesv1.UsageServerAuth:
			p.extended = append(p.extended, x509.ExtKeyUsageServerAuth)
		}
	}
	return p, nil
}

func parse(text []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return request, request.CheckSignature()
}

// only refuses other uses than signing, encipherment and the one that a signer is for.
func only(uses []certificatesv1.KeyUsage, must ...certificatesv1.KeyUsage) error {
	for _, u := range must {
		if !slices.Contains(uses, u) {
			return fmt.Errorf("usages must include %q", u)
		}
	}
	for _, u := range uses {
		if u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageKeyEncipherment && !slices.Contains(must, u) {
			return fmt.Errorf("usage %q is not allowed", u)
		}
	}
	return nil
}

func clientRule(_ *x509.CertificateRequest, uses []certificatesv1.KeyUsage) error {
	return only(uses, certificatesv1.UsageClientAuth)
}

func nodeClientRule(r *x509.CertificateRequest, uses []certificatesv1.KeyUsage) error {
	if err := nodeSubject(r); err != nil {
		return err
	}
	if len(r.DNSNames) > 0 || len(r.EmailAddresses) > 0 || len(r.IPAddresses) > 0 || len(r.URIs) > 0 {
		return errors.New("subjectAltNames are not allowed")
	}
	return only(uses, certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature)
}

func nodeServingRule(r *x509.CertificateRequest, uses []certificatesv1.KeyUsage) error {
	if err := nodeSubject(r); err != nil {
		return err
	}
	switch {
	case len(r.DNSNames) == 0 && len(r.IPAddresses) == 0:
		return errors.New("DNS or IP subjectAltName is required")
	case len(r.EmailAddresses) > 0:
		return errors.New("email subjectAltNames are not allowed")
	case len(r.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	return only(uses, certificatesv1.UsageServerAuth, certificatesv1.UsageDigitalSignature)
}

func nodeSubject(r *x509.CertificateRequest) error {
	if !slices.Equal(r.Subject.Organization, []string{nodeGroup}) {
		return errors.New("subject organization is not system:nodes")
	}
	if !strings.HasPrefix(r.Subject.CommonName, nodeUserPrefix) {
		return fmt.Errorf("subject common name does not begin with %s", nodeUserPrefix)
	}
	return nil
}
