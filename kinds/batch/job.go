// Package batch holds the kinds of the batch group. Only kinds/builtin imports it.
package batch

import (
	"fmt"
	"maps"
	"math"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// Labels that every pod of a job carries, in the old and the new form.
const (
	legacyControllerUID = "controller-uid"
	legacyJobName       = "job-name"
)

// Job is the row of jobs.
func Job() *kinds.Kind {
	return &kinds.Kind{
		Group:         batchv1.GroupName,
		Kind:          "Job",
		Resource:      "jobs",
		Categories:    []string{"all"},
		Namespaced:    true,
		Versions:      []kinds.Version{kinds.V[batchv1.Job, batchv1.JobList]("v1")},
		Default:       kinds.On(defaultJob),
		PrepareCreate: kinds.On(prepareJob),
		PrepareUpdate: kinds.OnUpdate(func(j, old *batchv1.Job) {
			j.Status = old.Status
			dropScheduling(j)
		}),
		Validate:            kinds.Check(validateJob),
		ValidateUpdate:      kinds.CheckUpdate(validateJobUpdate),
		Warnings:            kinds.Warn(warnJob),
		HasGeneration:       true,
		UnconditionalUpdate: true,
		OrphanByDefault:     true,
		FieldLabels:         []string{"status.successful"},
		Fields: kinds.Select(func(j *batchv1.Job) fields.Set {
			return fields.Set{
				"metadata.name": j.Name, "metadata.namespace": j.Namespace, "status.successful": strconv.Itoa(int(j.Status.Succeeded)),
			}
		}),
		Columns:     jobColumns(),
		Cells:       kinds.Print(jobCells),
		ResetFields: map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{{
			Name:           "status",
			Verbs:          kinds.ReadWrite(),
			PrepareUpdate:  kinds.OnUpdate(func(j, old *batchv1.Job) { j.Spec = old.Spec }),
			ValidateUpdate: kinds.CheckUpdate(validateJobStatusUpdate),
			ResetFields:    map[string][]string{"v1": {"spec"}},
		}},
	}
}

func defaultJob(j *batchv1.Job) {
	spec := &j.Spec
	podspec.Default(&spec.Template.Spec)
	// Neither number given means one pod; parallelism alone means a work queue, whose end the pods decide.
	if spec.Completions == nil && spec.Parallelism == nil {
		spec.Completions = ptr.To[int32](1)
	}
	check.DefaultPointer(&spec.Parallelism, 1)
	if spec.BackoffLimitPerIndex != nil {
		check.DefaultPointer(&spec.BackoffLimit, math.MaxInt32)
	}
	check.DefaultPointer(&spec.BackoffLimit, 6)
	if len(j.Labels) == 0 {
		j.Labels = maps.Clone(spec.Template.Labels)
	}
	check.DefaultPointer(&spec.CompletionMode, batchv1.NonIndexedCompletion)
	check.DefaultPointer(&spec.Suspend, false)
	check.DefaultPointer(&spec.ManualSelector, false)
	defaultFailurePolicy(spec)
	if spec.PodFailurePolicy != nil {
		check.DefaultPointer(&spec.PodReplacementPolicy, batchv1.Failed)
	}
	check.DefaultPointer(&spec.PodReplacementPolicy, batchv1.TerminatingOrFailed)
}

func defaultFailurePolicy(spec *batchv1.JobSpec) {
	if spec.PodFailurePolicy == nil {
		return
	}
	for i := range spec.PodFailurePolicy.Rules {
		for j := range spec.PodFailurePolicy.Rules[i].OnPodConditions {
			check.Default(&spec.PodFailurePolicy.Rules[i].OnPodConditions[j].Status, corev1.ConditionTrue)
		}
	}
}

// prepareJob also makes the selector, which is unique by the job's uid, unless the user took that in hand. Labels that the
// user has set against it are left for validation to refuse.
func prepareJob(j *batchv1.Job) {
	j.Status = batchv1.JobStatus{}
	dropScheduling(j)
	if ptr.Deref(j.Spec.ManualSelector, false) {
		return
	}
	t := &j.Spec.Template
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	for key, value := range generatedLabels(j) {
		if _, ok := t.Labels[key]; !ok {
			t.Labels[key] = value
		}
	}
	check.DefaultPointer(&j.Spec.Selector, metav1.LabelSelector{})
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, ok := j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !ok {
		j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(j.UID)
	}
	// A name that is no label value is refused once, for the template's sake.
	if len(j.Labels) == 0 && len(validation.IsValidLabelValue(j.Name)) == 0 {
		j.Labels = maps.Clone(t.Labels)
	}
}

// dropScheduling drops the workload-aware scheduling of jobs, which is off by default upstream.
func dropScheduling(j *batchv1.Job) { j.Spec.Scheduling = nil }

func generatedLabels(j *batchv1.Job) map[string]string {
	return map[string]string{
		legacyControllerUID: string(j.UID), batchv1.ControllerUidLabel: string(j.UID),
		legacyJobName: j.Name, batchv1.JobNameLabel: j.Name,
	}
}

func jobColumns() []metav1.TableColumnDefinition {
	columns := []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Status", "string", "Status of the job."),
		kinds.Column("Completions", "string", batchv1.JobStatus{}.SwaggerDoc()["succeeded"]),
		kinds.Column("Duration", "string", "Time required to complete the job."),
		kinds.AgeColumn(),
	}
	columns = append(columns, kinds.ContainerColumns()...)
	return append(columns, kinds.WideColumn("Selector", "string", batchv1.JobSpec{}.SwaggerDoc()["selector"]))
}

func jobCells(j *batchv1.Job, now metav1.Time) []any {
	var completions string
	switch {
	case j.Spec.Completions != nil:
		completions = fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case ptr.Deref(j.Spec.Parallelism, 0) > 1:
		completions = fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, *j.Spec.Parallelism)
	default:
		completions = fmt.Sprintf("%d/1", j.Status.Succeeded)
	}
	took := ""
	if start, end := j.Status.StartTime, j.Status.CompletionTime; start != nil {
		took = duration.HumanDuration(ptr.Deref(end, now).Sub(start.Time))
	}
	names, images := kinds.ContainerCells(j.Spec.Template.Spec.Containers)
	return []any{
		j.Name, jobState(j), completions, took, kinds.Age(j.CreationTimestamp, now), names, images, kinds.SelectorCell(j.Spec.Selector),
	}
}

// jobState is the one word for the state of a job in a table.
func jobState(j *batchv1.Job) string {
	switch {
	case hasCondition(j, batchv1.JobComplete):
		return "Complete"
	case hasCondition(j, batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case hasCondition(j, batchv1.JobSuspended):
		return "Suspended"
	case hasCondition(j, batchv1.JobFailureTarget):
		return "FailureTarget"
	case hasCondition(j, batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func hasCondition(j *batchv1.Job, t batchv1.JobConditionType) bool {
	for _, c := range j.Status.Conditions {
		if c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
