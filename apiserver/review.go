package apiserver

import (
	"context"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/admission"
	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/kinds"
)

// createVirtual answers a question put as an object: it is never stored.
func (rq *request) createVirtual() error {
	if isBinding(rq.kind) {
		return rq.bind()
	}
	obj := rq.served.New()
	m, o, err := rq.posted(obj, rq.kindOf())
	if err != nil {
		return err
	}
	obj.GetObjectKind().SetGroupVersionKind(noKind)
	w := rq.writeOf("", o.DryRun)
	if err := w.place(obj); err != nil {
		return err
	}
	ar := w.admissionRequest(admission.Create, obj, nil)
	if err := rq.s.Admission.Mutate(rq.ctx, ar); err != nil {
		return err
	}
	if err := rq.s.Admission.Validate(rq.ctx, ar); err != nil {
		return err
	}
	if err := rq.s.review(rq.ctx, rq.kind, rq.user, obj); err != nil {
		return err
	}
	return rq.answerObject(http.StatusCreated, obj, rq.kindOf(), m)
}

func isBinding(k *kinds.Kind) bool { return k.Group == "" && k.Resource == "bindings" }

// review checks a question of a user and fills in its answer.
func (s *Server) review(ctx context.Context, k *kinds.Kind, u *auth.User, obj kinds.Object) error {
	if k.Validate != nil {
		if errs := k.Validate(obj); len(errs) > 0 {
			// Upstream's texts name no kind here.
			return invalid(schema.GroupKind{Group: k.Group}, "", errs)
		}
	}
	switch r := obj.(type) {
	case *authorizationv1.SubjectAccessReview:
		r.Status = s.decide(auth.ReviewedUser(&r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	case *authorizationv1.LocalSubjectAccessReview:
		r.Status = s.decide(auth.ReviewedUser(&r.Spec), r.Spec.ResourceAttributes, nil)
	case *authorizationv1.SelfSubjectAccessReview:
		r.Status = s.decide(u, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	case *authorizationv1.SelfSubjectRulesReview:
		return s.reviewRules(u, r)
	case *authenticationv1.TokenReview:
		return s.reviewToken(ctx, r)
	case *authenticationv1.SelfSubjectReview:
		r.CreationTimestamp = metav1.NewTime(s.now())
		r.Status.UserInfo = auth.UserInfo(u)
	default:
		return methodNotAllowed()
	}
	return nil
}

// decide asks whether a user may do what a review describes.
func (s *Server) decide(u *auth.User, resource *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	allowed, reason := s.Authorizer.Authorize(auth.ReviewedAttributes(u, resource, other))
	return authorizationv1.SubjectAccessReviewStatus{Allowed: allowed, Reason: reason}
}

// reviewRules lists what a user may do in a namespace. The answer does not repeat the question.
func (s *Server) reviewRules(u *auth.User, r *authorizationv1.SelfSubjectRulesReview) error {
	if r.Spec.Namespace == "" {
		return apierrors.NewBadRequest("no namespace on request")
	}
	resource, other, incomplete := s.Authorizer.Rules(u, r.Spec.Namespace)
	r.Spec = authorizationv1.SelfSubjectRulesReviewSpec{}
	r.Status = authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    make([]authorizationv1.ResourceRule, len(resource)),
		NonResourceRules: make([]authorizationv1.NonResourceRule, len(other)),
	}
	for i, rule := range resource {
		r.Status.ResourceRules[i] = authorizationv1.ResourceRule(rule)
	}
	for i, rule := range other {
		r.Status.NonResourceRules[i] = authorizationv1.NonResourceRule(rule)
	}
	if incomplete != nil {
		r.Status.Incomplete, r.Status.EvaluationError = true, incomplete.Error()
	}
	return nil
}

// reviewToken says whom a token stands for.
func (s *Server) reviewToken(ctx context.Context, r *authenticationv1.TokenReview) error {
	if r.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	if s.Reviewer == nil {
		r.Status = authenticationv1.TokenReviewStatus{Error: "this server knows no tokens"}
		return nil
	}
	user, audiences, err := s.Reviewer.Review(ctx, r.Spec.Token, r.Spec.Audiences)
	if err != nil {
		r.Status = authenticationv1.TokenReviewStatus{Error: err.Error()}
		return nil
	}
	r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: auth.UserInfo(user), Audiences: audiences}
	return nil
}
