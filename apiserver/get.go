package apiserver

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kebernetes/kebernetes/apiserver/view"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// get answers with one object. A part of an object (status) is read as the whole of it.
func (rq *request) get() error {
	m, err := rq.accept(true)
	if err != nil {
		return err
	}
	if rv := rq.values().Get("resourceVersion"); rv != "" {
		if err := rq.s.reached(rv); err != nil {
			return err
		}
	}
	ns, name := rq.storedName()
	item, err := rq.s.read(rq.kind, ns, name)
	if err != nil {
		return err
	}
	return rq.answerItem(http.StatusOK, item, m)
}

// read returns an object as it is now.
func (s *Server) read(k *kinds.Kind, namespace, name string) (*store.Item, error) {
	item := s.Store.Snapshot().Get(key(k, namespace, name))
	if item == nil {
		return nil, notFound(k, name)
	}
	return item, nil
}

// reached checks that the store has come to a version that a client has seen.
func (s *Server) reached(resourceVersion string) error {
	rv, err := view.ParseVersion(resourceVersion)
	if err != nil {
		return apierrors.NewBadRequest("invalid resource version: " + err.Error())
	}
	if now := s.Store.Snapshot().Revision(); rv > now {
		return view.TooLarge(rv, now)
	}
	return nil
}
