package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// patchOptions reads the options of a patch from the query.
func (rq *request) patchOptions(pt types.PatchType) (metav1.PatchOptions, error) {
	var o metav1.PatchOptions
	q := rq.values()
	if len(q) > 0 {
		if err := metav1.Convert_url_Values_To_v1_PatchOptions(&q, &o, nil); err != nil {
			return o, apierrors.NewBadRequest(err.Error())
		}
	}
	if errs := metav1validation.ValidatePatchOptions(&o, pt); len(errs) > 0 {
		return o, invalidOptions("PatchOptions", errs)
	}
	return o, nil
}

// patchType reads how the body is meant from its media type.
func (rq *request) patchType() (types.PatchType, error) {
	t, _, err := mime.ParseMediaType(rq.r.Header.Get("Content-Type"))
	if err == nil {
		switch pt := types.PatchType(t); pt {
		case types.JSONPatchType, types.MergePatchType, types.ApplyYAMLPatchType:
			return pt, nil
		case types.StrategicMergePatchType:
			if _, free := rq.served.New().(runtime.Unstructured); free {
				return "", &apierrors.StatusError{ErrStatus: metav1.Status{
					Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
					Message: "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
				}}
			}
			return pt, nil
		}
	}
	return "", generic(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType, "415: Unsupported Media Type")
}

// patch changes an object, or a part of it.
func (rq *request) patch() error {
	m, err := rq.accept(true)
	if err != nil {
		return err
	}
	p, o, err := rq.readPatch()
	if err != nil {
		return err
	}
	w := rq.writeOf(o.FieldManager, o.DryRun)
	if p.typ == types.ApplyYAMLPatchType {
		item, created, err := rq.s.apply(rq.ctx, w, p, o.Force != nil && *o.Force)
		if err != nil {
			return err
		}
		code := http.StatusOK
		if created {
			code = http.StatusCreated
		}
		return rq.answerItem(code, item, m)
	}
	item, err := rq.s.modify(rq.ctx, w, p.change(w))
	if err != nil {
		return err
	}
	return rq.answerItem(http.StatusOK, item, m)
}

// readPatch reads the patch that the request carries, and its options.
func (rq *request) readPatch() (*patch, *metav1.PatchOptions, error) {
	pt, err := rq.patchType()
	if err != nil {
		return nil, nil, err
	}
	o, err := rq.patchOptions(pt)
	if err != nil {
		return nil, nil, err
	}
	b, err := rq.body()
	if err != nil {
		return nil, nil, err
	}
	defer b.free()
	return &patch{typ: pt, data: append([]byte(nil), b.b...), directive: o.FieldValidation, warn: rq.warn, s: rq.s}, &o, nil
}

// patch is a change told as a difference.
type patch struct {
	s         *Server
	typ       types.PatchType
	data      []byte
	directive string // fieldValidation
	warn      func(string)
}

// change is the patch as a change of a stored object.
func (p *patch) change(w *write) change {
	fm := newForm(w.kind, w.served, formatJSON)
	wanted := w.gvkOf()
	return func(current *store.Item) (kinds.Object, error) {
		bare, err := fm.bare(current)
		if err != nil {
			return nil, err
		}
		obj := w.served.New()
		if err := p.applyTo(fm.object(nil, current.Object, bare), obj, wanted); err != nil {
			return nil, err
		}
		stored, err := toStorage(w.kind, w.served, obj)
		if err != nil {
			return nil, err
		}
		return stored, w.named(stored)
	}
}

// applyTo patches an object given as JSON, and decodes the result into obj.
func (p *patch) applyTo(current []byte, obj runtime.Object, wanted schema.GroupVersionKind) error {
	switch p.typ {
	case types.StrategicMergePatchType:
		return p.applyStrategic(current, obj)
	case types.JSONPatchType:
		patched, strict, err := p.applyOperations(current)
		if err != nil {
			return err
		}
		return p.decodePatched(patched, strict, obj, wanted)
	}
	patched, strict, err := p.applyMerge(current)
	if err != nil {
		return err
	}
	return p.decodePatched(patched, strict, obj, wanted)
}

// maxOperations is how many operations a JSON patch may have; upstream's limit.
const maxOperations = 10000

