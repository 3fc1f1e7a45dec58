package workloads

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	. "github.com/kebernetes/kebernetes/controller/controllertest"
)

func cronJob(schedule string, edit ...func(*batchv1.CronJob)) *batchv1.CronJob {
	cj := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cj"},
		Spec: batchv1.CronJobSpec{Schedule: schedule, ConcurrencyPolicy: batchv1.AllowConcurrent,
			SuccessfulJobsHistoryLimit: ptr.To[int32](3), FailedJobsHistoryLimit: ptr.To[int32](1),
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template("i", nil)}}},
	}
	for _, e := range edit {
		e(cj)
	}
	return cj
}

func finish(api *API, name string) {
	Change(api, "ns", name, func(j *batchv1.Job) {
		now := metav1.Now()
		j.Status.CompletionTime = &now
		j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: now}}
	})
}

func TestCronJobPolicies(t *testing.T) {
	for _, c := range []struct {
		policy       batchv1.ConcurrencyPolicy
		jobs, active int
		event        string
	}{
		{batchv1.AllowConcurrent, 5, 5, "SuccessfulCreate"},
		{batchv1.ForbidConcurrent, 1, 1, "JobAlreadyActive"},
		{batchv1.ReplaceConcurrent, 1, 1, "SuccessfulDelete"},
	} {
		t.Run(string(c.policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newAPI()
				Start(t, CronJobs(api.Env(t)))
				Put(api, cronJob("* * * * *", func(cj *batchv1.CronJob) { cj.Spec.ConcurrencyPolicy = c.policy }))
				time.Sleep(5*time.Minute + time.Second)
				synctest.Wait()
				cj := All[*batchv1.CronJob](api)[0]
				if n := len(All[*batchv1.Job](api)); n != c.jobs || len(cj.Status.Active) != c.active {
					t.Errorf("%d jobs, %d active", n, len(cj.Status.Active))
				}
				if !slices.ContainsFunc(messages(api), func(m string) bool { return strings.HasPrefix(m, c.event+" ") }) {
					t.Errorf("no event %s in %q", c.event, messages(api))
				}
				j := All[*batchv1.Job](api)[0]
				if at, err := time.Parse(time.RFC3339, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation]); err != nil || j.Name != fmt.Sprintf("cj-%d", at.Unix()/60) {
					t.Errorf("job %s scheduled at %s (%v)", j.Name, at, err)
				}
			})
		})
	}
}

func TestCronJobKeepsHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, CronJobs(api.Env(t)))
		Put(api, cronJob("* * * * *"))
		for range 6 {
			time.Sleep(time.Minute + time.Second)
			synctest.Wait()
			for _, j := range All[*batchv1.Job](api) {
				if _, done := finishedJob(j); !done {
					finish(api, j.Name)
				}
			}
			synctest.Wait()
		}
		cj := All[*batchv1.CronJob](api)[0]
		if n := len(All[*batchv1.Job](api)); n != 3 || len(cj.Status.Active) != 0 || cj.Status.LastSuccessfulTime == nil {
			t.Errorf("%d jobs kept, status %+v", n, cj.Status)
		}
		Change(api, "ns", "cj", func(cj *batchv1.CronJob) { cj.Spec.Suspend = ptr.To(true) })
		synctest.Wait()
		api.Writes()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if w := api.Writes(); len(w) > 0 {
			t.Errorf("suspended, but writes %q", w)
		}
	})
}

func TestLastMissed(t *testing.T) {
	at := func(s string) time.Time {
		out, err := time.Parse("2006-01-02 15:04:05", s)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, c := range []struct{ schedule, earliest, now, want string }{
		{"0 * * * *", "2026-01-01 10:10:00", "2026-01-01 10:50:00", "-"},
		{"0 * * * *", "2026-01-01 10:10:00", "2026-01-01 11:00:00", "2026-01-01 11:00:00"},
		{"0 * * * *", "2026-01-01 10:10:00", "2026-01-01 15:30:00", "2026-01-01 15:00:00"},
		{"* * * * *", "2020-01-01 10:10:00", "2026-01-01 15:30:30", "2026-01-01 15:30:00 too many"},
		{"0 0 29 2 *", "2020-01-01 10:10:00", "2026-01-01 15:30:30", "2024-02-29 00:00:00"},
		{"@every 7s", "2026-01-01 10:00:00", "2026-01-01 11:00:00", "2026-01-01 10:59:58 too many"},
	} {
		schedule, err := cron.ParseStandard(c.schedule)
		if err != nil {
			t.Fatal(err)
		}
		last, tooMany := lastMissed(schedule, at(c.earliest), at(c.now))
		got := "-"
		if !last.IsZero() {
			got = last.Format("2006-01-02 15:04:05")
		}
		if tooMany {
			got += " too many"
		}
		if got != c.want {
			t.Errorf("%s from %s to %s: %s, want %s", c.schedule, c.earliest, c.now, got, c.want)
		}
	}
}

func TestFinishedJobExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, TTLAfterFinished(api.Env(t)))
		for name, ttl := range map[string]*int32{"goes": ptr.To[int32](60), "stays": nil} {
			j := job(1, 1)
			j.Name, j.Spec.TTLSecondsAfterFinished = name, ttl
			Put(api, j)
		}
		time.Sleep(time.Hour)
		finish(api, "goes")
		finish(api, "stays")
		time.Sleep(59 * time.Second)
		synctest.Wait()
		count := func() (n int) {
			for _, j := range All[*batchv1.Job](api) {
				if j.DeletionTimestamp == nil {
					n++
				}
			}
			return n
		}
		if n := count(); n != 2 {
			t.Errorf("%d jobs before the time is over", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := count(); n != 1 {
			t.Errorf("%d jobs after it", n)
		}
	})
}

func TestReplicationController(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, ReplicationControllers(api.Env(t)))
		app := map[string]string{"app": "rc"}
		tmpl := template("i", app)
		Put(api, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "rc"},
			Spec: corev1.ReplicationControllerSpec{Replicas: ptr.To[int32](3), Selector: app, Template: &tmpl}})
		k := kubelet{api: api}
		k.run(3*time.Second, nil)
		if s := All[*corev1.ReplicationController](api)[0].Status; s.Replicas != 3 || s.AvailableReplicas != 3 || s.ObservedGeneration != 1 {
			t.Errorf("status %+v", s)
		}
		Change(api, "ns", "rc", func(rc *corev1.ReplicationController) { rc.Spec.Replicas = ptr.To[int32](1); rc.Generation++ })
		k.run(3*time.Second, nil)
		if s := All[*corev1.ReplicationController](api)[0].Status; s.Replicas != 1 || s.ObservedGeneration != 2 {
			t.Errorf("status %+v", s)
		}
	})
}
