package admission

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/kebernetes/kebernetes/auth"
)

const signingRequests = "certificatesigningrequests.certificates.k8s.io"

// certificateRequester writes into a new request who made it, whatever the client says: signers and approvers go by that.
func certificateRequester() Step {
	return Step{Name: "CertificateRequester", Mutate: func(_ context.Context, r *Request) error {
		request, ok := r.Object.(*certificatesv1.CertificateSigningRequest)
		if !ok || r.Operation != Create || !r.is(signingRequests, "") {
			return nil
		}
		spec := &request.Spec
		spec.Username, spec.UID, spec.Groups, spec.Extra = r.User.Name, r.User.UID, slices.Clone(r.User.Groups), nil
		for key, values := range r.User.Extra {
			if spec.Extra == nil {
				spec.Extra = map[string]certificatesv1.ExtraValue{}
			}
			spec.Extra[key] = slices.Clone(values)
		}
		return nil
	}}
}

// certificateApproval: who approves a request must be allowed to approve for its signer.
func certificateApproval(policy *auth.Policy) Step {
	return Step{Name: "CertificateApproval", Validate: func(_ context.Context, r *Request) error {
		if r.Operation != Update || !r.is(signingRequests, "approval") {
			return nil
		}
		if signer := r.Old.(*certificatesv1.CertificateSigningRequest).Spec.SignerName; !forSigner(policy, r.User, "approve", signer) {
			return r.forbid("user not permitted to approve requests with signerName %q", signer)
		}
		return nil
	}}
}

// certificateSigning: who puts a certificate, or a failure, into a request must be allowed to sign for its signer.
func certificateSigning(policy *auth.Policy) Step {
	return Step{Name: "CertificateSigning", Validate: func(_ context.Context, r *Request) error {
		if r.Operation != Update || !r.is(signingRequests, "status") {
			return nil
		}
		request, old := r.Object.(*certificatesv1.CertificateSigningRequest), r.Old.(*certificatesv1.CertificateSigningRequest)
		if bytes.Equal(request.Status.Certificate, old.Status.Certificate) &&
			equality.Semantic.DeepEqual(failures(request), failures(old)) {
			return nil
		}
		if signer := old.Spec.SignerName; !forSigner(policy, r.User, "sign", signer) {
			return r.forbid("user not permitted to sign requests with signerName %q", signer)
		}
		return nil
	}}
}

func failures(r *certificatesv1.CertificateSigningRequest) []certificatesv1.CertificateSigningRequestCondition {
	return slices.DeleteFunc(slices.Clone(r.Status.Conditions), func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type != certificatesv1.CertificateFailed
	})
}

// forSigner asks for the signer itself, then for all signers of its domain.
func forSigner(policy *auth.Policy, u *auth.User, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		allowed, _ := policy.Authorize(&auth.Attributes{
			User: u, Verb: verb, IsResource: true, Group: certificatesv1.GroupName, Version: "v1", Resource: "signers", Name: name,
		})
		if allowed {
			return true
		}
	}
	return false
}

// certificateSubjectRestriction keeps the group of the all-powerful out of requests.
func certificateSubjectRestriction() Step {
	return Step{Name: "CertificateSubjectRestriction", Validate: func(_ context.Context, r *Request) error {
		request, ok := r.Object.(*certificatesv1.CertificateSigningRequest)
		if !ok || r.Operation != Create || !r.is(signingRequests, "") || request.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
			return nil
		}
		block, _ := pem.Decode(request.Spec.Request)
		if block == nil {
			return r.forbid("unable to parse CSR: PEM block type must be CERTIFICATE REQUEST")
		}
		parsed, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return r.forbid("unable to parse CSR: %v", err)
		}
		if slices.Contains(parsed.Subject.Organization, auth.GroupMasters) {
			return r.forbid("use of %s signer with %s group is not allowed", request.Spec.SignerName, auth.GroupMasters)
		}
		return nil
	}}
}