// jsonPatchOp is one operation of a JSON patch (RFC 6902).
type jsonPatchOp struct {
	Op    string `json:"op"`
	From  string `json:"from"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

func (p *patch) applyOperations(current []byte) (patched []byte, strict []error, err error) {
	var ops []jsonPatchOp
	if strict, err = kjson.UnmarshalStrict(p.data, &ops); err != nil {
		text := strings.ReplaceAll(err.Error(), "apiserver.jsonPatchOp", "handlers.jsonPatchOp")
		return nil, nil, apierrors.NewBadRequest("error decoding patch: " + text)
	}
	if len(ops) > maxOperations {
		return nil, nil, apierrors.NewRequestEntityTooLargeError(
			fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxOperations, len(ops)))
	}
	decoded, err := jsonpatch.DecodePatch(p.data)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	if patched, err = decoded.Apply(current); err != nil {
		return nil, nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", noResource, "", err.Error(), 0, false)
	}
	return patched, strict, nil
}

func (p *patch) applyMerge(current []byte) (patched []byte, strict []error, err error) {
	if !json.Valid(p.data) {
		return nil, nil, apierrors.NewBadRequest("invalid JSON patch")
	}
	m := map[string]any{}
	if strict, err = kjson.UnmarshalStrict(p.data, &m); err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	if patched, err = jsonpatch.MergePatch(current, p.data); err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	return patched, strict, nil
}

// decodePatched decodes a patched object. What does not fit is the patch's fault.
func (p *patch) decodePatched(patched []byte, strict []error, obj runtime.Object, wanted schema.GroupVersionKind) error {
	lenient := p.directive == metav1.FieldValidationIgnore
	more, err := decodeJSON(obj, patched, lenient)
	strict = append(strict, more...)
	if err == nil {
		err = rightKind(obj, wanted)
	}
	if err != nil {
		return badPatch(string(patched), p.s.patchedKind(patched, wanted, err))
	}
	if lenient || len(strict) == 0 {
		return nil
	}
	return p.unknownFields(string(patched), runtime.NewStrictDecodingError(strict), strict)
}

// unknownFields refuses a patch with fields that the type does not have, or warns of them.
func (p *patch) unknownFields(shown string, all error, each []error) error {
	if p.directive == metav1.FieldValidationStrict {
		return badPatch(shown, all)
	}
	for _, e := range each {
		p.warn(e.Error())
	}
	return nil
}

// patchedKind says what is wrong with a patched object, which may have become one of another kind.
func (s *Server) patchedKind(patched []byte, wanted schema.GroupVersionKind, err error) error {
	var head metav1.TypeMeta
	if json.Unmarshal(patched, &head) != nil {
		return err
	}
	return s.otherKind(head.GroupVersionKind(), wanted, patched, formatJSON, err)
}

// badPatch is the answer to a patch whose result cannot be decoded. shown is what was tried.
func badPatch(shown string, err error) error {
	return invalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), shown, err.Error())})
}

// applyStrategic applies a strategic merge patch: lists merge by the keys that the Go type's tags name.
func (p *patch) applyStrategic(current []byte, obj runtime.Object) error {
	changes := map[string]any{}
	strict, err := kjson.UnmarshalStrict(p.data, &changes)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	content := map[string]any{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(current, &content); err != nil {
		return err
	}
	shown := fmt.Sprintf("%+v", changes)
	merged, err := strategicpatch.StrategicMergeMapPatch(content, changes, obj)
	if err != nil {
		return strategicError(err)
	}
	validate := p.directive != metav1.FieldValidationIgnore
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(merged, obj, validate)
	if unknown, ok := runtime.AsStrictDecodingError(err); ok {
		strict, err = append(strict, unknown.Errors()...), nil
	}
	if err != nil {
		return badPatch(shown, err)
	}
	if !validate || len(strict) == 0 {
		return nil
	}
	return p.unknownFields(shown, runtime.NewStrictDecodingError(strict), strict)
}

// strategicError sorts the errors of a merge into those of the client and others.
func strategicError(err error) error {
	for _, e := range []error{
		mergepatch.ErrBadJSONDoc, mergepatch.ErrBadPatchFormatForPrimitiveList, mergepatch.ErrBadPatchFormatForRetainKeys,
		mergepatch.ErrBadPatchFormatForSetElementOrderList, mergepatch.ErrUnsupportedStrategicMergePatchFormat,
	} {
		if errors.Is(err, e) {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	if errors.Is(err, mergepatch.ErrNoListOfLists) {
		return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", noResource, "", err.Error(), 0, false)
	}
	return err
}
