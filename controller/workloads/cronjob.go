package workloads

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

var cronJobKind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// mostMissed is how many missed starts make a warning: upstream's number.
const mostMissed = 100

// CronJobs creates a Job whenever a CronJob's schedule says so.
func CronJobs(env controller.Env) *controller.Loop {
	c := env.Client("cronjob-controller")
	r := &cronJobs{
		client: c,
		events: client.NewRecorder(c, "cronjob-controller", env.Logger),
		jobs:   controller.NewIndex(controller.ByController(cronJobKind.GroupKind())),
	}
	return env.NewLoop(c, controller.Controller{
		Name: "cronjob-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*batchv1.CronJob](c), Keys: controller.Itself},
			{Resource: client.ResourceOf[*batchv1.Job](c), Index: r.jobs, Keys: controller.Owner(cronJobKind.GroupKind())},
		},
		Reconcile: r.reconcile,
	})
}

type cronJobs struct {
	client *client.Client
	events *client.Recorder
	jobs   *controller.Index // by controller
}

func (r *cronJobs) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	cj, ok := client.From[*batchv1.CronJob](r.client, r.client.Snapshot(), key.Namespace, key.Name)
	if !ok || cj.DeletionTimestamp != nil {
		return 0, nil
	}
	plan := planCronJob(cj, controller.Indexed[*batchv1.Job](r.jobs, controller.OwnedBy(cj.UID)), time.Now())
	for _, e := range plan.events {
		r.events.Event(cj, e.kind, e.reason, "%s", e.message)
	}
	for _, job := range plan.remove {
		err := client.Remove[*batchv1.Job](ctx, r.client, job.Namespace, job.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &job.UID}, PropagationPolicy: ptr.To(metav1.DeletePropagationBackground),
		})
		switch {
		case gone(err):
		case err != nil:
			r.events.Event(cj, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
			return 0, err
		default:
			r.events.Event(cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", job.Name)
		}
	}
	failure := r.create(ctx, cj, plan)
	if apiequality.Semantic.DeepEqual(plan.status, cj.Status) {
		return plan.again, failure
	}
	update := cj.DeepCopy()
	update.Status = plan.status
	if _, err := client.UpdateStatus(ctx, r.client, update); err != nil && stillThere(r.client, cj) {
		return 0, cmp.Or(failure, err)
	}
	return plan.again, failure
}

