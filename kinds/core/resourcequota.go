package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// ResourceQuota is the row of resource quotas.
func ResourceQuota() *kinds.Kind {
	return &kinds.Kind{
		Kind:       "ResourceQuota",
		Resource:   "resourcequotas",
		ShortNames: []string{"quota"},
		Namespaced: true,
		Versions:   []kinds.Version{kinds.V[corev1.ResourceQuota, corev1.ResourceQuotaList]("v1")},
		Default: kinds.On(func(q *corev1.ResourceQuota) {
			podspec.RoundUp(q.Spec.Hard)
			podspec.RoundUp(q.Status.Hard)
			podspec.RoundUp(q.Status.Used)
		}),
		PrepareCreate: kinds.On(func(q *corev1.ResourceQuota) { q.Status = corev1.ResourceQuotaStatus{} }),
		PrepareUpdate: kinds.OnUpdate(func(q, old *corev1.ResourceQuota) { q.Status = old.Status }),
		Validate:      kinds.Check(validateResourceQuota),
		ValidateUpdate: kinds.CheckUpdate(func(q, old *corev1.ResourceQuota) field.ErrorList {
			r := check.Report{Errs: validateResourceQuota(q)}
			if !sameScopes(q.Spec.Scopes, old.Spec.Scopes) {
				r.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, "field is immutable")
			}
			return r.Errs
		}),
		UnconditionalUpdate: true,
		ReturnsDeleted:      true,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Request", "string", "Request represents a minimum amount of cpu/memory that a container may consume."),
			kinds.Column("Limit", "string", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node."),
			kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(q *corev1.ResourceQuota, now metav1.Time) []any {
			var requests, limits []string
			for _, name := range podspec.SortedNames(q.Status.Hard) {
				hard, used := q.Status.Hard[name], q.Status.Used[name]
				text := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
				if strings.HasPrefix(string(name), "limits.") {
					limits = append(limits, text)
				} else {
					requests = append(requests, text)
				}
			}
			return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), kinds.Age(q.CreationTimestamp, now)}
		}),
		ResetFields: map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{{
			Name:          "status",
			Verbs:         kinds.ReadWrite(),
			PrepareUpdate: kinds.OnUpdate(func(q, old *corev1.ResourceQuota) { q.Spec = old.Spec }),
			ValidateUpdate: kinds.CheckUpdate(func(q, _ *corev1.ResourceQuota) field.ErrorList {
				var r check.Report
				if q.ResourceVersion == "" {
					r.Required(field.NewPath("resourceVersion"), "")
				}
				quotaAmounts(&r, field.NewPath("status", "hard"), q.Status.Hard)
				quotaAmounts(&r, field.NewPath("status", "used"), q.Status.Used)
				return r.Errs
			}),
			ResetFields: map[string][]string{"v1": {"spec"}},
		}},
	}
}

func sameScopes(a, b []corev1.ResourceQuotaScope) bool {
	set := func(list []corev1.ResourceQuotaScope) []corev1.ResourceQuotaScope {
		return slices.Compact(slices.Sorted(slices.Values(list)))
	}
	return slices.Equal(set(a), set(b))
}

// podQuota lists the resources of which pods have some, by which quotas with scopes may count.
func podQuota() []corev1.ResourceName {
	return []corev1.ResourceName{
		corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
	}
}

// isQuotaResource tells names without a domain that a quota knows.
func isQuotaResource(name corev1.ResourceName) bool {
	if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix) {
		return true
	}
	return slices.Contains(podQuota(), name) || slices.Contains([]corev1.ResourceName{
		corev1.ResourceEphemeralStorage, corev1.ResourceRequestsStorage, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsEphemeralStorage, corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices,
		corev1.ResourceReplicationControllers, corev1.ResourceSecrets, corev1.ResourcePersistentVolumeClaims,
		corev1.ResourceConfigMaps, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
	}, name)
}

func quotaAmounts(r *check.Report, at *field.Path, list corev1.ResourceList) {
	for _, name := range podspec.SortedNames(list) {
		at := at.Key(string(name))
		if !strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix) {
			r.Add(podspec.ValidateResourceName(name, at)...)
		}
		if !strings.Contains(string(name), "/") && !isQuotaResource(name) {
			r.Invalid(at, string(name), "must be a standard resource for quota")
		}
		r.Add(podspec.ValidateQuantity(name, list[name], at)...)
	}
}

func validateResourceQuota(q *corev1.ResourceQuota) field.ErrorList {
	var r check.Report
	spec := field.NewPath("spec")
	quotaAmounts(&r, spec.Child("hard"), q.Spec.Hard)
	scopes := q.Spec.Scopes
	for _, s := range scopes {
		quotaScope(&r, spec.Child("scopes"), spec.Child("scopes"), s, scopes, q.Spec.Hard, scopes)
	}
	conflictingScopes(&r, spec.Child("scopes"), scopes, scopes)
	if q.Spec.ScopeSelector != nil {
		scopeSelector(&r, spec.Child("scopeSelector", "matchExpressions"), &q.Spec)
	}
	return r.Errs
}

// quotaScope checks that a scope is known, and selects objects that have the resources of the quota.
func quotaScope(r *check.Report, known, fits *field.Path, s corev1.ResourceQuotaScope, knownValue any, hard corev1.ResourceList, fitsValue any) {
	standard := []corev1.ResourceQuotaScope{
		corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
		corev1.ResourceQuotaScopeVolumeAttributesClass,
	}
	if !slices.Contains(standard, s) {
		r.Invalid(known, knownValue, "unsupported scope")
		return
	}
	for _, name := range podspec.SortedNames(hard) {
		if isQuotaResource(name) && !scopeCounts(s, name) {
			r.Invalid(fits, fitsValue, "unsupported scope applied to resource")
		}
	}
}

func scopeCounts(s corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	switch s {
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	}
	return name == corev1.ResourcePods || slices.Contains(podQuota(), name)
}

func conflictingScopes(r *check.Report, at *field.Path, scopes []corev1.ResourceQuotaScope, value any) {
	for _, pair := range [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if slices.Contains(scopes, pair[0]) && slices.Contains(scopes, pair[1]) {
			r.Invalid(at, value, "conflicting scopes")
		}
	}
}

func scopeSelector(r *check.Report, at *field.Path, spec *corev1.ResourceQuotaSpec) {
	var scopes []corev1.ResourceQuotaScope
	for _, e := range spec.ScopeSelector.MatchExpressions {
		scopes = append(scopes, e.ScopeName)
		quotaScope(r, at.Child("scopeName"), at, e.ScopeName, e.ScopeName, spec.Hard, podspec.Dump(spec.ScopeSelector))
		switch e.ScopeName {
		case corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating,
			corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
			if e.Operator != corev1.ScopeSelectorOpExists {
				r.Invalid(at.Child("operator"), e.Operator, "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, "+
					"ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or "+
					"ResourceQuotaScopeCrossNamespacePodAffinity")
			}
		}
		switch e.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(e.Values) == 0 {
				r.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(e.Values) > 0 {
				r.Invalid(at.Child("values"), e.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector")
			}
		default:
			r.Invalid(at.Child("operator"), e.Operator, "not a valid selector operator")
		}
	}
	conflictingScopes(r, at, scopes, spec.Scopes)
}
