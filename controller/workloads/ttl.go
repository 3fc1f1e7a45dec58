package workloads

import (
	"context"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// TTLAfterFinished deletes Jobs some time after they have finished, where their spec says so.
func TTLAfterFinished(env controller.Env) *controller.Loop {
	c := env.Client("ttl-after-finished-controller")
	return env.NewLoop(c, controller.Controller{
		Name: "ttl-after-finished-controller",
		Watches: []controller.Watch{{Resource: client.ResourceOf[*batchv1.Job](c), Keys: func(ev client.Event, add func(controller.Key)) {
			if ev.Type == client.Put && ev.Item.Object.(*batchv1.Job).Spec.TTLSecondsAfterFinished != nil {
				controller.Itself(ev, add)
			}
		}}},
		Reconcile: func(ctx context.Context, key controller.Key) (time.Duration, error) {
			job, ok := client.From[*batchv1.Job](c, c.Snapshot(), key.Namespace, key.Name)
			if !ok || job.DeletionTimestamp != nil {
				return 0, nil
			}
			left, due := timeToLive(job, time.Now())
			if !due {
				return left, nil
			}
			err := client.Remove[*batchv1.Job](ctx, c, job.Namespace, job.Name, metav1.DeleteOptions{
				PropagationPolicy: ptr.To(metav1.DeletePropagationForeground),
				Preconditions:     &metav1.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion},
			})
			if gone(err) {
				return 0, nil
			}
			return 0, err
		},
	})
}

// timeToLive returns whether a job's time after its end is over, and how much is left else; 0 while it has not finished.
func timeToLive(job *batchv1.Job, now time.Time) (left time.Duration, due bool) {
	end, done := finishedJob(job)
	if !done || job.Spec.TTLSecondsAfterFinished == nil {
		return 0, false
	}
	at := jobCondition(&job.Status, end).LastTransitionTime.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second)
	left = at.Sub(now)
	return max(0, left), left <= 0
}
