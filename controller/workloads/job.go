package workloads

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

var jobKind = batchv1.SchemeGroupVersion.WithKind("Job")

// completionIndexEnv is the variable that tells the containers of an indexed job their index.
const completionIndexEnv = "JOB_COMPLETION_INDEX"

// Jobs runs the pods of each Job to their end and counts how they end.
func Jobs(env controller.Env) *controller.Loop {
	c := env.Client("job-controller")
	r := &jobs{
		client: c,
		events: client.NewRecorder(c, "job-controller", env.Logger),
		pods: controller.NewIndex(func(obj client.Object, add func(controller.Group)) {
			controller.ByController(jobKind.GroupKind())(obj, add)
			if key, ok := controller.OwnerOf(obj, jobKind.GroupKind()); ok && tracked(obj.(*corev1.Pod)) {
				add(trackedOf(key))
			}
		}),
	}
	return env.NewLoop(c, controller.Controller{
		Name: "job-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*batchv1.Job](c), Keys: controller.Itself},
			dependents[*batchv1.Job, *corev1.Pod](c, r.pods, jobKind.GroupKind(), func(job *batchv1.Job) *metav1.LabelSelector { return job.Spec.Selector }),
		},
		Reconcile: r.reconcile,
	})
}

type jobs struct {
	client *client.Client
	events *client.Recorder
	pods   *controller.Index // by controller, and those that are tracked by the name of their job
}

func trackedOf(job controller.Key) controller.Group {
	return controller.Group{"tracked", job.Namespace, job.Name}
}

func (r *jobs) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	job, ok := client.From[*batchv1.Job](r.client, r.client.Snapshot(), key.Namespace, key.Name)
	if err := r.untrackStrays(ctx, key, job); err != nil {
		return 0, err
	}
	if !ok || job.Spec.ManagedBy != nil && *job.Spec.ManagedBy != batchv1.JobControllerName {
		return 0, nil
	}
	sel, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil || sel.Empty() {
		return 0, err
	}
	claim := planClaim(job, sel, candidates[*corev1.Pod](r.pods, job), nil)
	if _, done := finishedJob(job); done {
		claim.adopt = nil
	}
	adopted := claim.adopt
	pods, err := claimAll(ctx, r.client, job, jobKind, claim)
	if err != nil {
		return 0, err
	}
	if err := r.track(ctx, adopted); err != nil {
		return 0, err
	}
	if err := r.untrack(ctx, claim.release); err != nil {
		return 0, err
	}
	if len(adopted)+len(claim.release) > 0 {
		return 0, nil // the events of these writes bring the next reconcile
	}
	plan := planJob(job, pods, time.Now())
	return plan.again, r.carryOut(ctx, job, plan)
}

// carryOut makes a plan true. What the status counts is written before the finalizers that guard it go.
func (r *jobs) carryOut(ctx context.Context, job *batchv1.Job, plan *jobPlan) error {
	if len(plan.create) == 0 || len(plan.untrack) > 0 {
		if err := r.writeStatus(ctx, job, plan.status); err != nil {
			return err
		}
	}
	if err := r.untrack(ctx, append(plan.untrack, plan.drop...)); err != nil {
		return err
	}
	if err := deletePods(ctx, r.client, r.events, job, append(plan.remove, plan.drop...)); err != nil {
		return err
	}
	created, err := createPods(ctx, r.client, r.events, job, len(plan.create), func(i int) *corev1.Pod {
		return newJobPod(job, plan.create[i])
	})
	if len(plan.create) > 0 && len(plan.untrack) == 0 {
		plan.status.Active += int32(created)
		if serr := r.writeStatus(ctx, job, plan.status); serr != nil {
			return serr
		}
	}
	return err
}

func (r *jobs) writeStatus(ctx context.Context, job *batchv1.Job, status batchv1.JobStatus) error {
	if apiequality.Semantic.DeepEqual(status, job.Status) {
		return nil
	}
	update := job.DeepCopy()
	update.Status = status
	if _, err := client.UpdateStatus(ctx, r.client, update); err != nil {
		if gone(err) && !stillThere(r.client, job) {
			return nil
		}
		return err
	}
	r.tell(job, &status)
	return nil
}

