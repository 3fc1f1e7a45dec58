package workloads

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	. "github.com/kebernetes/kebernetes/controller/controllertest"
)

func job(parallelism, completions int32, edit ...func(*batchv1.Job)) *batchv1.Job {
	app := map[string]string{"batch.kubernetes.io/controller-uid": "x"}
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "j"},
		Spec: batchv1.JobSpec{
			Parallelism: ptr.To(parallelism), Completions: ptr.To(completions), BackoffLimit: ptr.To[int32](6),
			Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template("i", app),
		},
	}
	j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	for _, e := range edit {
		e(j)
	}
	return j
}

func asIndexed(j *batchv1.Job) { j.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion) }

func theJob(api *API) *batchv1.Job { return All[*batchv1.Job](api)[0] }

// endings lets pods end: outcome says how, with an exit code or -1 to let it run.
func endings(api *API, outcome func(*corev1.Pod) int) {
	for _, p := range All[*corev1.Pod](api) {
		code := -1
		if p.DeletionTimestamp != nil {
			code = 137
		} else if p.Status.Phase == "" || p.Status.Phase == corev1.PodRunning {
			code = outcome(p)
		}
		if code < 0 || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
			continue
		}
		Change(api, p.Namespace, p.Name, func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodSucceeded
			if code > 0 {
				p.Status.Phase = corev1.PodFailed
			}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{ExitCode: int32(code), FinishedAt: metav1.Now()}}}}
		})
	}
	synctest.Wait()
	// The server removes what is deleted once nothing holds it.
	for _, p := range All[*corev1.Pod](api) {
		if p.DeletionTimestamp != nil && len(p.Finalizers) == 0 {
			Drop[*corev1.Pod](api, p.Namespace, p.Name)
		}
	}
	synctest.Wait()
}

// conditions spells those that are true, with their reasons.
func conditions(j *batchv1.Job) string {
	var out []string
	for _, c := range j.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			out = append(out, string(c.Type)+"="+c.Reason)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestJobs(t *testing.T) {
	const ok, run = 0, -1
	for _, c := range []struct {
		name    string
		job     *batchv1.Job
		outcome func(p *corev1.Pod) int
		rounds  int
		want    string // conditions | succeeded failed active | completed | failed indexes
	}{
		{"completes", job(2, 5), func(*corev1.Pod) int { return ok }, 5,
			"Complete=CompletionsReached SuccessCriteriaMet=CompletionsReached | 5 0 0 |  | "},
		{"without completions one success is enough", job(2, 0, func(j *batchv1.Job) { j.Spec.Completions = nil }), func(*corev1.Pod) int { return ok }, 3,
			"Complete=CompletionsReached SuccessCriteriaMet=CompletionsReached | 2 0 0 |  | "},
		{"indexed", job(3, 5, asIndexed), func(*corev1.Pod) int { return ok }, 5,
			"Complete=CompletionsReached SuccessCriteriaMet=CompletionsReached | 5 0 0 | 0-4 | "},
		{"gives up", job(1, 1, func(j *batchv1.Job) { j.Spec.BackoffLimit = ptr.To[int32](2) }), func(*corev1.Pod) int { return 1 }, 60,
			"Failed=BackoffLimitExceeded FailureTarget=BackoffLimitExceeded | 0 3 0 |  | "},
		{"deadline", job(2, 2, func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = ptr.To[int64](20) }), func(*corev1.Pod) int { return run }, 10,
			"Failed=DeadlineExceeded FailureTarget=DeadlineExceeded | 0 2 0 |  | "},
		{"some indexes fail for good", job(4, 4, asIndexed, func(j *batchv1.Job) {
			j.Spec.BackoffLimitPerIndex = ptr.To[int32](1)
			j.Spec.BackoffLimit = ptr.To[int32](1 << 30)
		}),
			func(p *corev1.Pod) int { return podIndex(p) % 2 }, 20,
			"Failed=FailedIndexes FailureTarget=FailedIndexes | 2 4 0 | 0,2 | 1,3"},
		{"too many indexes fail", job(3, 3, asIndexed, func(j *batchv1.Job) {
			j.Spec.BackoffLimitPerIndex, j.Spec.MaxFailedIndexes, j.Spec.BackoffLimit = ptr.To[int32](0), ptr.To[int32](1), ptr.To[int32](1<<30)
		}), func(p *corev1.Pod) int { return min(1, podIndex(p)) }, 20,
			"Failed=MaxFailedIndexesExceeded FailureTarget=MaxFailedIndexesExceeded | 1 2 0 | 0 | 1,2"},
		{"success policy", job(3, 3, asIndexed, func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("0,1"), SucceededCount: ptr.To[int32](1)}}}
		}), func(p *corev1.Pod) int {
			if podIndex(p) == 1 {
				return ok
			}
			return run
		}, 5, "Complete=SuccessPolicy SuccessCriteriaMet=SuccessPolicy | 1 2 0 | 1 | "}, // those still running are taken down, and count as failed
		{"failure policy fails the job", job(2, 2, func(j *batchv1.Job) { j.Spec.PodFailurePolicy = exitPolicy(batchv1.PodFailurePolicyActionFailJob, 42) }),
			func(p *corev1.Pod) int { return 42 }, 5,
			"Failed=PodFailurePolicy FailureTarget=PodFailurePolicy | 0 2 0 |  | "},
		{"failure policy ignores", job(1, 1, func(j *batchv1.Job) {
			j.Spec.PodFailurePolicy = exitPolicy(batchv1.PodFailurePolicyActionIgnore, 42)
			j.Spec.BackoffLimit = ptr.To[int32](0)
		}),
			sequence(42, 42, 0), 10,
			"Complete=CompletionsReached SuccessCriteriaMet=CompletionsReached | 1 0 0 |  | "},
		{"failure policy fails the index", job(2, 2, asIndexed, func(j *batchv1.Job) {
			j.Spec.BackoffLimitPerIndex, j.Spec.BackoffLimit = ptr.To[int32](5), ptr.To[int32](1<<30)
			j.Spec.PodFailurePolicy = exitPolicy(batchv1.PodFailurePolicyActionFailIndex, 42)
		}), func(p *corev1.Pod) int { return podIndex(p) * 42 }, 5,
			"Failed=FailedIndexes FailureTarget=FailedIndexes | 1 1 0 | 0 | 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newAPI()
				start(t, api)
				Put(api, c.job)
				for range c.rounds {
					synctest.Wait()
					endings(api, c.outcome)
					if s := theJob(api).Status; s.Active > *c.job.Spec.Parallelism {
						t.Errorf("%d active of %d", s.Active, *c.job.Spec.Parallelism)
					}
					time.Sleep(10 * time.Second)
				}
				synctest.Wait()
				j := theJob(api)
				s := j.Status
				got := fmt.Sprintf("%s | %d %d %d | %s | %s", conditions(j), s.Succeeded, s.Failed, s.Active, s.CompletedIndexes, ptr.Deref(s.FailedIndexes, ""))
				if got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
				if done := strings.HasPrefix(got, "Complete"); done != (s.CompletionTime != nil) {
					t.Errorf("completion time %v", s.CompletionTime)
				}
				for _, p := range All[*corev1.Pod](api) {
					if tracked(p) {
						t.Errorf("pod %s is still held", p.Name)
					}
				}
			})
		})
	}
}

