package stream

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/apiserver"
)

func (s *Streams) log(w http.ResponseWriter, r *http.Request, c *apiserver.Connection) error {
	pod, err := s.pod(c.Namespace, c.Name)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	if errs := validateLogOptions(q); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, c.Name, errs)
	}
	container, err := containerOf(pod, q.Get("container"))
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		// Nothing runs, so nothing was said: upstream answers with no content.
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	q.Del("container")
	return s.toNode(w, r, pod.Spec.NodeName, fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container), q)
}

// validateLogOptions checks what core/v1 PodLogOptions says of its fields.
func validateLogOptions(q url.Values) (errs field.ErrorList) {
	number := func(name string, least int64) bool {
		v := q.Get(name)
		if v == "" {
			return false
		}
		n, err := strconv.ParseInt(v, 10, 64)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(field.NewPath(name), v, "must be an integer"))
		case n < least && least == 0:
			errs = append(errs, field.Invalid(field.NewPath(name), n, "must be greater than or equal to 0"))
		case n < least:
			errs = append(errs, field.Invalid(field.NewPath(name), n, fmt.Sprintf("must be greater than %d", least-1)))
		}
		return true
	}
	number("tailLines", 0)
	number("limitBytes", 1)
	seconds := number("sinceSeconds", 1)
	if v := q.Get("sinceTime"); v != "" {
		if _, err := time.Parse(time.RFC3339, v); err != nil {
			errs = append(errs, field.Invalid(field.NewPath("sinceTime"), v, "must be an RFC 3339 time"))
		}
		if seconds {
			errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
		}
	}
	switch v := q.Get("stream"); v {
	case "", corev1.LogStreamAll:
	case corev1.LogStreamStdout, corev1.LogStreamStderr:
		if q.Get("tailLines") != "" {
			errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
		}
	default:
		errs = append(errs, field.NotSupported(field.NewPath("stream"), v, []string{corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr}))
	}
	return errs
}
