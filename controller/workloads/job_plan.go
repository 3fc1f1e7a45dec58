package workloads

import (
	"fmt"
	"math"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/controller"
)

// The numbers are upstream's.
const (
	minJobBackoff     = 10 * time.Second // after a pod's failure, before the next is made; doubles with every failure in a row
	maxJobBackoff     = 10 * time.Minute
	mostUncounted     = 500 // pods that are being counted at once
	mostPodsPerPlan   = 500
	completionsText   = "Reached expected number of succeeded pods"
	deadlineText      = "Job was active longer than specified deadline"
	backoffLimitText  = "Job has reached the specified backoff limit"
	maxFailedText     = "Job has exceeded the specified maximal number of failed indexes"
	failedIndexesText = "Job has failed indexes"
)

// jobPlan is the next step of a Job.
type jobPlan struct {
	status  batchv1.JobStatus
	untrack []*corev1.Pod // lose their finalizer, once the status is written
	remove  []*corev1.Pod // because the job ends: how they end still counts
	drop    []*corev1.Pod // because there are too many: how they end does not count
	create  []newIndex
	again   time.Duration
}

// newIndex is a pod to create; index is -1 for jobs that are not indexed.
type newIndex struct {
	index    int
	failures int // of the index so far, for backoffLimitPerIndex
}

// jobPlanner is the workbench for one plan.
type jobPlanner struct {
	*jobPlan
	job *batchv1.Job
	now time.Time

	active, terminating []*corev1.Pod
	failed              []*corev1.Pod // all that failed, but for those the policy ignores
	completed, lost     indexSet      // indexes that succeeded, and that failed for good
	failedNow           int32         // counted and uncounted
	policyText          string        // why the failure policy fails the job
	untracked           bool          // no finished pod waits to be counted
	lastSuccess         time.Time     // when the last pod succeeded
}

