package certificates

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// legacySigner is that of requests made before signers had names.
const legacySigner = "kubernetes.io/legacy-unknown"

// minLifetime is the shortest certificate that can be asked for, in seconds.
const minLifetime = 600

func usages() []certificatesv1.KeyUsage {
	return []certificatesv1.KeyUsage{
		certificatesv1.UsageAny, certificatesv1.UsageCRLSign, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth,
		certificatesv1.UsageCodeSigning, certificatesv1.UsageContentCommitment, certificatesv1.UsageDataEncipherment,
		certificatesv1.UsageDecipherOnly, certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection,
		certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel,
		certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment,
		certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning, certificatesv1.UsageSMIME,
		certificatesv1.UsageServerAuth, certificatesv1.UsageSigning, certificatesv1.UsageTimestamping,
	}
}

func validateRequest(c *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var r check.Report
	at, spec := field.NewPath("spec"), &c.Spec
	if err := parseRequest(spec.Request); err != nil {
		r.Invalid(at.Child("request"), spec.Request, err.Error())
	}
	if len(spec.Usages) == 0 {
		r.Required(at.Child("usages"), "")
	}
	valid := usages()
	slices.Sort(valid)
	seen := map[certificatesv1.KeyUsage]bool{}
	for i, u := range spec.Usages {
		check.OneOf(&r, at.Child("usages").Index(i), u, valid...)
		if seen[u] {
			r.Add(field.Duplicate(at.Child("usages").Index(i), u))
		}
		seen[u] = true
	}
	if spec.SignerName == legacySigner {
		r.Invalid(at.Child("signerName"), spec.SignerName, "the legacy signerName is not allowed via this API version")
	} else {
		signerName(&r, at.Child("signerName"), spec.SignerName)
	}
	if s := spec.ExpirationSeconds; s != nil && *s < minLifetime {
		r.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)")
	}
	conditions(&r, field.NewPath("status", "conditions"), c.Status.Conditions)
	certificate(&r, field.NewPath("status", "certificate"), c.Status.Certificate)
	return r.Errs
}

// parseRequest wants one PEM block with a certificate request that is signed with the key it asks for.
func parseRequest(text []byte) error {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	return request.CheckSignature()
}

// signerName wants "domain.example/path".
func signerName(r *check.Report, at *field.Path, name string) {
	if !r.Present(at, name) {
		return
	}
	segments := strings.Split(name, "/")
	if len(segments) != 2 {
		r.Invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
		return
	}
	domain, path := segments[0], segments[1]
	if len(domain) > validation.DNS1123SubdomainMaxLength {
		r.Add(field.TooLong(at, domain, validation.DNS1123SubdomainMaxLength))
	}
	labels := strings.Split(domain, ".")
	for _, l := range labels {
		for _, m := range validation.IsDNS1123Label(l) {
			r.Invalid(at, domain, fmt.Sprintf("validating label %q: %s", l, m))
		}
	}
	if len(labels) < 2 {
		r.Invalid(at, domain, "should be a domain with at least two segments separated by dots")
	}
	for l := range strings.SplitSeq(path, ".") {
		for _, m := range validation.IsDNS1123Subdomain(l) {
			r.Invalid(at, path, fmt.Sprintf("validating label %q: %s", l, m))
		}
	}
	// A path may be a label, a dot and a subdomain: room for "namespace.name".
	if most := validation.DNS1123SubdomainMaxLength + validation.DNS1123LabelMaxLength + 1; len(path) > most {
		r.Add(field.TooLong(at, path, most))
	}
}

func conditions(r *check.Report, at *field.Path, list []certificatesv1.CertificateSigningRequestCondition) {
	seen := map[certificatesv1.RequestConditionType]bool{}
	approved, denied := false, false
	for i, c := range list {
		at := at.Index(i)
		r.Present(at.Child("type"), string(c.Type))
		known := c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed
		switch {
		case c.Status == "":
			r.Required(at.Child("status"), "")
		case known:
			check.OneOf(r, at.Child("status"), c.Status, corev1.ConditionTrue)
		default:
			check.OneOf(r, at.Child("status"), c.Status, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)
		}
		if seen[c.Type] {
			r.Add(field.Duplicate(at.Child("type"), c.Type))
		}
		seen[c.Type] = true
		approved = approved || c.Type == certificatesv1.CertificateApproved
		denied = denied || c.Type == certificatesv1.CertificateDenied
		if approved && denied && (c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied) {
			r.Invalid(at.Child("type"), c.Type, "Approved and Denied conditions are mutually exclusive")
		}
	}
}

// certificate wants a chain of PEM certificates and nothing else; its content is never repeated in an error.
func certificate(r *check.Report, at *field.Path, text []byte) {
	if len(text) == 0 {
		return
	}
	const hidden = "<certificate data>"
	blocks := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			r.Invalid(at, hidden, fmt.Sprintf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type))
			return
		}
		if len(block.Headers) > 0 {
			r.Invalid(at, hidden, "no PEM block headers are permitted")
			return
		}
		blocks++
		if certs, err := x509.ParseCertificates(block.Bytes); err != nil {
			r.Invalid(at, hidden, err.Error())
			return
		} else if len(certs) == 0 {
			r.Invalid(at, hidden, "found CERTIFICATE PEM block containing 0 certificates")
			return
		}
	}
	if blocks == 0 {
		r.Invalid(at, hidden, "must contain at least one CERTIFICATE PEM block")
	}
}

// writer is what an update may do to the status of a request.
type writer int

const (
	statusKept writer = iota
	mayApprove
	mayIssue
)

// validateRequestUpdate lets decisions be made only by approval, and only once; certificates be issued only by status.
func validateRequestUpdate(by writer) func(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	return func(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
		r := check.Report{Errs: validateRequest(c)}
		at := field.NewPath("status", "conditions")
		of := func(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) []certificatesv1.CertificateSigningRequestCondition {
			return slices.DeleteFunc(slices.Clone(r.Status.Conditions), func(n certificatesv1.CertificateSigningRequestCondition) bool {
				return n.Type != t
			})
		}
		for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
			now, before := of(c, t), of(old, t)
			decision := t != certificatesv1.CertificateFailed
			switch {
			case len(now) < len(before):
				r.Forbidden(at, fmt.Sprintf("updates may not remove a condition of type %q", t))
			case !decision || by == mayApprove:
			case len(now) > len(before):
				r.Forbidden(at, fmt.Sprintf("updates may not add a condition of type %q", t))
			case !check.Same(now, before):
				r.Forbidden(at, fmt.Sprintf("updates may not modify a condition of type %q", t))
			}
		}
		if now, before := c.Status.Certificate, old.Status.Certificate; !bytes.Equal(now, before) {
			switch {
			case by != mayIssue:
				r.Forbidden(field.NewPath("status", "certificate"), "updates may not set certificate content")
			case len(before) > 0:
				r.Forbidden(field.NewPath("status", "certificate"), "updates may not change existing certificate content")
			}
		}
		return r.Errs
	}
}
