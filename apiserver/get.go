package apiserver

import (
	"fmt"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

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
	rv, err := parseVersion(resourceVersion)
	if err != nil {
		return apierrors.NewBadRequest("invalid resource version: " + err.Error())
	}
	if now := s.Store.Snapshot().Revision(); rv > now {
		return tooLarge(rv, now)
	}
	return nil
}

// parseVersion reads a resourceVersion; the empty one is 0.
func parseVersion(rv string) (int64, error) {
	if rv == "" || rv == "0" {
		return 0, nil
	}
	n, err := strconv.ParseUint(rv, 10, 64)
	if err != nil {
		return 0, field.Invalid(field.NewPath("resourceVersion"), rv, err.Error())
	}
	return int64(min(n, 1<<62)), nil
}

// tooLarge is the answer to a version that has not been reached.
func tooLarge(wanted, now int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", wanted, now), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return err
}