func tracked(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

func indexed(job *batchv1.Job) bool {
	return job.Spec.CompletionMode != nil && *job.Spec.CompletionMode == batchv1.IndexedCompletion
}

func jobCondition(s *batchv1.JobStatus, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

func jobConditionTrue(s *batchv1.JobStatus, t batchv1.JobConditionType) bool {
	c := jobCondition(s, t)
	return c != nil && c.Status == corev1.ConditionTrue
}

// finishedJob says whether a job has come to its end, and how.
func finishedJob(job *batchv1.Job) (batchv1.JobConditionType, bool) {
	for _, t := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if jobConditionTrue(&job.Status, t) {
			return t, true
		}
	}
	return "", false
}

// planJob decides the next step. Each finished pod is counted exactly once, whatever crashes in between: its UID goes into the
// status, then its finalizer goes, and when that is seen the UID becomes a count.
func planJob(job *batchv1.Job, pods []*corev1.Pod, now time.Time) *jobPlan {
	p := &jobPlanner{jobPlan: &jobPlan{status: *job.Status.DeepCopy()}, job: job, now: now, untracked: true}
	if _, done := finishedJob(job); done || job.DeletionTimestamp != nil {
		for _, pod := range pods {
			if tracked(pod) {
				p.untrack = append(p.untrack, pod)
			}
		}
		return p.jobPlan
	}
	p.sort(pods)
	p.flush(pods)
	p.count(pods)
	p.start()
	if !p.finish() {
		if ptr.Deref(job.Spec.Suspend, false) {
			p.drop = p.active
		} else {
			p.manage(pods)
		}
	}
	p.release(pods)
	p.summarize()
	return p.jobPlan
}

// sort tells the pods apart.
func (p *jobPlanner) sort(pods []*corev1.Pod) {
	for _, pod := range pods {
		switch {
		case controller.PodActive(pod):
			p.active = append(p.active, pod)
		case !controller.PodFinished(pod):
			p.terminating = append(p.terminating, pod)
		}
	}
}

// flush turns UIDs whose pods have lost their finalizer, or are gone, into counts.
func (p *jobPlanner) flush(pods []*corev1.Pod) {
	u := p.status.UncountedTerminatedPods
	if u == nil {
		u = &batchv1.UncountedTerminatedPods{}
		p.status.UncountedTerminatedPods = u
	}
	waiting := map[types.UID]bool{}
	for _, pod := range pods {
		if tracked(pod) {
			waiting[pod.UID] = true
		}
	}
	count := func(list *[]types.UID, counter *int32) {
		*list = slices.DeleteFunc(*list, func(uid types.UID) bool {
			if waiting[uid] {
				return false
			}
			*counter++
			return true
		})
	}
	count(&u.Succeeded, &p.status.Succeeded)
	count(&u.Failed, &p.status.Failed)
}

// count takes pods that have finished since into the status.
func (p *jobPlanner) count(pods []*corev1.Pod) {
	u := p.status.UncountedTerminatedPods
	limit := int(ptr.Deref(p.job.Spec.Completions, 0))
	p.completed = parseIndexes(p.status.CompletedIndexes, limit)
	p.lost = parseIndexes(ptr.Deref(p.status.FailedIndexes, ""), limit)
	for _, pod := range pods {
		if !controller.PodFinished(pod) {
			continue
		}
		action, text := batchv1.PodFailurePolicyActionCount, ""
		if t := finishTime(pod); pod.Status.Phase == corev1.PodSucceeded && t.After(p.lastSuccess) {
			p.lastSuccess = t
		}
		if pod.Status.Phase == corev1.PodFailed {
			action, text = judgePod(p.job.Spec.PodFailurePolicy, pod)
			if action != batchv1.PodFailurePolicyActionIgnore && (tracked(pod) || pod.DeletionTimestamp == nil) {
				p.failed = append(p.failed, pod)
			}
		}
		if !tracked(pod) {
			continue
		}
		p.untracked = false
		if len(u.Succeeded)+len(u.Failed) >= mostUncounted {
			continue
		}
		if action == batchv1.PodFailurePolicyActionFailJob && p.policyText == "" {
			p.policyText = text
		}
		p.countOne(pod, action, limit)
	}
	if indexed(p.job) {
		p.status.Succeeded = int32(p.completed.total())
		p.status.CompletedIndexes = p.completed.String()
		if p.job.Spec.BackoffLimitPerIndex != nil {
			p.status.FailedIndexes = ptr.To(p.lost.String())
		}
	}
	p.failedNow = p.status.Failed + int32(len(u.Failed))
}

// countOne takes one finished pod into the status, unless it is in there.
func (p *jobPlanner) countOne(pod *corev1.Pod, action batchv1.PodFailurePolicyAction, limit int) {
	u := p.status.UncountedTerminatedPods
	i := podIndex(pod)
	valid := !indexed(p.job) || i >= 0 && i < limit
	switch {
	case !valid || action == batchv1.PodFailurePolicyActionIgnore:
	case pod.Status.Phase == corev1.PodSucceeded && indexed(p.job):
		// The index itself is the count: there is no need to remember the UID.
		if !p.lost.has(i) {
			p.completed = p.completed.with(i)
		}
	case pod.Status.Phase == corev1.PodSucceeded:
		if !slices.Contains(u.Succeeded, pod.UID) {
			u.Succeeded = append(u.Succeeded, pod.UID)
		}
	default:
		if !slices.Contains(u.Failed, pod.UID) {
			u.Failed = append(u.Failed, pod.UID)
		}
		perIndex := p.job.Spec.BackoffLimitPerIndex
		if perIndex != nil && !p.completed.has(i) &&
			(action == batchv1.PodFailurePolicyActionFailIndex || failedBefore(pod) >= int(*perIndex)) {
			p.lost = p.lost.with(i)
		}
	}
}

// start notes when the job started, and when it was suspended or resumed: a suspended job has no start time.
func (p *jobPlanner) start() {
	suspend := ptr.Deref(p.job.Spec.Suspend, false)
	suspended := jobCondition(&p.status, batchv1.JobSuspended)
	switch {
	case suspend && (suspended == nil || suspended.Status != corev1.ConditionTrue):
		p.set(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended")
		p.status.StartTime = nil
	case !suspend && suspended != nil && suspended.Status == corev1.ConditionTrue:
		p.set(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed")
		p.status.StartTime = &metav1.Time{Time: p.now}
	case !suspend && p.status.StartTime == nil:
		p.status.StartTime = &metav1.Time{Time: p.now}
	}
}

func (p *jobPlanner) set(t batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) {
	next := batchv1.JobCondition{Type: t, Status: status, Reason: reason, Message: message,
		LastProbeTime: metav1.NewTime(p.now), LastTransitionTime: metav1.NewTime(p.now)}
	if c := jobCondition(&p.status, t); c != nil {
		*c = next
		return
	}
	p.status.Conditions = append(p.status.Conditions, next)
}

// finish decides whether the job comes to its end; then it takes its active pods down, and when the last has been counted the job is done.
func (p *jobPlanner) finish() bool {
	target, end := p.verdict()
	if target == nil {
		return false
	}
	if !jobConditionTrue(&p.status, target.Type) {
		p.set(target.Type, corev1.ConditionTrue, target.Reason, target.Message)
	}
	p.remove = p.active
	u := p.status.UncountedTerminatedPods
	if len(p.active)+len(p.terminating)+len(u.Succeeded)+len(u.Failed) > 0 || !p.untracked {
		return true
	}
	p.set(end, corev1.ConditionTrue, target.Reason, target.Message)
	if p.status.StartTime == nil {
		p.status.StartTime = &metav1.Time{Time: p.now}
	}
	if end == batchv1.JobComplete {
		p.status.CompletionTime = &metav1.Time{Time: p.now}
	}
	return true
}

// verdict returns the condition that announces the job's end, and the one that seals it; nil while the job goes on.
func (p *jobPlanner) verdict() (target *batchv1.JobCondition, end batchv1.JobConditionType) {
	if c := jobCondition(&p.status, batchv1.JobFailureTarget); c != nil && c.Status == corev1.ConditionTrue {
		return c, batchv1.JobFailed
	}
	if c := jobCondition(&p.status, batchv1.JobSuccessCriteriaMet); c != nil && c.Status == corev1.ConditionTrue {
		return c, batchv1.JobComplete
	}
	failure := func(reason, message string) (*batchv1.JobCondition, batchv1.JobConditionType) {
		return &batchv1.JobCondition{Type: batchv1.JobFailureTarget, Reason: reason, Message: message}, batchv1.JobFailed
	}
	spec := &p.job.Spec
	suspend := ptr.Deref(spec.Suspend, false)
	switch {
	case p.policyText != "":
		return failure(batchv1.JobReasonPodFailurePolicy, p.policyText)
	case p.failedNow > ptr.Deref(spec.BackoffLimit, 6) || p.restartsExceeded():
		return failure(batchv1.JobReasonBackoffLimitExceeded, backoffLimitText)
	case !suspend && p.overdue():
		return failure(batchv1.JobReasonDeadlineExceeded, deadlineText)
	case spec.MaxFailedIndexes != nil && p.lost.total() > int(*spec.MaxFailedIndexes):
		return failure(batchv1.JobReasonMaxFailedIndexesExceeded, maxFailedText)
	}
	success := func(reason, message string) (*batchv1.JobCondition, batchv1.JobConditionType) {
		return &batchv1.JobCondition{Type: batchv1.JobSuccessCriteriaMet, Reason: reason, Message: message}, batchv1.JobComplete
	}
	if rule, ok := successRule(spec.SuccessPolicy, int(ptr.Deref(spec.Completions, 0)), p.completed); ok && indexed(p.job) {
		return success(batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", rule))
	}
	switch {
	case spec.Completions == nil:
		if p.succeeded() > 0 && len(p.active) == 0 && !suspend {
			return success(batchv1.JobReasonCompletionsReached, completionsText)
		}
	case p.succeeded() >= *spec.Completions:
		return success(batchv1.JobReasonCompletionsReached, completionsText)
	case spec.BackoffLimitPerIndex != nil && p.succeeded()+int32(p.lost.total()) >= *spec.Completions:
		return failure(batchv1.JobReasonFailedIndexes, failedIndexesText)
	}
	return nil, ""
}

func (p *jobPlanner) succeeded() int32 {
	return p.status.Succeeded + int32(len(p.status.UncountedTerminatedPods.Succeeded))
}

// restartsExceeded counts the restarts in place that restartPolicy OnFailure brings against the limit.
func (p *jobPlanner) restartsExceeded() bool {
	if p.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	var restarts int32
	for _, pod := range p.active {
		for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
			for i := range statuses {
				restarts += statuses[i].RestartCount
			}
		}
	}
	limit := ptr.Deref(p.job.Spec.BackoffLimit, 6)
	return limit == 0 && restarts > 0 || limit > 0 && restarts >= limit
}

// overdue says whether the job has been active beyond its deadline, or else asks to be called again then.
func (p *jobPlanner) overdue() bool {
	if p.job.Spec.ActiveDeadlineSeconds == nil || p.status.StartTime == nil {
		return false
	}
	left := p.status.StartTime.Add(time.Duration(*p.job.Spec.ActiveDeadlineSeconds) * time.Second).Sub(p.now)
	p.again = controller.Sooner(p.again, left)
	return left <= 0
}

// manage makes as many pods active as there should be.
func (p *jobPlanner) manage(pods []*corev1.Pod) {
	parallelism := int(ptr.Deref(p.job.Spec.Parallelism, 1))
	if indexed(p.job) {
		p.manageIndexed(pods, parallelism)
		return
	}
	wanted := parallelism
	if c := p.job.Spec.Completions; c != nil {
		wanted = max(0, min(parallelism, int(*c-p.succeeded())))
	} else if p.succeeded() > 0 {
		wanted = min(len(p.active), parallelism)
	}
	if extra := len(p.active) - wanted; extra > 0 {
		p.drop = scaleDownOrder(p.active, nil, p.now)[:min(extra, mostPodsPerPlan)]
		return
	}
	missing := wanted - len(p.active) - p.held()
	if missing <= 0 || p.backingOff() {
		return
	}
	for range min(missing, mostPodsPerPlan) {
		p.create = append(p.create, newIndex{index: -1})
	}
}

// held counts the pods that are ending and that the policy wants to have ended before they are replaced.
func (p *jobPlanner) held() int {
	if r := p.job.Spec.PodReplacementPolicy; r != nil && *r == batchv1.Failed {
		return len(p.terminating)
	}
	return 0
}

// manageIndexed keeps one active pod for each of the lowest indexes that are not done.
func (p *jobPlanner) manageIndexed(pods []*corev1.Pod, parallelism int) {
	completions := int(ptr.Deref(p.job.Spec.Completions, 0))
	taken := map[int]bool{}
	kept := 0
	for _, pod := range p.active {
		i := podIndex(pod)
		if i < 0 || i >= completions || taken[i] || p.completed.has(i) || p.lost.has(i) {
			p.drop = append(p.drop, pod)
			continue
		}
		taken[i] = true
		kept++
	}
	wanted := max(0, min(parallelism, completions-p.completed.total()-p.lost.total()))
	if kept > wanted {
		active := slices.DeleteFunc(slices.Clone(p.active), func(pod *corev1.Pod) bool { return slices.Contains(p.drop, pod) })
		p.drop = append(p.drop, scaleDownOrder(active, nil, p.now)[:kept-wanted]...)
		return
	}
	if p.held() > 0 {
		for _, pod := range p.terminating {
			taken[podIndex(pod)] = true
		}
	}
	if p.job.Spec.BackoffLimitPerIndex == nil && p.backingOff() {
		return
	}
	missing := min(wanted-kept-p.held(), mostPodsPerPlan)
	for i := 0; i < completions && missing > 0; i++ {
		if taken[i] || p.completed.has(i) || p.lost.has(i) {
			continue
		}
		failures, wait := p.indexFailures(pods, i)
		if wait > 0 {
			p.again = controller.Sooner(p.again, wait)
			continue
		}
		p.create = append(p.create, newIndex{index: i, failures: failures})
		missing--
	}
}

// indexFailures returns how often an index has failed, and how long its next pod must wait.
func (p *jobPlanner) indexFailures(pods []*corev1.Pod, index int) (failures int, wait time.Duration) {
	if p.job.Spec.BackoffLimitPerIndex == nil {
		return 0, 0
	}
	for _, pod := range pods {
		if podIndex(pod) != index || pod.Status.Phase != corev1.PodFailed {
			continue
		}
		n := failedBefore(pod)
		if slices.Contains(p.failed, pod) {
			n++
		}
		failures = max(failures, n)
		if n > 0 {
			wait = max(wait, finishTime(pod).Add(jobBackoff(n)).Sub(p.now))
		}
	}
	return failures, wait
}

// backingOff says whether failures in a row hold up the next pod, and asks to be called again when they no longer do.
func (p *jobPlanner) backingOff() bool {
	var last time.Time
	for _, pod := range p.failed {
		if t := finishTime(pod); t.After(last) {
			last = t
		}
	}
	if last.IsZero() {
		return false
	}
	wait := last.Add(jobBackoff(p.failuresInRow())).Sub(p.now)
	if wait > 0 {
		p.again = controller.Sooner(p.again, wait)
	}
	return wait > 0
}

// failuresInRow counts the pods that have failed since the last one that succeeded.
func (p *jobPlanner) failuresInRow() int {
	n := 0
	for _, pod := range p.failed {
		if !finishTime(pod).Before(p.lastSuccess) {
			n++
		}
	}
	return n
}

// jobBackoff is the pause after a number of failures in a row.
func jobBackoff(failures int) time.Duration {
	if failures <= 0 {
		return 0
	}
	return time.Duration(min(float64(minJobBackoff)*math.Pow(2, float64(failures-1)), float64(maxJobBackoff)))
}

// finishTime is when a finished pod's last container ended, or the best that is known.
func finishTime(pod *corev1.Pod) time.Time {
	var last time.Time
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range statuses {
			if t := statuses[i].State.Terminated; t != nil && t.FinishedAt.After(last) {
				last = t.FinishedAt.Time
			}
		}
	}
	if !last.IsZero() {
		return last
	}
	if c := controller.PodCondition(pod, corev1.PodReady); c != nil && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if pod.DeletionTimestamp != nil {
		return pod.DeletionTimestamp.Time
	}
	return pod.CreationTimestamp.Time
}

// release lets go the finished pods that the status holds. With a limit per index, the last failed pod of an index that goes on stays
// until it has a successor: it alone remembers how often the index has failed.
func (p *jobPlanner) release(pods []*corev1.Pod) {
	finishing := jobConditionTrue(&p.status, batchv1.JobFailureTarget) || jobConditionTrue(&p.status, batchv1.JobSuccessCriteriaMet)
	for _, pod := range pods {
		if !controller.PodFinished(pod) || !tracked(pod) || !p.inStatus(pod) {
			continue
		}
		if p.job.Spec.BackoffLimitPerIndex != nil && pod.Status.Phase == corev1.PodFailed && !finishing && p.remembers(pod, pods) {
			continue
		}
		p.untrack = append(p.untrack, pod)
	}
}

// inStatus says that a finished pod is in the status, or need not be.
func (p *jobPlanner) inStatus(pod *corev1.Pod) bool {
	u := p.status.UncountedTerminatedPods
	if slices.Contains(u.Succeeded, pod.UID) || slices.Contains(u.Failed, pod.UID) {
		return true
	}
	if pod.Status.Phase == corev1.PodFailed && slices.Contains(p.failed, pod) {
		i := podIndex(pod)
		return indexed(p.job) && (i < 0 || i >= int(ptr.Deref(p.job.Spec.Completions, 0)))
	}
	return pod.Status.Phase == corev1.PodFailed || indexed(p.job)
}

// remembers says that no younger pod carries the failures of this one's index on.
func (p *jobPlanner) remembers(pod *corev1.Pod, pods []*corev1.Pod) bool {
	i := podIndex(pod)
	if i < 0 || p.lost.has(i) || p.completed.has(i) {
		return false
	}
	return !slices.ContainsFunc(pods, func(other *corev1.Pod) bool {
		return other != pod && podIndex(other) == i && failedBefore(other) > failedBefore(pod)
	})
}

// summarize counts what is there now.
func (p *jobPlanner) summarize() {
	s := &p.status
	var ready int32
	for _, pod := range p.active {
		if controller.PodReady(pod) {
			ready++
		}
	}
	s.Active, s.Ready, s.Terminating = int32(len(p.active)), &ready, ptr.To(int32(len(p.terminating)))
}