func exitPolicy(action batchv1.PodFailurePolicyAction, code int32) *batchv1.PodFailurePolicy {
	return &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: action,
		OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{code}}}}}
}

func sequence(codes ...int) func(*corev1.Pod) int {
	i := 0
	return func(*corev1.Pod) int {
		code := codes[min(i, len(codes)-1)]
		i++
		return code
	}
}

func TestJobSuspendedAndResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		start(t, api)
		Put(api, job(2, 2))
		synctest.Wait()
		if s := theJob(api).Status; s.Active != 2 || s.StartTime == nil {
			t.Fatalf("status %+v", s)
		}
		Change(api, "ns", "j", func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) })
		synctest.Wait()
		endings(api, func(*corev1.Pod) int { return -1 })
		if s := theJob(api).Status; s.Active != 0 || s.Failed != 0 || s.StartTime != nil || conditions(theJob(api)) != "Suspended=JobSuspended" {
			t.Errorf("suspended: %+v", s)
		}
		time.Sleep(time.Hour)
		Change(api, "ns", "j", func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(false) })
		synctest.Wait()
		if s := theJob(api).Status; s.Active != 2 || time.Since(s.StartTime.Time) > time.Minute || conditions(theJob(api)) != "" {
			t.Errorf("resumed: %+v", s)
		}
		for _, want := range []string{"Suspended Job suspended", "Resumed Job resumed"} {
			if !slices.Contains(messages(api), want) {
				t.Errorf("no event %q in %q", want, messages(api))
			}
		}
	})
}

func TestIndexedPod(t *testing.T) {
	j := job(1, 1, asIndexed)
	j.Name = "work"
	p := newJobPod(j, newIndex{index: 3})
	if p.GenerateName != "work-3-" || p.Spec.Hostname != "work-3" || p.Labels[batchv1.JobCompletionIndexAnnotation] != "3" || !tracked(p) {
		t.Errorf("pod %+v", p.ObjectMeta)
	}
	if e := p.Spec.Containers[0].Env[0]; e.Name != "JOB_COMPLETION_INDEX" || e.ValueFrom.FieldRef.FieldPath != "metadata.labels['batch.kubernetes.io/job-completion-index']" {
		t.Errorf("env %+v", e)
	}
}

func TestIndexSet(t *testing.T) {
	var s indexSet
	for _, i := range []int{5, 1, 3, 2, 9, 8, 0, 3} {
		s = s.with(i)
	}
	if s.String() != "0-3,5,8,9" || s.total() != 7 || s.has(4) || !s.has(8) {
		t.Errorf("set %s of %d", s, s.total())
	}
	for _, text := range []string{"", "0", "0,2", "0-2,7", "1,3-9,11,12"} {
		if got := parseIndexes(text, 100).String(); got != text {
			t.Errorf("%q comes back as %q", text, got)
		}
	}
	if got := parseIndexes("0,1", 3).with(2).String(); got != "0-2" {
		t.Errorf("0,1 with 2: %s", got)
	}
	if got := parseIndexes("1,3-9,12", 5).String(); got != "1,3,4" {
		t.Errorf("cut to 5: %s", got)
	}
}

func TestJobLetsPodsGoWhenItIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		start(t, api)
		Put(api, job(2, 2))
		synctest.Wait()
		Drop[*batchv1.Job](api, "ns", "j")
		synctest.Wait()
		for _, p := range All[*corev1.Pod](api) {
			if tracked(p) {
				t.Errorf("pod %s is still held", p.Name)
			}
		}
	})
}
