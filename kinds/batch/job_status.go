package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// validateJobStatusUpdate keeps the status of a job consistent, whoever writes it: managedBy lets other controllers do so.
func validateJobStatusUpdate(j, old *batchv1.Job) field.ErrorList {
	var r check.Report
	at := field.NewPath("status")
	statusCounts(&r, at, &j.Status)
	conditionsChanged := !check.Same(j.Status.Conditions, old.Status.Conditions)
	if conditionsChanged {
		excludedConditions(&r, at.Child("conditions"), j, "Complete", batchv1.JobComplete, batchv1.JobFailed, batchv1.JobFailureTarget)
	}
	completionTime(&r, at, j, old, conditionsChanged)
	if conditionsChanged {
		neededConditions(&r, at.Child("conditions"), j)
	}
	finished(&r, at, j, old, conditionsChanged)
	indexes(&r, at, j, old)
	if conditionsChanged {
		excludedConditions(&r, at.Child("conditions"), j, "SuccessCriteriaMet", batchv1.JobSuccessCriteriaMet, batchv1.JobFailed, batchv1.JobFailureTarget)
	}
	progress(&r, at, j, old)
	return r.Errs
}

func statusCounts(r *check.Report, at *field.Path, s *batchv1.JobStatus) {
	check.NotNegative(r, at.Child("active"), s.Active)
	check.NotNegative(r, at.Child("succeeded"), s.Succeeded)
	check.NotNegative(r, at.Child("failed"), s.Failed)
	check.NotNegative(r, at.Child("ready"), ptr.Deref(s.Ready, 0))
	check.NotNegative(r, at.Child("terminating"), ptr.Deref(s.Terminating, 0))
	u := s.UncountedTerminatedPods
	if u == nil {
		return
	}
	seen := map[types.UID]bool{}
	for name, list := range map[string][]types.UID{"succeeded": u.Succeeded, "failed": u.Failed} {
		for i, uid := range list {
			at := at.Child("uncountedTerminatedPods", name).Index(i)
			if uid == "" {
				r.Invalid(at, uid, "must not be empty")
			} else if seen[uid] {
				r.Add(field.Duplicate(at, uid))
			}
			seen[uid] = true
		}
	}
}

// excludedConditions reports those of the others that stand beside the one named.
func excludedConditions(r *check.Report, at *field.Path, j *batchv1.Job, name string, one batchv1.JobConditionType, others ...batchv1.JobConditionType) {
	for _, other := range others {
		if !hasCondition(j, one) || !hasCondition(j, other) {
			continue
		}
		first, second := name, string(other)
		if one == batchv1.JobSuccessCriteriaMet {
			first, second = string(other), name
		}
		r.Invalid(at, field.OmitValueType{}, fmt.Sprintf("cannot set %s=True and %s=true conditions", first, second))
	}
}

// neededConditions wants the interim condition before the final one, so that pods are gone before the job is over.
func neededConditions(r *check.Report, at *field.Path, j *batchv1.Job) {
	needs := func(final, interim batchv1.JobConditionType) {
		if hasCondition(j, final) && !hasCondition(j, interim) {
			r.Invalid(at, field.OmitValueType{}, fmt.Sprintf("cannot set %s=True condition without the %s=true condition", final, interim))
		}
	}
	needs(batchv1.JobFailed, batchv1.JobFailureTarget)
	needs(batchv1.JobComplete, batchv1.JobSuccessCriteriaMet)
}

func completionTime(r *check.Report, at *field.Path, j, old *batchv1.Job, conditionsChanged bool) {
	at = at.Child("completionTime")
	now, before := j.Status.CompletionTime, old.Status.CompletionTime
	changed := !check.Same(now, before)
	complete := hasCondition(j, batchv1.JobComplete)
	if (changed || conditionsChanged) && now != nil && !complete {
		r.Invalid(at, now, "cannot set completionTime when there is no Complete=True condition")
	}
	if (changed || conditionsChanged) && now == nil && complete {
		r.Required(at, "completionTime is required for Complete jobs")
	}
	if start := j.Status.StartTime; changed && now != nil && start != nil && now.Before(start) {
		r.Invalid(at, now, "completionTime cannot be set before startTime")
	}
}

