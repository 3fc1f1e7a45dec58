package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// LimitRange is the row of limit ranges.
func LimitRange() *kinds.Kind {
	return &kinds.Kind{
		Kind:       "LimitRange",
		Resource:   "limitranges",
		ShortNames: []string{"limits"},
		Namespaced: true,
		Versions:   []kinds.Version{kinds.V[corev1.LimitRange, corev1.LimitRangeList]("v1")},
		Default: kinds.On(func(l *corev1.LimitRange) {
			for i := range l.Spec.Limits {
				defaultLimits(&l.Spec.Limits[i])
			}
		}),
		Validate:            kinds.Check(validateLimitRange),
		ValidateUpdate:      kinds.CheckUpdate(func(l, _ *corev1.LimitRange) field.ErrorList { return validateLimitRange(l) }),
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
	}
}

// defaultLimits derives a container's default limit from the maximum, and its default request from that or the minimum.
func defaultLimits(item *corev1.LimitRangeItem) {
	for _, list := range []corev1.ResourceList{item.Max, item.Min, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio} {
		podspec.RoundUp(list)
	}
	if item.Type != corev1.LimitTypeContainer {
		return
	}
	fill := func(to *corev1.ResourceList, from corev1.ResourceList) {
		for name, q := range from {
			if _, ok := (*to)[name]; !ok {
				if *to == nil {
					*to = corev1.ResourceList{}
				}
				(*to)[name] = q.DeepCopy()
			}
		}
	}
	fill(&item.Default, item.Max)
	fill(&item.DefaultRequest, item.Default)
	fill(&item.DefaultRequest, item.Min)
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	var r check.Report
	seen := map[corev1.LimitType]bool{}
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		limitType(&r, at.Child("type"), item.Type)
		if seen[item.Type] {
			r.Add(field.Duplicate(at.Child("type"), item.Type))
		}
		seen[item.Type] = true
		limitItem(&r, at, item)
	}
	return r.Errs
}

func limitType(r *check.Report, at *field.Path, t corev1.LimitType) {
	if bad := validation.IsQualifiedName(string(t)); len(bad) > 0 {
		r.Invalid(at, string(t), bad...)
		return
	}
	standard := []corev1.LimitType{corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim}
	if !strings.Contains(string(t), "/") && !slices.Contains(standard, t) {
		r.Invalid(at, string(t), "must be a standard limit type or fully qualified")
	}
}

func limitItem(r *check.Report, at *field.Path, item *corev1.LimitRangeItem) {
	keys := map[corev1.ResourceName]bool{}
	names := func(name string, list corev1.ResourceList) {
		for _, k := range podspec.SortedNames(list) {
			keys[k] = true
			at := at.Child(name).Key(string(k))
			if item.Type == corev1.LimitTypePod || item.Type == corev1.LimitTypeContainer {
				r.Add(podspec.ValidateContainerResourceName(k, at)...)
			} else {
				r.Add(podspec.ValidateResourceName(k, at)...)
			}
		}
	}
	names("max", item.Max)
	names("min", item.Min)
	if item.Type == corev1.LimitTypePod {
		const notForPods = "may not be specified when `type` is 'Pod'"
		if len(item.Default) > 0 {
			r.Forbidden(at.Child("default"), notForPods)
		}
		if len(item.DefaultRequest) > 0 {
			r.Forbidden(at.Child("defaultRequest"), notForPods)
		}
	} else {
		names("default", item.Default)
		names("defaultRequest", item.DefaultRequest)
	}
	if item.Type == corev1.LimitTypePersistentVolumeClaim {
		_, low := item.Min[corev1.ResourceStorage]
		_, high := item.Max[corev1.ResourceStorage]
		if !low && !high {
			r.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided")
		}
	}
	names("maxLimitRequestRatio", item.MaxLimitRequestRatio)
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		limitOrder(r, at, item, k)
	}
}

// limitOrder wants min <= default request <= default <= max of one resource.
func limitOrder(r *check.Report, at *field.Path, item *corev1.LimitRangeItem, k corev1.ResourceName) {
	above := func(name string, shown, a, b corev1.ResourceList, text string) {
		x, okX := a[k]
		y, okY := b[k]
		if okX && okY && x.Cmp(y) > 0 {
			value := shown[k]
			r.Invalid(at.Child(name).Key(string(k)), value.String(), fmt.Sprintf(text, x.String(), y.String()))
		}
	}
	low, high, limit, request := item.Min, item.Max, item.Default, item.DefaultRequest
	above("min", low, low, high, "min value %s is greater than max value %s")
	above("defaultRequest", request, low, request, "min value %s is greater than default request value %s")
	above("defaultRequest", request, request, high, "default request value %s is greater than max value %s")
	above("defaultRequest", request, request, limit, "default request value %s is greater than default limit value %s")
	above("default", low, low, limit, "min value %s is greater than default value %s")
	above("default", high, limit, high, "default value %s is greater than max value %s")
	ratio, ok := item.MaxLimitRequestRatio[k]
	if ok {
		limitRatio(r, at.Child("maxLimitRequestRatio").Key(string(k)), ratio, low[k], high[k])
	}
	x, okX := limit[k]
	y, okY := request[k]
	if okX && okY && !podspec.Overcommits(k) && x.Cmp(y) != 0 {
		r.Invalid(at.Child("defaultRequest").Key(string(k)), y.String(),
			fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", x.String(), y.String(), k))
	}
}

func limitRatio(r *check.Report, at *field.Path, ratio, low, high resource.Quantity) {
	if ratio.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) < 0 {
		r.Invalid(at, ratio.String(), fmt.Sprintf("ratio %s is less than 1", ratio.String()))
	}
	if low.IsZero() || high.IsZero() {
		return
	}
	// In milli-units both are exact where they fit; where they do not, whole units are close enough for a bound.
	whole := func(q resource.Quantity) float64 { return q.AsApproximateFloat64() }
	if most := whole(high) / whole(low); whole(ratio) > most {
		r.Invalid(at, ratio.String(), fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), most))
	}
}