// tell records the events of what has just become true of a job.
func (r *jobs) tell(job *batchv1.Job, status *batchv1.JobStatus) {
	for i := range status.Conditions {
		c := &status.Conditions[i]
		before := jobCondition(&job.Status, c.Type)
		if before != nil && before.Status == c.Status {
			continue
		}
		switch {
		case c.Type == batchv1.JobComplete && c.Status == corev1.ConditionTrue:
			r.events.Event(job, corev1.EventTypeNormal, "Completed", "Job completed")
		case c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue:
			r.events.Event(job, corev1.EventTypeWarning, c.Reason, "%s", c.Message)
		case c.Type == batchv1.JobSuspended && c.Status == corev1.ConditionTrue:
			r.events.Event(job, corev1.EventTypeNormal, "Suspended", "Job suspended")
		case c.Type == batchv1.JobSuspended && before != nil:
			r.events.Event(job, corev1.EventTypeNormal, "Resumed", "Job resumed")
		}
	}
}

// track puts the finalizer on adopted pods: each must be counted before it may go.
func (r *jobs) track(ctx context.Context, pods []*corev1.Pod) error {
	for _, pod := range pods {
		if !tracked(pod) && pod.DeletionTimestamp == nil {
			if err := r.patchFinalizers(ctx, pod, []string{batchv1.JobTrackingFinalizer}); err != nil {
				return err
			}
		}
	}
	return nil
}

// untrack takes the finalizer off pods.
func (r *jobs) untrack(ctx context.Context, pods []*corev1.Pod) error {
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, pod := range pods {
		if tracked(pod) {
			wg.Go(func() { errs[i] = r.patchFinalizers(ctx, pod, nil) })
		}
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *jobs) patchFinalizers(ctx context.Context, pod *corev1.Pod, add []string) error {
	metadata := map[string]any{"uid": pod.UID}
	if add == nil {
		metadata["$deleteFromPrimitiveList/finalizers"] = []string{batchv1.JobTrackingFinalizer}
	} else {
		metadata["finalizers"] = add
	}
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = client.Patch[*corev1.Pod](ctx, r.client, pod.Namespace, pod.Name, "", types.StrategicMergePatchType, patch)
	if err != nil && !gone(err) {
		return fmt.Errorf("change finalizers of pod %s: %w", pod.Name, err)
	}
	return nil
}

// untrackStrays lets go of pods whose job is gone: nobody will count them.
func (r *jobs) untrackStrays(ctx context.Context, key controller.Key, job *batchv1.Job) error {
	var strays []*corev1.Pod
	for _, pod := range controller.Indexed[*corev1.Pod](r.pods, trackedOf(controller.Key{Namespace: key.Namespace, Name: key.Name})) {
		if job == nil || !metav1.IsControlledBy(pod, job) {
			strays = append(strays, pod)
		}
	}
	return r.untrack(ctx, strays)
}

// newJobPod returns a pod of a job, for an index where there is one.
func newJobPod(job *batchv1.Job, n newIndex) *corev1.Pod {
	pod := newPod(job, jobKind, &job.Spec.Template)
	pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	if n.index < 0 {
		return pod
	}
	index := strconv.Itoa(n.index)
	pod.Labels[batchv1.JobCompletionIndexAnnotation] = index
	metav1.SetMetaDataAnnotation(&pod.ObjectMeta, batchv1.JobCompletionIndexAnnotation, index)
	if job.Spec.BackoffLimitPerIndex != nil {
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, batchv1.JobIndexFailureCountAnnotation, strconv.Itoa(n.failures))
	}
	pod.GenerateName = indexedName(job.Name, index) + "-"
	if pod.Spec.Hostname == "" {
		pod.Spec.Hostname = job.Name + "-" + index
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			addIndexEnv(&containers[i])
		}
	}
	return pod
}

// indexedName shortens a job's name so that the index, and what the server appends, still fit.
func indexedName(job, index string) string {
	const suffix = 1 + 5 // "-" and the random part
	room := validation.DNS1123SubdomainMaxLength - len(index) - 1 - suffix
	return job[:min(len(job), room)] + "-" + index
}

func addIndexEnv(c *corev1.Container) {
	for i := range c.Env {
		if c.Env[i].Name == completionIndexEnv {
			return
		}
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: completionIndexEnv, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation)},
	}})
}
