package batch

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// Upper bounds of indexed jobs. Those with very many completions may do less at once, so that their status stays small.
const (
	maxIndexedParallelism  = 100_000
	maxFailedIndexes       = 100_000
	manyCompletions        = 100_000
	maxParallelismOfMany   = 10_000
	maxFailedIndexesOfMany = 10_000
	maxManagedBy           = 63
)

func validateJob(j *batchv1.Job) field.ErrorList {
	var r check.Report
	generatedSelector(&r, j)
	r.Add(validateJobSpec(&j.Spec)...)
	if indexed(&j.Spec) && ptr.Deref(j.Spec.Completions, 0) > 0 {
		host := fmt.Sprintf("%s-%d", j.Name, *j.Spec.Completions-1)
		if len(validation.IsDNS1123Label(host)) > 0 {
			r.Invalid(field.NewPath("metadata", "name"), j.Name, "will not able to create pod with invalid DNS label: "+host)
		}
	}
	return distinct(r.Errs)
}

// distinct drops repetitions: the name of a job stands in two labels of its pods.
func distinct(errs field.ErrorList) field.ErrorList {
	var out field.ErrorList
	for _, e := range errs {
		if !slices.ContainsFunc(out, func(o *field.Error) bool { return o.Error() == e.Error() }) {
			out = append(out, e)
		}
	}
	return out
}

