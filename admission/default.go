package admission

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/store"
)

// Options are what the built-in steps need; all fields are required.
type Options struct {
	// Store is read by most steps; ResourceQuota also writes the usage that it grants.
	Store store.Store
	// Policy says who may grant roles, sign certificates, and which node a user is.
	Policy *auth.Policy
}

// Default is the list of upstream's default plugins in upstream's order
// (https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/), after two steps that upstream has in its storage
// layer: nobody grants more rights than they hold, and requests for certificates say who made them. Webhooks and policies are put in before the last, ResourceQuota.
func Default(o Options) (Chain, error) {
	security, err := podSecurity(o.Store)
	if err != nil {
		return nil, fmt.Errorf("make admission chain: %w", err)
	}
	return Chain{
		namespaceLifecycle(o.Store),
		grants(o.Policy),
		certificateRequester(),
		limitRanger(o.Store),
		serviceAccount(o.Store),
		nodeRestriction(o.Store),
		taintNodesByCondition(),
		security,
		priority(o.Store),
		defaultTolerationSeconds(),
		defaultStorageClass(o.Store),
		storageObjectInUseProtection(),
		persistentVolumeClaimResize(o.Store),
		runtimeClass(o.Store),
		certificateApproval(o.Policy),
		certificateSigning(o.Policy),
		certificateSubjectRestriction(),
		defaultIngressClass(o.Store),
		podTopologyLabels(o.Store),
		resourceQuota(o.Store),
	}, nil
}

// is says whether a request writes that resource ("pods", "deployments.apps") and subresource.
func (r *Request) is(resource, subresource string) bool {
	if r.Subresource != subresource || r.Kind == nil {
		return false
	}
	name, group, _ := strings.Cut(resource, ".")
	return r.Kind.Resource == name && r.Kind.Group == group
}

// forbid is the 403 of upstream's plugins.
func (r *Request) forbid(format string, args ...any) *apierrors.StatusError {
	name := r.Name
	if name == "" && r.Object != nil {
		name = cmp.Or(r.Object.GetName(), r.Object.GetGenerateName())
	}
	return apierrors.NewForbidden(r.resource(), cmp.Or(name, "Unknown"), fmt.Errorf(format, args...))
}

func (r *Request) resource() schema.GroupResource { return r.Kind.GroupResource() }

// newPod returns the pod that a request creates.
func (r *Request) newPod() (*corev1.Pod, bool) {
	if r.Operation != Create || !r.is("pods", "") {
		return nil, false
	}
	pod, ok := r.Object.(*corev1.Pod)
	return pod, ok
}

// named reads one object of type T from the store.
func named[T store.Object](reader store.Reader, resource, namespace, name string) (T, bool) {
	var none T
	item := reader.Snapshot().Get(store.Key{Resource: resource, Namespace: namespace, Name: name})
	if item == nil {
		return none, false
	}
	obj, ok := item.Object.(T)
	return obj, ok
}

// defaultClass finds the class that an annotation marks as the default: the newest, then the first by name, where several are marked.
func defaultClass[T store.Object](reader store.Reader, resource string, annotations ...string) (T, bool) {
	var marked []T
	for item := range reader.Snapshot().List(resource, "") {
		obj, ok := item.Object.(T)
		if ok && slices.ContainsFunc(annotations, func(a string) bool { return obj.GetAnnotations()[a] == "true" }) {
			marked = append(marked, obj)
		}
	}
	if len(marked) == 0 {
		var none T
		return none, false
	}
	return slices.MinFunc(marked, func(a, b T) int {
		return cmp.Or(b.GetCreationTimestamp().Compare(a.GetCreationTimestamp().Time), cmp.Compare(a.GetName(), b.GetName()))
	}), true
}

// joined is several refusals in one text: one as it is, more in brackets, as upstream words aggregates.
func joined(errs []error) error {
	if len(errs) < 2 {
		return errors.Join(errs...)
	}
	text := "["
	for i, err := range errs {
		if i > 0 {
			text += ", "
		}
		text += err.Error()
	}
	return errors.New(text + "]")
}
