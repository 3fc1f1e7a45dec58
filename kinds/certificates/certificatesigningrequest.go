// Package certificates holds the kinds of certificates.k8s.io. Only kinds/builtin imports it.
package certificates

import (
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// CertificateSigningRequest is the row of certificate signing requests. Who asks (spec.username, uid, groups, extra) is for
// the API server to write: only it knows.
func CertificateSigningRequest() *kinds.Kind {
	return &kinds.Kind{
		Group:      certificatesv1.GroupName,
		Kind:       "CertificateSigningRequest",
		Resource:   "certificatesigningrequests",
		ShortNames: []string{"csr"},
		Versions:   []kinds.Version{kinds.V[certificatesv1.CertificateSigningRequest, certificatesv1.CertificateSigningRequestList]("v1")},
		PrepareCreate: kinds.On(func(c *certificatesv1.CertificateSigningRequest) {
			c.Status = certificatesv1.CertificateSigningRequestStatus{}
		}),
		PrepareUpdate: kinds.OnUpdate(func(c, old *certificatesv1.CertificateSigningRequest) {
			c.Spec, c.Status = old.Spec, old.Status
		}),
		Validate:            kinds.Check(validateRequest),
		ValidateUpdate:      kinds.CheckUpdate(validateRequestUpdate(statusKept)),
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		FieldLabels:         []string{"spec.signerName"},
		Fields: kinds.Select(func(c *certificatesv1.CertificateSigningRequest) fields.Set {
			return fields.Set{"metadata.name": c.Name, "spec.signerName": c.Spec.SignerName}
		}),
		Columns:     columns(),
		Cells:       kinds.Print(cells),
		ResetFields: map[string][]string{"v1": {"spec", "status"}},
		Subresources: []kinds.Subresource{
			{
				Name:  "approval",
				Verbs: kinds.ReadWrite(),
				PrepareUpdate: kinds.OnUpdate(func(c, old *certificatesv1.CertificateSigningRequest) {
					c.Spec = old.Spec
					c.Status.Certificate = old.Status.Certificate
				}),
				Stamp:          stampConditions,
				ValidateUpdate: kinds.CheckUpdate(validateRequestUpdate(mayApprove)),
				ResetFields:    map[string][]string{"v1": {"spec", "status.certificate"}},
			},
			{
				Name:           "status",
				Verbs:          kinds.ReadWrite(),
				PrepareUpdate:  kinds.OnUpdate(func(c, old *certificatesv1.CertificateSigningRequest) { c.Spec = old.Spec }),
				Stamp:          stampConditions,
				ValidateUpdate: kinds.CheckUpdate(validateRequestUpdate(mayIssue)),
				ResetFields:    map[string][]string{"v1": {"spec"}},
			},
		},
	}
}

// stampConditions dates new conditions, and keeps the dates of those that did not change.
func stampConditions(o, before kinds.Object, now metav1.Time) {
	c, old := o.(*certificatesv1.CertificateSigningRequest), before.(*certificatesv1.CertificateSigningRequest)
	for i := range c.Status.Conditions {
		n := &c.Status.Conditions[i]
		check.Default(&n.LastUpdateTime, now)
		if !n.LastTransitionTime.IsZero() {
			continue
		}
		n.LastTransitionTime = now
		same := func(o certificatesv1.CertificateSigningRequestCondition) bool {
			return o.Type == n.Type && o.Status == n.Status && !o.LastTransitionTime.IsZero()
		}
		if i := slices.IndexFunc(old.Status.Conditions, same); i >= 0 {
			n.LastTransitionTime = old.Status.Conditions[i].LastTransitionTime
		}
	}
}

func columns() []metav1.TableColumnDefinition {
	doc := certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.AgeColumn(),
		kinds.Column("SignerName", "string", doc["signerName"]),
		kinds.Column("Requestor", "string", doc["username"]),
		kinds.Column("RequestedDuration", "string", doc["expirationSeconds"]),
		kinds.Column("Condition", "string", certificatesv1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"]),
	}
}

func cells(c *certificatesv1.CertificateSigningRequest, now metav1.Time) []any {
	signer, lifetime := kinds.None, kinds.None
	if c.Spec.SignerName != "" {
		signer = c.Spec.SignerName
	}
	if s := c.Spec.ExpirationSeconds; s != nil {
		lifetime = duration.HumanDuration(time.Duration(*s) * time.Second)
	}
	return []any{c.Name, kinds.Age(c.CreationTimestamp, now), signer, c.Spec.Username, lifetime, state(c)}
}

// state prints how far a request got: "Approved,Issued".
func state(c *certificatesv1.CertificateSigningRequest) string {
	has := func(t certificatesv1.RequestConditionType) bool {
		return slices.ContainsFunc(c.Status.Conditions, func(n certificatesv1.CertificateSigningRequestCondition) bool {
			return n.Type == t && n.Status != corev1.ConditionFalse
		})
	}
	out := "Pending"
	switch {
	case has(certificatesv1.CertificateDenied):
		out = "Denied"
	case has(certificatesv1.CertificateApproved):
		out = "Approved"
	}
	if has(certificatesv1.CertificateFailed) {
		out = fmt.Sprintf("%s,%s", out, "Failed")
	}
	if len(c.Status.Certificate) > 0 {
		out += ",Issued"
	}
	return out
}