func indexed(spec *batchv1.JobSpec) bool {
	return ptr.Deref(spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}

// generatedSelector holds a job whose selector is not in the user's hands to exactly what prepareJob makes.
func generatedSelector(r *check.Report, j *batchv1.Job) {
	if ptr.Deref(j.Spec.ManualSelector, false) || j.Spec.Selector == nil {
		return
	}
	if j.UID == "" {
		r.Required(field.NewPath("metadata", "uid"), "")
	}
	expected := generatedLabels(j)
	for _, key := range []string{legacyControllerUID, legacyJobName, batchv1.ControllerUidLabel, batchv1.JobNameLabel} {
		at, want := field.NewPath("spec", "template", "metadata", "labels").Key(key), expected[key]
		if got, ok := j.Spec.Template.Labels[key]; !ok {
			r.Required(at, fmt.Sprintf("must be '%s'", want))
		} else if got != want {
			r.Invalid(at, j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", want))
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	if err != nil {
		return
	}
	for _, key := range []string{batchv1.ControllerUidLabel, legacyControllerUID} {
		if selector.String() == (labels.Set{key: string(j.UID)}).String() {
			return
		}
	}
	r.Invalid(field.NewPath("spec", "selector"), j.Spec.Selector, "`selector` not auto-generated")
}

func validateJobSpec(spec *batchv1.JobSpec) field.ErrorList {
	var r check.Report
	at := field.NewPath("spec")
	jobSpec(&r, at, spec)
	if spec.Selector == nil {
		r.Required(at.Child("selector"), "")
	}
	r.Selector(at.Child("selector"), spec.Selector)
	if selector, err := metav1.LabelSelectorAsSelector(spec.Selector); err == nil && !selector.Matches(labels.Set(spec.Template.Labels)) {
		r.Invalid(at.Child("template", "metadata", "labels"), spec.Template.Labels, "`selector` does not match template `labels`")
	}
	return r.Errs
}

// jobSpec checks all of a job that does not depend on its selector; so the templates of cron jobs have it checked as well.
func jobSpec(r *check.Report, at *field.Path, spec *batchv1.JobSpec) {
	check.NotNegative(r, at.Child("parallelism"), ptr.Deref(spec.Parallelism, 0))
	check.NotNegative(r, at.Child("completions"), ptr.Deref(spec.Completions, 0))
	check.NotNegative(r, at.Child("activeDeadlineSeconds"), ptr.Deref(spec.ActiveDeadlineSeconds, 0))
	check.NotNegative(r, at.Child("backoffLimit"), ptr.Deref(spec.BackoffLimit, 0))
	check.NotNegative(r, at.Child("ttlSecondsAfterFinished"), ptr.Deref(spec.TTLSecondsAfterFinished, 0))
	check.NotNegative(r, at.Child("backoffLimitPerIndex"), ptr.Deref(spec.BackoffLimitPerIndex, 0))
	if spec.MaxFailedIndexes != nil {
		check.NotNegative(r, at.Child("maxFailedIndexes"), *spec.MaxFailedIndexes)
		if spec.BackoffLimitPerIndex == nil {
			r.Required(at.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified")
		}
	}
	if m := spec.ManagedBy; m != nil {
		r.Add(validation.IsDomainPrefixedPath(at.Child("managedBy"), *m)...)
		if len(*m) > maxManagedBy {
			r.Add(field.TooLongMaxLength(at.Child("managedBy"), *m, maxManagedBy))
		}
	}
	completionMode(r, at, spec)
	if spec.PodFailurePolicy != nil {
		podFailurePolicy(r, at.Child("podFailurePolicy", "rules"), spec)
	}
	if spec.SuccessPolicy != nil {
		if indexed(spec) {
			successPolicy(r, at.Child("successPolicy", "rules"), spec)
		} else {
			r.Invalid(at.Child("successPolicy"), podspec.Dump(*spec.SuccessPolicy), "requires indexed completion mode")
		}
	}
	if p := spec.PodReplacementPolicy; p != nil {
		if spec.PodFailurePolicy != nil {
			check.OneOf(r, at.Child("podReplacementPolicy"), *p, batchv1.Failed)
		} else {
			check.OneOf(r, at.Child("podReplacementPolicy"), *p, batchv1.Failed, batchv1.TerminatingOrFailed)
		}
	}
	r.Add(podspec.ValidateTemplate(&spec.Template, at.Child("template"))...)
	restart := at.Child("template", "spec", "restartPolicy")
	switch p := spec.Template.Spec.RestartPolicy; {
	case p == corev1.RestartPolicyAlways || p == "":
		// Always may well be the default of the field and not the user's word.
		r.Required(restart, fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever))
	case p != corev1.RestartPolicyOnFailure && p != corev1.RestartPolicyNever:
		check.OneOf(r, restart, p, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	case spec.PodFailurePolicy != nil && p != corev1.RestartPolicyNever:
		r.Invalid(restart, p, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever))
	}
}

func completionMode(r *check.Report, at *field.Path, spec *batchv1.JobSpec) {
	if m := spec.CompletionMode; m != nil {
		check.OneOf(r, at.Child("completionMode"), *m, batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)
	}
	if !indexed(spec) {
		if v := spec.BackoffLimitPerIndex; v != nil {
			r.Invalid(at.Child("backoffLimitPerIndex"), *v, "requires indexed completion mode")
		}
		if v := spec.MaxFailedIndexes; v != nil {
			r.Invalid(at.Child("maxFailedIndexes"), *v, "requires indexed completion mode")
		}
		return
	}
	completions, parallelism := ptr.Deref(spec.Completions, 0), ptr.Deref(spec.Parallelism, 0)
	if spec.Completions == nil {
		r.Required(at.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion))
	}
	if parallelism > maxIndexedParallelism {
		r.Invalid(at.Child("parallelism"), parallelism,
			fmt.Sprintf("must be less than or equal to %d when completion mode is %s", maxIndexedParallelism, batchv1.IndexedCompletion))
	}
	failed := spec.MaxFailedIndexes
	if failed != nil && *failed > maxFailedIndexes {
		r.Invalid(at.Child("maxFailedIndexes"), *failed, fmt.Sprintf("must be less than or equal to %d", maxFailedIndexes))
	}
	if failed != nil && spec.Completions != nil && *failed > completions {
		r.Invalid(at.Child("maxFailedIndexes"), *failed, "must be less than or equal to completions")
	}
	if spec.BackoffLimitPerIndex == nil || completions <= manyCompletions {
		return
	}
	const ofMany = "must be less than or equal to %d when completions are above %d and used with backoff limit per index"
	if parallelism > maxParallelismOfMany {
		r.Invalid(at.Child("parallelism"), parallelism, fmt.Sprintf(ofMany, maxParallelismOfMany, manyCompletions))
	}
	if failed == nil {
		r.Required(at.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", manyCompletions))
	} else if *failed > maxFailedIndexesOfMany {
		r.Invalid(at.Child("maxFailedIndexes"), *failed, fmt.Sprintf(ofMany, maxFailedIndexesOfMany, manyCompletions))
	}
}

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	r := check.Report{Errs: distinct(validateJobSpec(&j.Spec))}
	at := field.NewPath("spec")
	completionsUpdate(&r, at.Child("completions"), &j.Spec, &old.Spec)
	r.Immutable(at.Child("selector"), j.Spec.Selector, old.Spec.Selector)
	templateUpdate(&r, at.Child("template"), &j.Spec.Template, old)
	r.Immutable(at.Child("completionMode"), j.Spec.CompletionMode, old.Spec.CompletionMode)
	if !check.Same(j.Spec.PodFailurePolicy, old.Spec.PodFailurePolicy) {
		r.Invalid(at.Child("podFailurePolicy"), podspec.Dump(j.Spec.PodFailurePolicy), apivalidation.FieldImmutableErrorMsg)
	}
	r.Immutable(at.Child("backoffLimitPerIndex"), j.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex)
	r.Immutable(at.Child("managedBy"), j.Spec.ManagedBy, old.Spec.ManagedBy)
	if !check.Same(j.Spec.SuccessPolicy, old.Spec.SuccessPolicy) {
		r.Invalid(at.Child("successPolicy"), podspec.Dump(j.Spec.SuccessPolicy), apivalidation.FieldImmutableErrorMsg)
	}
	return r.Errs
}

// completionsUpdate lets only indexed jobs grow and shrink, completions and parallelism together.
func completionsUpdate(r *check.Report, at *field.Path, spec, old *batchv1.JobSpec) {
	switch {
	case !indexed(spec):
		r.Immutable(at, spec.Completions, old.Completions)
	case check.Same(spec.Completions, old.Completions) || spec.Completions == nil:
	case !check.Same(spec.Completions, spec.Parallelism) || !check.Same(old.Completions, old.Parallelism):
		r.Invalid(at, spec.Completions, "can only be modified in tandem with spec.parallelism")
	}
}

// templateUpdate keeps the template, but for the scheduling directives and resources of a job that is suspended.
func templateUpdate(r *check.Report, at *field.Path, t *corev1.PodTemplateSpec, old *batchv1.Job) {
	before := old.Spec.Template.DeepCopy()
	halted := old.Status.StartTime == nil || hasCondition(old, batchv1.JobSuspended) && old.Status.Active == 0
	if ptr.Deref(old.Spec.Suspend, false) && halted {
		keepNodeAffinity(before, t)
		before.Spec.NodeSelector = t.Spec.NodeSelector
		before.Spec.Tolerations = t.Spec.Tolerations
		before.Spec.SchedulingGates = t.Spec.SchedulingGates
		before.Labels, before.Annotations = t.Labels, t.Annotations
		sameResources(before.Spec.Containers, t.Spec.Containers)
		sameResources(before.Spec.InitContainers, t.Spec.InitContainers)
	}
	if !check.Same(t, before) {
		r.Invalid(at, podspec.Dump(*t), apivalidation.FieldImmutableErrorMsg)
	}
}

func keepNodeAffinity(before, t *corev1.PodTemplateSpec) {
	switch a := t.Spec.Affinity; {
	case a != nil && a.NodeAffinity != nil:
		if before.Spec.Affinity == nil {
			before.Spec.Affinity = &corev1.Affinity{}
		}
		before.Spec.Affinity.NodeAffinity = a.NodeAffinity
	case before.Spec.Affinity != nil:
		before.Spec.Affinity.NodeAffinity = nil
		if a == nil && before.Spec.Affinity.PodAffinity == nil && before.Spec.Affinity.PodAntiAffinity == nil {
			before.Spec.Affinity = nil
		}
	}
}

func sameResources(before, now []corev1.Container) {
	for i := range min(len(before), len(now)) {
		before[i].Resources = now[i].Resources
	}
}

func warnJob(j, old *batchv1.Job) []string {
	if old != nil {
		return warnJobSpec(field.NewPath("spec"), &j.Spec, &old.Spec)
	}
	return append(check.PodNameWarning(j.Name), warnJobSpec(field.NewPath("spec"), &j.Spec, nil)...)
}

func warnJobSpec(at *field.Path, spec, old *batchv1.JobSpec) (out []string) {
	if indexed(spec) && ptr.Deref(spec.Completions, 0) > manyCompletions && ptr.Deref(spec.Parallelism, 0) > maxParallelismOfMany {
		out = append(out, "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, "+
			"Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
	}
	var before *corev1.PodTemplateSpec
	if old != nil {
		before = &old.Template
	}
	return append(out, podspec.TemplateWarnings(at.Child("template"), &spec.Template, before)...)
}
