package apiserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/kebernetes/kebernetes/admission"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/meta"
	"github.com/kebernetes/kebernetes/store"
)

var noKind schema.GroupVersionKind

// create stores a new object.
func (rq *request) create() error {
	m, err := rq.accept(true)
	if err != nil {
		return err
	}
	o, err := rq.createOptions()
	if err != nil {
		return err
	}
	obj, err := rq.object(o.FieldValidation)
	if err != nil {
		return err
	}
	w := rq.writeOf(o.FieldManager, o.DryRun)
	w.name = obj.GetName()
	if err := w.place(obj); err != nil {
		return err
	}
	item, err := rq.s.create(rq.ctx, w, obj)
	if err != nil {
		return err
	}
	return rq.answerItem(http.StatusCreated, item, m)
}

// generateTries is how often a generated name is drawn before the client is told to try again; upstream's number.
const generateTries = 8

// create stores a new object, which it owns.
func (s *Server) create(ctx context.Context, w *write, obj kinds.Object) (*store.Item, error) {
	if obj.GetResourceVersion() != "" {
		return nil, errors.New("resourceVersion should not be set on objects to be created")
	}
	if w.name != "" || obj.GetGenerateName() == "" {
		return s.createNamed(ctx, w, obj)
	}
	for try := 1; ; try++ {
		draft := obj
		if try < generateTries {
			draft = obj.DeepCopyObject().(kinds.Object)
		}
		draft.SetName(generateName(obj.GetGenerateName()))
		w.name = draft.GetName()
		item, err := s.createNamed(ctx, w, draft)
		if !apierrors.IsAlreadyExists(err) {
			return item, err
		}
		if try == generateTries {
			return nil, apierrors.NewGenerateNameConflict(w.kind.GroupResource(), w.name, 1)
		}
	}
}

const (
	// nameLimit is what a generated name is cut to, so that it can be a DNS label.
	nameLimit   = 63
	suffixSize  = 5
	suffixRunes = "bcdfghjklmnpqrstvwxz2456789" // no vowels, nothing that reads like another
)

func generateName(base string) string {
	if len(base) > nameLimit-suffixSize {
		base = base[:nameLimit-suffixSize]
	}
	b := append(make([]byte, 0, len(base)+suffixSize), base...)
	for range suffixSize {
		b = append(b, suffixRunes[rand.IntN(len(suffixRunes))])
	}
	return string(b)
}

func (s *Server) createNamed(ctx context.Context, w *write, obj kinds.Object) (*store.Item, error) {
	dedupOwners(obj, w.warn)
	obj, err := s.trackNew(w, obj)
	if err != nil {
		return nil, err
	}
	ar := w.admissionRequest(admission.Create, obj, nil)
	if err := s.Admission.Mutate(ctx, ar); err != nil {
		return nil, err
	}
	obj = ar.Object
	if w.kind.Default != nil {
		w.kind.Default(obj)
	}
	s.stampNew(w.kind, obj)
	errs := meta.Validate(obj, w.kind)
	if w.kind.Validate != nil {
		errs = append(errs, w.kind.Validate(obj)...)
	}
	if len(errs) > 0 {
		return nil, invalid(w.kind.GroupKind(), obj.GetName(), errs)
	}
	w.warnings(obj, nil)
	release, err := s.addresses.Create(w.kind, obj, w.dryRun)
	if err != nil {
		return nil, err
	}
	defer release()
	ar.Object = obj
	if err := s.Admission.Validate(ctx, ar); err != nil {
		return nil, err
	}
	return s.commitNew(ctx, w, obj)
}

// stampNew gives a new object what the server alone may, and takes away what a client may not give.
func (s *Server) stampNew(k *kinds.Kind, obj kinds.Object) {
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
	obj.SetUID(uuid.NewUUID())
	obj.SetCreationTimestamp(metav1.NewTime(s.now()))
	if k.HasGeneration {
		obj.SetGeneration(1)
	}
	if k.PrepareCreate != nil {
		k.PrepareCreate(obj)
	}
}

func (s *Server) commitNew(ctx context.Context, w *write, obj kinds.Object) (*store.Item, error) {
	k := store.Key{Resource: w.kind.StorageResource().String(), Namespace: obj.GetNamespace(), Name: obj.GetName()}
	if w.dryRun {
		if found := s.Store.Snapshot().Get(k); found != nil {
			return nil, alreadyExists(w.kind, found.Object, k.Name)
		}
		return &store.Item{Key: k, Object: obj}, nil
	}
	res := s.Store.Commit(ctx, store.Write{Key: k, Object: obj})[0]
	switch {
	case res.Err == nil:
		return res.Item, nil
	case errors.Is(res.Err, store.ErrExists):
		var found store.Object
		if res.Item != nil {
			found = res.Item.Object
		}
		return nil, alreadyExists(w.kind, found, k.Name)
	}
	return nil, fmt.Errorf("create %s %s: %w", w.kind.Resource, k.Name, res.Err)
}
