package podspec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// countedResources are the kinds of objects that quotas count: resources without a domain, in whole numbers.
var countedResources = sets.New[corev1.ResourceName](
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
	corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers)

// standardResources are the other names without a domain.
var standardResources = sets.New[corev1.ResourceName](
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourceStorage, corev1.ResourceRequestsStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage)

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// isExtended tells resources of a vendor's domain, which are whole devices, from those of Kubernetes.
func isExtended(name corev1.ResourceName) bool {
	return !isNative(name) && !strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

func isNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// overcommits: may containers of a node together have more of it than there is?
func overcommits(name corev1.ResourceName) bool { return isNative(name) && !isHugePages(name) }

// SortedNames returns the names of a resource list in order, for messages that do not change from run to run.
func SortedNames(list corev1.ResourceList) []corev1.ResourceName {
	return slices.Sorted(maps.Keys(list))
}

// ValidateQuantity checks an amount of a resource: not negative, and whole where parts of one make no sense.
func ValidateQuantity(name corev1.ResourceName, q resource.Quantity, at *field.Path) field.ErrorList {
	r := &report{}
	if q.Sign() < 0 {
		r.Invalid(at, q.String(), "must be greater than or equal to 0")
	}
	if (countedResources.Has(name) || isExtended(name)) && q.MilliValue()%1000 != 0 {
		r.Invalid(at, q.String(), "must be an integer")
	}
	return r.Errs
}

// ValidateResourceName checks the name of a resource anywhere: qualified, or one that Kubernetes itself gives a meaning.
func ValidateResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	r := &report{}
	bad := validation.IsQualifiedName(string(name))
	r.Invalid(at, string(name), bad...)
	if len(bad) == 0 && !strings.Contains(string(name), "/") && !standardResources.Has(name) && !countedResources.Has(name) && !isHugePages(name) {
		r.Invalid(at, string(name), "must be a standard resource type or fully qualified")
	}
	return r.Errs
}

// containerResource checks the name and the amount of a resource that a container asks for.
func (r *report) containerResource(at *field.Path, name corev1.ResourceName, q resource.Quantity) {
	before := len(r.Errs)
	r.Add(ValidateResourceName(name, at)...)
	standard := name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage || isHugePages(name)
	switch {
	case len(r.Errs) > before && strings.Contains(string(name), "/"):
	case !strings.Contains(string(name), "/") && !standard:
		r.Invalid(at, string(name), "must be a standard resource for containers")
	case !isNative(name) && !isExtended(name):
		r.Invalid(at, string(name), "doesn't follow extended resource name standard")
	}
	r.quantity(at, name, q)
}

func (r *report) quantity(at *field.Path, name corev1.ResourceName, q resource.Quantity) {
	r.Add(ValidateQuantity(name, q, at)...)
	if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok {
		page, err := check.Quantity(size)
		if err != nil || page.Value() <= 0 || q.Value()%page.Value() != 0 {
			r.Invalid(at, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), page.String()))
		}
	}
}

func (r *report) containerRequirements(at *field.Path, res *corev1.ResourceRequirements, claims map[string]bool) {
	r.requirements(at, res, r.containerResource)
	r.claimNames(at.Child("claims"), res.Claims, claims)
}

// requirements checks limits and requests against each other, and each by check, which nil leaves at container resources.
func (r *report) requirements(at *field.Path, res *corev1.ResourceRequirements, check func(*field.Path, corev1.ResourceName, resource.Quantity)) {
	if check == nil {
		check = r.containerResource
	}
	limits, requests := at.Child("limits"), at.Child("requests")
	hugePages, base := false, false
	note := func(name corev1.ResourceName) {
		hugePages = hugePages || isHugePages(name)
		base = base || name == corev1.ResourceCPU || name == corev1.ResourceMemory
	}
	for _, name := range SortedNames(res.Limits) {
		check(limits.Key(string(name)), name, res.Limits[name])
		note(name)
	}
	for _, name := range SortedNames(res.Requests) {
		q := res.Requests[name]
		check(requests.Key(string(name)), name, q)
		note(name)
		limit, limited := res.Limits[name]
		switch {
		case !limited && !overcommits(name):
			r.Required(limits, "Limit must be set for non overcommitable resources")
		case limited && !overcommits(name) && q.Cmp(limit) != 0:
			r.Invalid(requests, q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String()))
		case limited && q.Cmp(limit) > 0:
			r.Invalid(requests, q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String()))
		}
	}
	if hugePages && !base {
		r.Forbidden(at, "HugePages require cpu or memory")
	}
}

