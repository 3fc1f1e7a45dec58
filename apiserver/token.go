package apiserver

import (
	"context"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/kebernetes/kebernetes/admission"
	"github.com/kebernetes/kebernetes/kinds"
)

// token issues a token for a service account.
func (rq *request) token() error {
	if rq.s.Tokens == nil {
		return pathUnknown()
	}
	tr := &authenticationv1.TokenRequest{}
	kind := authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
	m, o, err := rq.posted(tr, kind)
	if err != nil {
		return err
	}
	out, err := rq.s.requestToken(rq.ctx, rq.writeOf("", o.DryRun), tr)
	if err != nil {
		return err
	}
	return rq.answerObject(http.StatusCreated, out, kind, m)
}

// requestToken checks a request for a token, lets admission look at it and has it signed.
func (s *Server) requestToken(ctx context.Context, w *write, tr *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	if err := w.place(tr); err != nil {
		return nil, err
	}
	if w.sub != nil && w.sub.DefaultBody != nil {
		w.sub.DefaultBody(tr)
	}
	account, err := s.read(w.kind, w.namespace, w.name)
	if err != nil {
		return nil, err
	}
	ar := w.admissionRequest(admission.Create, tr, nil)
	if err := s.Admission.Mutate(ctx, ar); err != nil {
		return nil, err
	}
	if w.sub != nil && w.sub.ValidateBody != nil {
		if errs := w.sub.ValidateBody(tr); len(errs) > 0 {
			return nil, invalid(w.sub.Body.GroupKind(), "", errs)
		}
	}
	if err := s.Admission.Validate(ctx, ar); err != nil {
		return nil, err
	}
	tr.TypeMeta = metav1.TypeMeta{}
	tr.Name, tr.UID, tr.CreationTimestamp = w.name, uuid.NewUUID(), metav1.NewTime(s.now())
	if err := s.Tokens.Issue(ctx, account.Object, s.boundObject(w.namespace, tr.Spec.BoundObjectRef), tr); err != nil {
		return nil, err
	}
	return tr, nil
}

// boundObject finds the object that a token is to end with, or nil.
func (s *Server) boundObject(namespace string, ref *authenticationv1.BoundObjectReference) kinds.Object {
	if ref == nil {
		return nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	k := s.Table.Kind(gvk.GroupKind())
	if k == nil {
		return nil
	}
	item := s.Store.Snapshot().Get(key(k, namespace, ref.Name))
	if item == nil {
		return nil
	}
	return item.Object
}
