package batch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// Upper bounds of the policies of a job.
const (
	maxRules         = 20
	maxConditions    = 20
	maxExitCodes     = 255
	maxIndexesLength = 64 * 1024
)

func podFailurePolicy(r *check.Report, at *field.Path, spec *batchv1.JobSpec) {
	rules := spec.PodFailurePolicy.Rules
	if len(rules) > maxRules {
		r.Add(field.TooMany(at, len(rules), maxRules))
	}
	var containers []string
	for _, c := range slices.Concat(spec.Template.Spec.Containers, spec.Template.Spec.InitContainers) {
		containers = append(containers, c.Name)
	}
	for i := range rules {
		rule, at := &rules[i], at.Index(i)
		if rule.Action == batchv1.PodFailurePolicyActionFailIndex && spec.BackoffLimitPerIndex == nil {
			r.Invalid(at.Child("action"), rule.Action, "requires the backoffLimitPerIndex to be set")
		}
		oneOfNamed(r, at.Child("action"), rule.Action, batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
			batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)
		if rule.OnExitCodes != nil {
			onExitCodes(r, at.Child("onExitCodes"), rule.OnExitCodes, containers)
		}
		if len(rule.OnPodConditions) > 0 {
			onPodConditions(r, at.Child("onPodConditions"), rule.OnPodConditions)
		}
		switch both := rule.OnExitCodes != nil; {
		case both && len(rule.OnPodConditions) > 0:
			r.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported")
		case !both && len(rule.OnPodConditions) == 0:
			r.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required")
		}
	}
}

// oneOfNamed is check.OneOfRequired, telling the valid values also when none is given.
func oneOfNamed[T ~string](r *check.Report, at *field.Path, value T, allowed ...T) {
	if value == "" {
		r.Required(at, fmt.Sprintf("valid values: %q", allowed))
		return
	}
	check.OneOf(r, at, value, allowed...)
}

func onExitCodes(r *check.Report, at *field.Path, c *batchv1.PodFailurePolicyOnExitCodesRequirement, containers []string) {
	oneOfNamed(r, at.Child("operator"), c.Operator, batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if c.ContainerName != nil && !slices.Contains(containers, *c.ContainerName) {
		r.Invalid(at.Child("containerName"), *c.ContainerName, "must be one of the container or initContainer names in the pod template")
	}
	at = at.Child("values")
	switch n := len(c.Values); {
	case n == 0:
		r.Invalid(at, c.Values, "at least one value is required")
	case n > maxExitCodes:
		r.Add(field.TooMany(at, n, maxExitCodes))
	}
	seen := map[int32]bool{}
	for i, v := range c.Values {
		if c.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && v == 0 {
			r.Invalid(at.Index(i), v, "must not be 0 for the In operator")
		}
		if seen[v] {
			r.Add(field.Duplicate(at.Index(i), v))
		}
		seen[v] = true
	}
	if !slices.IsSorted(c.Values) {
		r.Invalid(at, c.Values, "must be ordered")
	}
}

func onPodConditions(r *check.Report, at *field.Path, conditions []batchv1.PodFailurePolicyOnPodConditionsPattern) {
	if len(conditions) > maxConditions {
		r.Add(field.TooMany(at, len(conditions), maxConditions))
	}
	for i, c := range conditions {
		r.Invalid(at.Index(i).Child("type"), string(c.Type), validation.IsQualifiedName(string(c.Type))...)
		oneOfNamed(r, at.Index(i).Child("status"), c.Status, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)
	}
}

func successPolicy(r *check.Report, at *field.Path, spec *batchv1.JobSpec) {
	rules := spec.SuccessPolicy.Rules
	if len(rules) == 0 {
		r.Required(at, "at least one rules must be specified when the successPolicy is specified")
	}
	if len(rules) > maxRules {
		r.Add(field.TooMany(at, len(rules), maxRules))
	}
	completions := ptr.Deref(spec.Completions, 0)
	for i := range rules {
		rule, at := &rules[i], at.Index(i)
		if rule.SucceededCount == nil && rule.SucceededIndexes == nil {
			r.Required(at, "at least one of succeededCount or succeededIndexes must be specified")
		}
		var total int32
		if s := rule.SucceededIndexes; s != nil {
			if len(*s) > maxIndexesLength {
				r.Add(field.TooLong(at.Child("succeededIndexes"), *s, maxIndexesLength))
			}
			list, err := parseIndexes(*s, completions)
			if err != nil {
				r.Invalid(at.Child("succeededIndexes"), *s, "error parsing succeededIndexes: "+err.Error())
			}
			total = count(list)
		}
		n := rule.SucceededCount
		if n == nil {
			continue
		}
		check.NotNegative(r, at.Child("succeededCount"), *n)
		if spec.Completions != nil && *n > completions {
			r.Invalid(at.Child("succeededCount"), *n,
				fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions))
		}
		if rule.SucceededIndexes != nil && *n > total {
			r.Invalid(at.Child("succeededCount"), *n,
				fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total))
		}
	}
}

// interval is a run of indexes, both ends included.
type interval struct{ first, last int32 }

func count(list []interval) (n int32) {
	for _, i := range list {
		n += i.last - i.first + 1
	}
	return n
}

// parseIndexes reads "1,3-5,7", whose numbers rise and stay below completions.
func parseIndexes(s string, completions int32) ([]interval, error) {
	if s == "" {
		return nil, nil
	}
	var out []interval
	for part := range strings.SplitSeq(s, ",") {
		ends := strings.Split(part, "-")
		if len(ends) > 2 {
			return nil, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", part)
		}
		var numbers []int32
		for _, e := range ends {
			n, err := strconv.ParseInt(e, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("cannot convert string to integer for index: %q", e)
			}
			if n >= int64(completions) {
				return nil, fmt.Errorf("too large index: %q", e)
			}
			numbers = append(numbers, int32(n))
		}
		next := interval{numbers[0], numbers[len(numbers)-1]}
		if len(numbers) == 2 && next.first >= next.last {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", next.first, next.last)
		}
		if len(out) > 0 && out[len(out)-1].last >= next.first {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", out[len(out)-1].last, next.first)
		}
		out = append(out, next)
	}
	return out, nil
}

// overlap tells whether two ascending lists share an index.
func overlap(a, b []interval) bool {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].last < b[0].first:
			a = a[1:]
		case b[0].last < a[0].first:
			b = b[1:]
		default:
			return true
		}
	}
	return false
}