// claimNames checks which of the pod's claims a container uses: each one whole, or by requests, but each only once.
func (r *report) claimNames(at *field.Path, claims []corev1.ResourceClaim, known map[string]bool) {
	seen := map[string]bool{}
	for i, c := range claims {
		at := at.Index(i)
		key := c.Name
		if c.Request != "" {
			key += "/" + c.Request
			r.Invalid(at.Child("request"), c.Request, validation.IsDNS1123Label(c.Request)...)
		}
		switch {
		case c.Name == "":
			r.Required(at.Child("name"), "")
			continue
		case seen[key], seen[c.Name]:
			r.Add(field.Duplicate(at, key))
		}
		seen[key] = true
		if !known[c.Name] {
			r.Add(field.NotFound(at.Child("name"), c.Name))
		}
	}
}

// resourceClaims checks the claims of a pod and returns their names.
func (r *report) resourceClaims(at *field.Path, claims []corev1.PodResourceClaim) map[string]bool {
	names := map[string]bool{}
	for i, c := range claims {
		at := at.Index(i)
		if r.Present(at.Child("name"), c.Name) {
			if names[c.Name] {
				r.Add(field.Duplicate(at.Child("name"), c.Name))
			}
			r.Invalid(at.Child("name"), c.Name, validation.IsDNS1123Label(c.Name)...)
			names[c.Name] = true
		}
		switch {
		case c.ResourceClaimName != nil && c.ResourceClaimTemplateName != nil:
			r.Invalid(at, Dump(c), "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
		case c.ResourceClaimName == nil && c.ResourceClaimTemplateName == nil:
			r.Invalid(at, Dump(c), "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
		}
		if n := c.ResourceClaimName; n != nil {
			r.Invalid(at.Child("resourceClaimName"), *n, subdomain(*n)...)
		}
		if n := c.ResourceClaimTemplateName; n != nil {
			r.Invalid(at.Child("resourceClaimTemplateName"), *n, subdomain(*n)...)
		}
	}
	return names
}

// podResources checks the resources of the whole pod: only the few that containers can share, and enough for all of them.
func (r *report) podResources(at *field.Path, spec *corev1.PodSpec) {
	res, path := spec.Resources, at.Child("resources")
	if res == nil {
		return
	}
	if len(res.Claims) > 0 {
		r.Forbidden(path.Child("claims"), "claims may not be set for Resources at pod-level")
	}
	r.requirements(path, res, func(at *field.Path, name corev1.ResourceName, q resource.Quantity) {
		r.Add(ValidateResourceName(name, at)...)
		if !resourcehelper.IsSupportedPodLevelResource(name) {
			r.Add(field.NotSupported(at, name, sets.List(resourcehelper.SupportedPodLevelResources())))
		}
		r.quantity(at, name, q)
	})
	pod := &corev1.Pod{Spec: *spec}
	sum := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range SortedNames(sum) {
		want := sum[name]
		if have, ok := res.Requests[name]; ok && want.Cmp(have) > 0 {
			r.Invalid(path.Child("requests").Key(string(name)), have.String(), fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", want.String()))
		}
	}
	eachContainer(spec, func(kind string, i int, c *corev1.Container) {
		for _, name := range SortedNames(c.Resources.Limits) {
			have := c.Resources.Limits[name]
			if limit, ok := res.Limits[name]; ok && have.Cmp(limit) > 0 {
				r.Invalid(at.Child(kind).Index(i).Child("resources", "limits"), have.String(), fmt.Sprintf("must be less than or equal to pod limits of %s", limit.String()))
			}
		}
	})
}
