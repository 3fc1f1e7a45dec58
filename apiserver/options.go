package apiserver

import (
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/apiserver/wire"
	"github.com/kebernetes/kebernetes/kinds"
)

// options reads the options of a verb from the query, and checks them. kind names them in errors.
func options[O any](rq *request, kind string, read func(*url.Values, *O, conversion.Scope) error, check func(*O) field.ErrorList) (o O, err error) {
	if q := rq.values(); len(q) > 0 {
		if err := read(&q, &o, nil); err != nil {
			return o, apierrors.NewBadRequest(err.Error())
		}
	}
	if errs := check(&o); len(errs) > 0 {
		return o, invalidOptions(kind, errs)
	}
	return o, nil
}

func (rq *request) createOptions() (metav1.CreateOptions, error) {
	return options(rq, "CreateOptions", metav1.Convert_url_Values_To_v1_CreateOptions, metav1validation.ValidateCreateOptions)
}

func (rq *request) updateOptions() (metav1.UpdateOptions, error) {
	return options(rq, "UpdateOptions", metav1.Convert_url_Values_To_v1_UpdateOptions, metav1validation.ValidateUpdateOptions)
}

func (rq *request) patchOptions(pt types.PatchType) (metav1.PatchOptions, error) {
	return options(rq, "PatchOptions", metav1.Convert_url_Values_To_v1_PatchOptions, func(o *metav1.PatchOptions) field.ErrorList {
		return metav1validation.ValidatePatchOptions(o, pt)
	})
}

// object decodes the body of a write, an object of the request's kind, into the form in which it is kept.
func (rq *request) object(directive string) (kinds.Object, error) {
	obj := rq.served.New()
	if err := rq.decode(obj, rq.kindOf(), directive); err != nil {
		return nil, err
	}
	return toStorage(rq.kind, rq.served, obj)
}

// posted decodes into body what is posted to be acted on and not to be kept, which no table shows: a binding, an eviction, a
// review. Other API versions whose bodies read the same may be named.
func (rq *request) posted(body runtime.Object, wanted schema.GroupVersionKind, same ...string) (wire.Media, metav1.CreateOptions, error) {
	m, err := rq.accept(false)
	if err != nil {
		return m, metav1.CreateOptions{}, err
	}
	o, err := rq.createOptions()
	if err != nil {
		return m, o, err
	}
	return m, o, rq.decode(body, wanted, o.FieldValidation, same...)
}
