package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// How long requests stay, as upstream keeps them.
const (
	settledTime = time.Hour      // after approval, denial or failure
	pendingTime = 24 * time.Hour // without a decision, after creation
)

// Cleaner deletes requests whose time is over, or whose certificate is.
func Cleaner(env controller.Env) *controller.Loop {
	c := env.Client(identity)
	return env.NewLoop(c, controller.Controller{
		Name:    "certificatesigningrequest-cleaner-controller",
		Workers: 1,
		Watches: watch(c),
		Reconcile: func(ctx context.Context, key controller.Key) (time.Duration, error) {
			r, ok := client.From[*certificatesv1.CertificateSigningRequest](c, c.Snapshot(), "", key.Name)
			if !ok {
				return 0, nil
			}
			if left := time.Until(end(r)); left > 0 {
				return left, nil
			}
			err := client.Remove[*certificatesv1.CertificateSigningRequest](ctx, c, "", r.Name, metav1.DeleteOptions{
				Preconditions: &metav1.Preconditions{UID: &r.UID, ResourceVersion: &r.ResourceVersion},
			})
			if apierrors.IsNotFound(err) {
				return 0, nil
			}
			return 0, err
		},
	})
}

// end is when a request's time is over.
func end(r *certificatesv1.CertificateSigningRequest) time.Time {
	at := r.CreationTimestamp.Add(pendingTime)
	sooner := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	decided := false
	for _, t := range []certificatesv1.RequestConditionType{
		certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed,
	} {
		c := condition(r, t)
		if c == nil || t == certificatesv1.CertificateApproved && len(r.Status.Certificate) == 0 {
			continue // an approved request is pending until its certificate is there
		}
		if !decided {
			at, decided = c.LastUpdateTime.Add(settledTime), true
		}
		sooner(c.LastUpdateTime.Add(settledTime))
	}
	if block, _ := pem.Decode(r.Status.Certificate); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			sooner(cert.NotAfter)
		}
	}
	return at
}