func finished(r *check.Report, at *field.Path, j, old *batchv1.Job, conditionsChanged bool) {
	if !hasCondition(j, batchv1.JobComplete) && !hasCondition(j, batchv1.JobFailed) {
		return
	}
	s, o := &j.Status, &old.Status
	if (conditionsChanged || s.Active != o.Active) && s.Active > 0 {
		r.Invalid(at.Child("active"), s.Active, "active>0 is invalid for finished job")
	}
	if (conditionsChanged || !check.Same(s.StartTime, o.StartTime)) && s.StartTime == nil {
		r.Required(at.Child("startTime"), "startTime is required for finished job")
	}
	u := s.UncountedTerminatedPods
	if (conditionsChanged || !check.Same(u, o.UncountedTerminatedPods)) && u != nil && len(u.Failed)+len(u.Succeeded) > 0 {
		r.Invalid(at.Child("uncountedTerminatedPods"), u, "uncountedTerminatedPods needs to be empty for finished job")
	}
}

func indexes(r *check.Report, at *field.Path, j, old *batchv1.Job) {
	s := &j.Status
	completed, failed := s.CompletedIndexes, ptr.Deref(s.FailedIndexes, "")
	completedChanged := completed != old.Status.CompletedIndexes
	failedChanged := !check.Same(s.FailedIndexes, old.Status.FailedIndexes)
	completions := ptr.Deref(j.Spec.Completions, 0)
	done, doneErr := parseIndexes(completed, completions)
	lost, lostErr := parseIndexes(failed, completions)
	if completedChanged && j.Spec.Completions != nil && doneErr != nil {
		r.Invalid(at.Child("completedIndexes"), completed, "error parsing completedIndexes: "+doneErr.Error())
	}
	if failedChanged && j.Spec.Completions != nil && lostErr != nil {
		r.Invalid(at.Child("failedIndexes"), failed, "error parsing failedIndexes: "+lostErr.Error())
	}
	if (completedChanged || failedChanged) && doneErr == nil && lostErr == nil && overlap(done, lost) {
		r.Invalid(at.Child("failedIndexes"), failed, "failedIndexes and completedIndexes overlap")
	}
	if completedChanged && completed != "" && !indexed(&j.Spec) {
		r.Invalid(at.Child("completedIndexes"), completed, "cannot set non-empty completedIndexes when non-indexed completion mode")
	}
	if failedChanged && s.FailedIndexes != nil && j.Spec.BackoffLimitPerIndex == nil {
		r.Invalid(at.Child("failedIndexes"), failed, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
	}
	if ready := s.Ready; ready != nil && *ready > s.Active && !check.Same(ready, old.Status.Ready) {
		r.Invalid(at.Child("ready"), *ready, "cannot set more ready pods than active")
	}
}

// progress lets the history of a job only grow.
func progress(r *check.Report, at *field.Path, j, old *batchv1.Job) {
	for _, t := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if hasCondition(old, t) && !hasCondition(j, t) {
			r.Invalid(at.Child("conditions"), field.OmitValueType{}, fmt.Sprintf("cannot disable the terminal %s=True condition", t))
		}
	}
	if j.Status.Failed < old.Status.Failed {
		r.Invalid(at.Child("failed"), j.Status.Failed, "cannot decrease the failed counter")
	}
	if j.Status.Succeeded < old.Status.Succeeded {
		r.Invalid(at.Child("succeeded"), j.Status.Succeeded, "cannot decrease the succeeded counter")
	}
	if before := old.Status.CompletionTime; before != nil && !check.Same(j.Status.CompletionTime, before) {
		r.Invalid(at.Child("completionTime"), j.Status.CompletionTime, "completionTime cannot be mutated")
	}
	suspended := ptr.Deref(old.Spec.Suspend, false)
	if before := old.Status.StartTime; before != nil && !suspended && !check.Same(j.Status.StartTime, before) {
		if j.Status.StartTime == nil {
			r.Required(at.Child("startTime"), "startTime cannot be removed for unsuspended job")
		} else {
			r.Invalid(at.Child("startTime"), j.Status.StartTime, "startTime cannot be updated for unsuspended job")
		}
	}
}
