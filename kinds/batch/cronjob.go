package batch

import (
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// maxCronJobName leaves room for the eleven characters that the names of its jobs add.
const maxCronJobName = 52

// CronJob is the row of cron jobs.
func CronJob() *kinds.Kind {
	return &kinds.Kind{
		Group:         batchv1.GroupName,
		Kind:          "CronJob",
		Resource:      "cronjobs",
		ShortNames:    []string{"cj"},
		Categories:    []string{"all"},
		Namespaced:    true,
		Versions:      []kinds.Version{kinds.V[batchv1.CronJob, batchv1.CronJobList]("v1")},
		Default:       kinds.On(defaultCronJob),
		PrepareCreate: kinds.On(func(c *batchv1.CronJob) { c.Status = batchv1.CronJobStatus{} }),
		PrepareUpdate: kinds.OnUpdate(func(c, old *batchv1.CronJob) { c.Status = old.Status }),
		Validate: kinds.Check(func(c *batchv1.CronJob) field.ErrorList {
			r := check.Report{Errs: validateCronJob(c, nil)}
			if len(c.Name) > maxCronJobName {
				r.Invalid(field.NewPath("metadata", "name"), c.Name, "must be no more than 52 characters")
			}
			return r.Errs
		}),
		ValidateUpdate:      kinds.CheckUpdate(validateCronJob),
		Warnings:            kinds.Warn(warnCronJob),
		HasGeneration:       true,
		UnconditionalUpdate: true,
		Columns:             cronJobColumns(),
		Cells:               kinds.Print(cronJobCells),
		ResetFields:         map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{{
			Name:          "status",
			Verbs:         kinds.ReadWrite(),
			PrepareUpdate: kinds.OnUpdate(func(c, old *batchv1.CronJob) { c.Spec = old.Spec }),
			ResetFields:   map[string][]string{"v1": {"spec"}},
		}},
	}
}

func defaultCronJob(c *batchv1.CronJob) {
	podspec.Default(&c.Spec.JobTemplate.Spec.Template.Spec)
	defaultFailurePolicy(&c.Spec.JobTemplate.Spec)
	check.Default(&c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
	check.DefaultPointer(&c.Spec.Suspend, false)
	check.DefaultPointer(&c.Spec.SuccessfulJobsHistoryLimit, 3)
	check.DefaultPointer(&c.Spec.FailedJobsHistoryLimit, 1)
}

// validateCronJob checks a cron job; what an old one already had in its schedule and zone may stay.
func validateCronJob(c, old *batchv1.CronJob) field.ErrorList {
	var r check.Report
	at, spec := field.NewPath("spec"), &c.Spec
	if spec.Schedule != "" {
		schedule(&r, at.Child("schedule"), spec, old)
	}
	check.NotNegative(&r, at.Child("startingDeadlineSeconds"), ptr.Deref(spec.StartingDeadlineSeconds, 0))
	if spec.TimeZone != nil && (old == nil || !check.Same(spec.TimeZone, old.Spec.TimeZone)) {
		timeZone(&r, at.Child("timeZone"), *spec.TimeZone)
	}
	check.OneOfRequired(&r, at.Child("concurrencyPolicy"), spec.ConcurrencyPolicy,
		batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)
	job := at.Child("jobTemplate", "spec")
	jobSpec(&r, job, &spec.JobTemplate.Spec)
	if s := spec.JobTemplate.Spec.Selector; s != nil {
		r.Invalid(job.Child("selector"), s, "`selector` will be auto-generated")
	}
	if ptr.Deref(spec.JobTemplate.Spec.ManualSelector, false) {
		r.Add(field.NotSupported(job.Child("manualSelector"), "", []string{"nil", "false"}))
		r.Errs[len(r.Errs)-1].BadValue = true
	}
	check.NotNegative(&r, at.Child("successfulJobsHistoryLimit"), ptr.Deref(spec.SuccessfulJobsHistoryLimit, 0))
	check.NotNegative(&r, at.Child("failedJobsHistoryLimit"), ptr.Deref(spec.FailedJobsHistoryLimit, 0))
	r.Present(at.Child("schedule"), spec.Schedule)
	return r.Errs
}

func schedule(r *check.Report, at *field.Path, spec *batchv1.CronJobSpec, old *batchv1.CronJob) {
	if _, err := cron.ParseStandard(spec.Schedule); err != nil {
		r.Invalid(at, spec.Schedule, err.Error())
	}
	if !strings.Contains(spec.Schedule, "TZ") {
		return
	}
	// Before timeZone there was, undocumented, a prefix of the schedule.
	if old == nil || !strings.Contains(old.Spec.Schedule, "TZ") {
		r.Invalid(at, spec.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
	} else if spec.TimeZone != nil {
		r.Invalid(at, spec.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule")
	}
}

func timeZone(r *check.Report, at *field.Path, zone string) {
	switch {
	case zone == "":
		r.Invalid(at, zone, "timeZone must be nil or non-empty string")
	case strings.EqualFold(zone, "Local"):
		r.Invalid(at, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")
	default:
		if _, err := time.LoadLocation(zone); err != nil {
			r.Invalid(at, zone, err.Error())
		}
	}
}

func cronJobColumns() []metav1.TableColumnDefinition {
	spec, status := batchv1.CronJobSpec{}.SwaggerDoc(), batchv1.CronJobStatus{}.SwaggerDoc()
	columns := []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Schedule", "string", spec["schedule"]),
		kinds.Column("Timezone", "string", spec["timeZone"]),
		kinds.Column("Suspend", "boolean", spec["suspend"]),
		kinds.Column("Active", "integer", status["active"]),
		kinds.Column("Last Schedule", "string", status["lastScheduleTime"]),
		kinds.AgeColumn(),
	}
	columns = append(columns, kinds.ContainerColumns()...)
	return append(columns, kinds.WideColumn("Selector", "string", batchv1.JobSpec{}.SwaggerDoc()["selector"]))
}

func cronJobCells(c *batchv1.CronJob, now metav1.Time) []any {
	last, suspended := kinds.None, "<unset>"
	if t := c.Status.LastScheduleTime; t != nil {
		last = kinds.Age(*t, now)
	}
	if s := c.Spec.Suspend; s != nil {
		suspended = "False"
		if *s {
			suspended = "True"
		}
	}
	job := &c.Spec.JobTemplate.Spec
	names, images := kinds.ContainerCells(job.Template.Spec.Containers)
	return []any{
		c.Name, c.Spec.Schedule, ptr.Deref(c.Spec.TimeZone, kinds.None), suspended, int64(len(c.Status.Active)), last,
		kinds.Age(c.CreationTimestamp, now), names, images, kinds.SelectorCell(job.Selector),
	}
}

func warnCronJob(c, old *batchv1.CronJob) (out []string) {
	at := field.NewPath("spec", "jobTemplate", "spec")
	if old == nil {
		out = append(check.PodNameWarning(c.Name), warnJobSpec(at, &c.Spec.JobTemplate.Spec, nil)...)
	} else {
		out = warnJobSpec(at, &c.Spec.JobTemplate.Spec, &old.Spec.JobTemplate.Spec)
	}
	if strings.Contains(c.Spec.Schedule, "TZ") {
		out = append(out, "cannot use TZ or CRON_TZ in spec.schedule, use spec.timeZone instead, "+
			"see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#time-zones for more information")
	}
	return out
}
