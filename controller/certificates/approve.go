package certificates

import (
	"context"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// Approver approves requests for the client certificates of nodes, when who asks is allowed to: for itself
// (certificatesigningrequests/selfnodeclient) or for any node (certificatesigningrequests/nodeclient). All others wait for
// `kubectl certificate approve`.
func Approver(env controller.Env) *controller.Loop {
	c := env.Client(identity)
	return env.NewLoop(c, controller.Controller{
		Name:    "certificatesigningrequest-approving-controller",
		Watches: watch(c),
		Reconcile: func(ctx context.Context, key controller.Key) (time.Duration, error) {
			r, ok := client.From[*certificatesv1.CertificateSigningRequest](c, c.Snapshot(), "", key.Name)
			if !ok || condition(r, certificatesv1.CertificateApproved) != nil || condition(r, certificatesv1.CertificateDenied) != nil {
				return 0, nil
			}
			for _, grant := range grants(r) {
				allowed, err := permitted(ctx, c, r, grant.subresource)
				if err != nil {
					return 0, fmt.Errorf("review the access of %s: %w", r.Spec.Username, err)
				}
				if !allowed {
					continue
				}
				approved := r.DeepCopy()
				approved.Status.Conditions = append(approved.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
					Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: grant.message,
				})
				_, err = c.Update(ctx, client.KindOf[*certificatesv1.CertificateSigningRequest](c), "approval", approved, metav1.UpdateOptions{})
				return 0, err
			}
			return 0, nil
		},
	})
}

// grant is a right by which a request is approved, and what its approval says.
type grant struct{ subresource, message string }

// grants returns the rights that would let a request be approved without anyone's looking at it.
func grants(r *certificatesv1.CertificateSigningRequest) []grant {
	if r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	p, err := examine(r)
	if err != nil {
		return nil
	}
	var out []grant
	if r.Spec.Username == p.request.Subject.CommonName {
		out = append(out, grant{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."})
	}
	return append(out, grant{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."})
}

// permitted asks whether who made a request may create it with a subresource.
func permitted(ctx context.Context, c *client.Client, r *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for key, values := range r.Spec.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	review, err := client.Create(ctx, c, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: r.Spec.Username, UID: r.Spec.UID, Groups: r.Spec.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: certificatesv1.GroupName, Version: "*", Resource: "certificatesigningrequests", Subresource: subresource, Verb: "create",
		},
	}})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}