// create creates the Job of the plan and takes it into the status. Its name is that of the scheduled time, so it cannot be
// created twice.
func (r *cronJobs) create(ctx context.Context, cj *batchv1.CronJob, plan *cronPlan) error {
	if plan.create == nil {
		return nil
	}
	job, err := client.Create(ctx, r.client, plan.create)
	switch {
	case apierrors.IsAlreadyExists(err):
		job, _ = client.From[*batchv1.Job](r.client, r.client.Snapshot(), cj.Namespace, plan.create.Name)
		if job == nil || !metav1.IsControlledBy(job, cj) {
			return err
		}
		if _, done := finishedJob(job); done {
			plan.status.LastScheduleTime = &metav1.Time{Time: plan.at}
			return nil
		}
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return err
	case err != nil:
		r.events.Event(cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return err
	default:
		r.events.Event(cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", job.Name)
	}
	if !inActive(plan.status.Active, job) {
		plan.status.Active = append(plan.status.Active, corev1.ObjectReference{
			Kind: jobKind.Kind, APIVersion: jobKind.GroupVersion().String(), Namespace: job.Namespace, Name: job.Name,
			UID: job.UID, ResourceVersion: job.ResourceVersion,
		})
	}
	plan.status.LastScheduleTime = &metav1.Time{Time: plan.at}
	return nil
}

func inActive(active []corev1.ObjectReference, job *batchv1.Job) bool {
	return slices.ContainsFunc(active, func(ref corev1.ObjectReference) bool { return ref.UID == job.UID })
}

// cronPlan is what to do for a CronJob now.
type cronPlan struct {
	events []cronEvent
	remove []*batchv1.Job
	create *batchv1.Job
	at     time.Time // the scheduled time of create
	status batchv1.CronJobStatus
	again  time.Duration
}

type cronEvent struct{ kind, reason, message string }

func (p *cronPlan) tell(kind, reason, format string, args ...any) {
	p.events = append(p.events, cronEvent{kind, reason, fmt.Sprintf(format, args...)})
}

// planCronJob decides what to do for a CronJob that has these jobs.
func planCronJob(cj *batchv1.CronJob, jobs []*batchv1.Job, now time.Time) *cronPlan {
	p := &cronPlan{status: *cj.Status.DeepCopy()}
	p.settle(cj, jobs)
	p.tidy(cj, jobs)
	schedule := p.parse(cj)
	if schedule == nil || ptr.Deref(cj.Spec.Suspend, false) {
		return p
	}
	earliest := cj.CreationTimestamp.Time
	if t := cj.Status.LastScheduleTime; t != nil {
		earliest = t.Time
	}
	deadline := cj.Spec.StartingDeadlineSeconds
	if deadline != nil {
		if from := now.Add(-time.Duration(*deadline) * time.Second); from.After(earliest) {
			earliest = from
		}
	}
	// A little later than the schedule says, so that the time has come for sure.
	p.again = schedule.Next(now).Sub(now) + 100*time.Millisecond
	at, tooMany := lastMissed(schedule, earliest, now)
	if tooMany {
		p.tell(corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	switch {
	case at.IsZero() || p.started(cj, at):
	case deadline != nil && at.Add(time.Duration(*deadline)*time.Second).Before(now):
		p.tell(corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", at.UTC().Format(time.RFC1123Z))
	case cj.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(p.status.Active) > 0:
		p.tell(corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
	default:
		if cj.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent {
			for _, job := range jobs {
				if inActive(p.status.Active, job) {
					p.remove = append(p.remove, job)
				}
			}
			p.status.Active = nil
		}
		p.create, p.at = newCronJobJob(cj, at), at
	}
	return p
}

// settle takes jobs that have finished, or are gone, off the active list.
func (p *cronPlan) settle(cj *batchv1.CronJob, jobs []*batchv1.Job) {
	known := map[string]*batchv1.Job{}
	for _, job := range jobs {
		known[string(job.UID)] = job
		end, done := finishedJob(job)
		if !done {
			if !inActive(p.status.Active, job) && (cj.Status.LastScheduleTime == nil || job.CreationTimestamp.Before(cj.Status.LastScheduleTime)) {
				p.tell(corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
			}
			continue
		}
		if inActive(p.status.Active, job) {
			p.tell(corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", job.Name, end)
		}
		if t := job.Status.CompletionTime; end == batchv1.JobComplete && t != nil &&
			(p.status.LastSuccessfulTime == nil || p.status.LastSuccessfulTime.Before(t)) {
			p.status.LastSuccessfulTime = t.DeepCopy()
		}
	}
	p.status.Active = slices.DeleteFunc(p.status.Active, func(ref corev1.ObjectReference) bool {
		job := known[string(ref.UID)]
		if job == nil {
			p.tell(corev1.EventTypeWarning, "MissingJob", "Active job went missing: %v", ref.Name)
			return true
		}
		_, done := finishedJob(job)
		return done
	})
}

// tidy removes the oldest finished jobs beyond the limits.
func (p *cronPlan) tidy(cj *batchv1.CronJob, jobs []*batchv1.Job) {
	for end, limit := range map[batchv1.JobConditionType]*int32{
		batchv1.JobComplete: cj.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: cj.Spec.FailedJobsHistoryLimit,
	} {
		if limit == nil {
			continue
		}
		var finished []*batchv1.Job
		for _, job := range jobs {
			if how, done := finishedJob(job); done && how == end && job.DeletionTimestamp == nil {
				finished = append(finished, job)
			}
		}
		slices.SortFunc(finished, func(a, b *batchv1.Job) int {
			return cmp.Or(jobStart(a).Compare(jobStart(b)), cmp.Compare(a.Name, b.Name))
		})
		p.remove = append(p.remove, finished[:max(0, len(finished)-int(*limit))]...)
	}
}

func jobStart(job *batchv1.Job) time.Time {
	if job.Status.StartTime != nil {
		return job.Status.StartTime.Time
	}
	return job.CreationTimestamp.Time
}

// parse reads the schedule, and tells why when it cannot.
func (p *cronPlan) parse(cj *batchv1.CronJob) cron.Schedule {
	text := cj.Spec.Schedule
	if tz := cj.Spec.TimeZone; tz != nil {
		if _, err := time.LoadLocation(*tz); err != nil {
			p.tell(corev1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %s", *tz, err)
			return nil
		}
		text = fmt.Sprintf("TZ=%s %s", *tz, text)
	}
	schedule, err := cron.ParseStandard(text)
	if err != nil {
		p.tell(corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %q : %s", cj.Spec.Schedule, err)
		return nil
	}
	return schedule
}

// started says whether the job of a scheduled time has been created.
func (p *cronPlan) started(cj *batchv1.CronJob, at time.Time) bool {
	if t := cj.Status.LastScheduleTime; t != nil && t.Time.Equal(at) {
		return true
	}
	return slices.ContainsFunc(p.status.Active, func(ref corev1.ObjectReference) bool { return ref.Name == cronJobName(cj, at) })
}

// lastMissed returns the newest scheduled time after earliest that has come; zero when there is none. tooMany says that more than a
// hundred came. Long gaps are not walked through: the search goes back from now in windows that double.
func lastMissed(schedule cron.Schedule, earliest, now time.Time) (last time.Time, tooMany bool) {
	first := schedule.Next(earliest)
	if first.IsZero() || first.After(now) {
		return time.Time{}, false
	}
	count := 1
	last = first
	for next := schedule.Next(first); !next.IsZero() && !next.After(now); next = schedule.Next(next) {
		last = next
		if count++; count > mostMissed {
			break
		}
	}
	if count <= mostMissed {
		return last, false
	}
	if every, ok := schedule.(cron.ConstantDelaySchedule); ok {
		return first.Add(now.Sub(first) / every.Delay * every.Delay), true
	}
	for window := time.Minute; ; window *= 2 {
		from := now.Add(-window)
		if from.Before(last) {
			from = last
		}
		next := schedule.Next(from)
		if next.IsZero() || next.After(now) {
			if from.Equal(last) {
				return last, true
			}
			continue
		}
		for ; !next.IsZero() && !next.After(now); next = schedule.Next(next) {
			last = next
		}
		return last, true
	}
}

func cronJobName(cj *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
}

// newCronJobJob returns the Job of a scheduled time.
func newCronJobJob(cj *batchv1.CronJob, at time.Time) *batchv1.Job {
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: cj.Namespace, Name: cronJobName(cj, at),
			Labels: cloneMap(cj.Spec.JobTemplate.Labels), Annotations: cloneMap(cj.Spec.JobTemplate.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, cronJobKind)},
		},
		Spec: *cj.Spec.JobTemplate.Spec.DeepCopy(),
	}
	if tz := cj.Spec.TimeZone; tz != nil {
		if loc, err := time.LoadLocation(*tz); err == nil {
			at = at.In(loc)
		}
	}
	job.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.Format(time.RFC3339)
	return job
}
