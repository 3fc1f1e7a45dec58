package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// status turns any error into the Status that clients see. It is the only place that does.
func status(err error) *metav1.Status {
	var api apierrors.APIStatus
	if errors.As(err, &api) {
		st := api.Status()
		if st.Status == "" {
			st.Status = metav1.StatusFailure
		}
		if st.Code == 0 {
			st.Code = http.StatusInternalServerError
		}
		return &st
	}
	st := &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}
	switch {
	case errors.Is(err, store.ErrCompacted):
		gone := apierrors.NewResourceExpired("The resourceVersion for the provided watch is too old.").Status()
		return &gone
	case errors.Is(err, store.ErrClosed):
		closing := apierrors.NewServiceUnavailable("the server is shutting down").Status()
		return &closing
	case errors.Is(err, context.DeadlineExceeded):
		late := apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0).Status()
		return &late
	}
	return st
}

// fail answers with an error. Once an answer has begun there is nothing left to say, so the stream is cut.
func (rq *request) fail(err error) {
	if rq.code != 0 {
		panic(http.ErrAbortHandler)
	}
	st := status(err)
	if st.Code >= 500 && st.Reason != metav1.StatusReasonTimeout {
		rq.s.Logger.Warn("request failed", "method", rq.r.Method, "path", rq.r.URL.Path, "error", err)
	}
	if st.Details != nil && st.Details.RetryAfterSeconds > 0 {
		rq.w.Header().Set("Retry-After", strconv.Itoa(int(st.Details.RetryAfterSeconds)))
	}
	rq.answerStatus(int(st.Code), st)
}

// generic is an error about the request itself, as opposed to an object.
func generic(code int, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message, Details: &metav1.StatusDetails{},
	}}
}

// pathUnknown is the answer to a path below a group that exists which no resource serves.
func pathUnknown() error {
	return generic(http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
}

func methodNotAllowed() error {
	return generic(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "the server does not allow this method on the requested resource")
}

func unauthorized() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnauthorized, Reason: metav1.StatusReasonUnauthorized, Message: "Unauthorized",
	}}
}

// pathNotFound is the plain answer to a path that nothing serves.
func (rq *request) pathNotFound() {
	rq.code = http.StatusNotFound
	http.NotFound(rq.w, rq.r)
}

func notFound(k *kinds.Kind, name string) error {
	return apierrors.NewNotFound(k.GroupResource(), name)
}

// conflict is the answer to a write that builds on an old state.
func conflict(k *kinds.Kind, name string) error {
	return apierrors.NewConflict(k.GroupResource(), name,
		errors.New("the object has been modified; please apply your changes to the latest version and try again"))
}

// uidConflict is the answer to an update that carries another object's uid. It names a storage key as upstream's does,
// because clients have been seen to match the whole text.
func uidConflict(k *kinds.Kind, namespace, name, wanted, found string) error {
	path := "/registry/" + k.Resource
	if namespace != "" {
		path += "/" + namespace
	}
	return apierrors.NewConflict(k.GroupResource(), name, fmt.Errorf(
		"StorageError: invalid object, Code: 4, Key: %s/%s, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: %s, UID in object meta: %s",
		path, name, wanted, found))
}

// alreadyExists is the answer to a create whose name is taken by the object found.
func alreadyExists(k *kinds.Kind, found store.Object, name string) error {
	err := apierrors.NewAlreadyExists(k.GroupResource(), name)
	if found != nil && found.GetDeletionTimestamp() != nil {
		err.ErrStatus.Message = "object is being deleted: " + err.ErrStatus.Message
	}
	return err
}

// invalid is the answer to an object that its kind refuses. What several checks found is told once.
func invalid(gk schema.GroupKind, name string, errs field.ErrorList) error {
	seen := map[string]bool{}
	var once field.ErrorList
	for _, e := range errs {
		if text := e.Error(); !seen[text] {
			seen[text] = true
			once = append(once, e)
		}
	}
	return apierrors.NewInvalid(gk, name, once)
}

// invalidOptions is the answer to wrong options ("ListOptions").
func invalidOptions(kind string, errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

// text is an error in upstream's own words, which do not always begin small or end without a full stop.
type text string

func (t text) Error() string { return string(t) }
