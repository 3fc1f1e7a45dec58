// Package certificates holds the controllers of certificate signing requests: one approves what nodes may ask for by
// themselves, one signs what is approved, one clears away. Only daemon and testcluster import it.
package certificates

import (
	"crypto/x509"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// identity is whom all three act as: upstream's role allows them what they do.
const identity = "certificate-controller"

// Sign signs what a request asks for: its subject and alternative names for its key, for these uses alone, valid for ttl or as long
// as the authority itself. It returns PEM. Safe for concurrent use.
type Sign func(request *x509.CertificateRequest, use x509.KeyUsage, extended []x509.ExtKeyUsage, ttl time.Duration) ([]byte, error)

// Controllers returns the components of this package.
func Controllers(env controller.Env, sign Sign) []*controller.Loop {
	return []*controller.Loop{Approver(env), Signer(env, sign), Cleaner(env)}
}

func watch(c *client.Client) []controller.Watch {
	return []controller.Watch{{Resource: client.ResourceOf[*certificatesv1.CertificateSigningRequest](c), Keys: func(ev client.Event, add func(controller.Key)) {
		if ev.Type == client.Put {
			controller.Itself(ev, add)
		}
	}}}
}

// condition returns a request's condition of a type when it is in force.
func condition(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	i := slices.IndexFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type == t && c.Status != corev1.ConditionFalse
	})
	if i < 0 {
		return nil
	}
	return &r.Status.Conditions[i]
}
