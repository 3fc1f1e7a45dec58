package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// Patch is a change told as a difference.
type Patch struct {
	// Scheme knows the kinds that a patch may wrongly turn an object into, for the texts of errors.
	Scheme *runtime.Scheme
	Type   types.PatchType
	Data   []byte
	// Directive says what becomes of unknown fields: the fieldValidation parameter.
	Directive string
	Warn      func(string)
}

// PatchType reads how a patch is meant from its media type. Custom resources have no strategic merge.
func PatchType(contentType string, custom bool) (types.PatchType, error) {
	t, _, err := mime.ParseMediaType(contentType)
	if err == nil {
		switch pt := types.PatchType(t); pt {
		case types.JSONPatchType, types.MergePatchType, types.ApplyYAMLPatchType:
			return pt, nil
		case types.StrategicMergePatchType:
			if custom {
				return "", unsupportedPatch("the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml", nil)
			}
			return pt, nil
		}
	}
	return "", unsupportedPatch("415: Unsupported Media Type", &metav1.StatusDetails{})
}

func unsupportedPatch(text string, details *metav1.StatusDetails) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: text, Details: details,
	}}
}

// Apply patches an object given as JSON, and decodes the result into obj.
func (p *Patch) Apply(current []byte, obj runtime.Object, wanted schema.GroupVersionKind) error {
	switch p.Type {
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

// maxCopied is how many bytes the copy operations of a JSON patch may add together; upstream's limit. Without one, a few
// dozen operations that double a field would fill the memory.
const maxCopied = 3 << 20

// limitCopies sets the limit, which the library takes from nowhere but a variable of its own.
var limitCopies = sync.OnceFunc(func() { jsonpatch.AccumulatedCopySizeLimit = maxCopied })

// maxNested bounds levels of nesting times bytes: the library holds a copy of the rest at each level that a patch leads through.
const maxNested = 128 << 20

func tooDeep(levels int, current, patch []byte) error {
	if levels*(len(current)+len(patch)) > maxNested {
		return apierrors.NewRequestEntityTooLargeError("the JSON patch is nested too deeply for its size")
	}
	return nil
}

// deepest is how many levels the operations of a patch lead through at most.
func deepest(ops []jsonPatchOp) (levels int) {
	for _, op := range ops {
		levels = max(levels, strings.Count(op.Path, "/")+depth(op.Value), strings.Count(op.From, "/"))
	}
	return levels
}

func depth(value any) (levels int) {
	switch v := value.(type) {
	case map[string]any:
		for _, member := range v {
			levels = max(levels, 1+depth(member))
		}
	case []any:
		for _, element := range v {
			levels = max(levels, 1+depth(element))
		}
	}
	return levels
}

// jsonPatchOp is one operation of a JSON patch (RFC 6902).
type jsonPatchOp struct {
	Op    string `json:"op"`
	From  string `json:"from"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

func (p *Patch) applyOperations(current []byte) (patched []byte, strict []error, err error) {
	var ops []jsonPatchOp
	if strict, err = kjson.UnmarshalStrict(p.Data, &ops); err != nil {
		text := strings.ReplaceAll(err.Error(), "wire.jsonPatchOp", "handlers.jsonPatchOp")
		return nil, nil, apierrors.NewBadRequest("error decoding patch: " + text)
	}
	if len(ops) > maxOperations {
		return nil, nil, apierrors.NewRequestEntityTooLargeError(
			fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxOperations, len(ops)))
	}
	if err := tooDeep(deepest(ops), current, p.Data); err != nil {
		return nil, nil, err
	}
	limitCopies()
	decoded, err := jsonpatch.DecodePatch(p.Data)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	if patched, err = decoded.Apply(current); err != nil {
		return nil, nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return patched, strict, nil
}

func (p *Patch) applyMerge(current []byte) (patched []byte, strict []error, err error) {
	if !json.Valid(p.Data) {
		return nil, nil, apierrors.NewBadRequest("invalid JSON patch")
	}
	m := map[string]any{}
	if strict, err = kjson.UnmarshalStrict(p.Data, &m); err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	if err := tooDeep(depth(m), current, p.Data); err != nil {
		return nil, nil, err
	}
	if patched, err = jsonpatch.MergePatch(current, p.Data); err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	return patched, strict, nil
}

// decodePatched decodes a patched object. What does not fit is the patch's fault.
func (p *Patch) decodePatched(patched []byte, strict []error, obj runtime.Object, wanted schema.GroupVersionKind) error {
	lenient := p.Directive == metav1.FieldValidationIgnore
	more, err := decodeJSON(obj, patched, lenient)
	strict = append(strict, more...)
	if err == nil {
		err = RightKind(obj, wanted)
	}
	if err != nil {
		return badPatch(string(patched), patchedKind(p.Scheme, patched, wanted, err))
	}
	if lenient || len(strict) == 0 {
		return nil
	}
	return p.unknownFields(string(patched), runtime.NewStrictDecodingError(strict), strict)
}

// unknownFields refuses a patch with fields that the type does not have, or warns of them.
func (p *Patch) unknownFields(shown string, all error, each []error) error {
	if p.Directive == metav1.FieldValidationStrict {
		return badPatch(shown, all)
	}
	for _, e := range each {
		p.Warn(e.Error())
	}
	return nil
}

// patchedKind says what is wrong with a patched object, which may have become one of another kind.
func patchedKind(scheme *runtime.Scheme, patched []byte, wanted schema.GroupVersionKind, err error) error {
	var head metav1.TypeMeta
	if json.Unmarshal(patched, &head) != nil {
		return err
	}
	return OtherKind(scheme, head.GroupVersionKind(), wanted, patched, JSON, err)
}

// badPatch is the answer to a patch whose result cannot be decoded. shown is what was tried.
func badPatch(shown string, err error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), shown, err.Error())})
}

// applyStrategic applies a strategic merge patch: lists merge by the keys that the Go type's tags name.
func (p *Patch) applyStrategic(current []byte, obj runtime.Object) error {
	changes := map[string]any{}
	strict, err := kjson.UnmarshalStrict(p.Data, &changes)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	if err := check.JSONQuantities(p.Data, reflect.TypeOf(obj)); err != nil {
		return badPatch(p.shown(), err)
	}
	content := map[string]any{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(current, &content); err != nil {
		return err
	}
	merged, err := strategicpatch.StrategicMergeMapPatch(content, changes, obj)
	if err != nil {
		return strategicError(err)
	}
	validate := p.Directive != metav1.FieldValidationIgnore
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(merged, obj, validate)
	if unknown, ok := runtime.AsStrictDecodingError(err); ok {
		strict, err = append(strict, unknown.Errors()...), nil
	}
	switch {
	case err != nil:
		return badPatch(p.shown(), err)
	case !validate || len(strict) == 0:
		return nil
	}
	return p.unknownFields(p.shown(), runtime.NewStrictDecodingError(strict), strict)
}

// shown is a strategic patch as the texts of errors show it. It is decoded anew, as the merge uses up what was decoded for it.
func (p *Patch) shown() string {
	changes := map[string]any{}
	_, _ = kjson.UnmarshalStrict(p.Data, &changes) // it was decoded once already
	return fmt.Sprintf("%+v", changes)
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
		return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return err
}

// Intent decodes the body of an apply to an object of obj's type, which is YAML or JSON.
func (p *Patch) Intent(obj runtime.Object) (*unstructured.Unstructured, error) {
	j, err := yaml.YAMLToJSON(p.Data)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error encoding patch: %v", err))
	}
	if p.Directive != metav1.FieldValidationIgnore {
		if _, err := yaml.YAMLToJSONStrict(p.Data); err != nil {
			if p.Directive == metav1.FieldValidationStrict {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("error strict decoding YAML: %v", err))
			}
			p.Warn(err.Error())
		}
	}
	if err := check.JSONQuantities(j, reflect.TypeOf(obj)); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	u := &unstructured.Unstructured{Object: map[string]any{}}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(j, &u.Object); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	return u, nil
}
