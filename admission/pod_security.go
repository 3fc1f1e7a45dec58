package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"github.com/kebernetes/kebernetes/store"
)

// maxPodsToCheck bounds what a new level of a namespace is compared with; upstream's number.
const maxPodsToCheck = 3000

// security holds pods to the level that their namespace's labels ask for
// (https://kubernetes.io/docs/concepts/security/pod-security-admission/).
type security struct {
	reader    store.Reader
	evaluator policy.Evaluator
}

func podSecurity(reader store.Reader) (Step, error) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return Step{}, fmt.Errorf("load pod security standards: %w", err)
	}
	s := &security{reader: reader, evaluator: evaluator}
	return Step{Name: "PodSecurity", Validate: s.validate}, nil
}

func (s *security) validate(_ context.Context, r *Request) error {
	if r.Operation != Create && r.Operation != Update {
		return nil
	}
	if namespace, ok := r.Object.(*corev1.Namespace); ok {
		if r.Subresource == "" {
			return s.namespace(r, namespace)
		}
		return nil
	}
	enforced := r.Kind.Resource == "pods" && r.Kind.Group == ""
	meta, spec := podOf(r.Object)
	if spec == nil || (r.Subresource != "" && !(enforced && (r.Subresource == "ephemeralcontainers" || r.Subresource == "resize"))) {
		return nil
	}
	namespace, ok := named[*corev1.Namespace](s.reader, "namespaces", "", r.Namespace)
	if !ok || !labelled(namespace.Labels) {
		return nil
	}
	if r.Operation == Update && enforced && !securityChanged(r.Object.(*corev1.Pod), r.Old.(*corev1.Pod)) {
		return nil
	}
	levels, errs := api.PolicyToEvaluate(namespace.Labels, privileged())
	return s.judge(r, levels, errs, meta, spec, enforced)
}

// judge evaluates a pod, or a template, at the namespace's levels. Labels that cannot be read make the step as strict as can be.
func (s *security) judge(r *Request, levels api.Policy, bad field.ErrorList, meta *metav1.ObjectMeta, spec *corev1.PodSpec, enforced bool) error {
	if len(bad) == 0 && levels.FullyPrivileged() {
		return nil
	}
	refusals := map[api.LevelVersion]policy.AggregateCheckResult{}
	at := func(level api.LevelVersion) policy.AggregateCheckResult {
		result, ok := refusals[level]
		if !ok {
			result = policy.AggregateCheckResults(s.evaluator.EvaluatePod(level, meta, spec))
			refusals[level] = result
		}
		return result
	}
	if enforced {
		if result := at(levels.Enforce); !result.Allowed {
			err := r.forbid("violates PodSecurity %q: %s", levels.Enforce.String(), result.ForbiddenDetail())
			if len(bad) > 0 {
				err.ErrStatus.Message += fmt.Sprintf("; %v", bad.ToAggregate())
			}
			return err
		}
	}
	// A pod that would have been refused at the level of the warnings is not warned of twice.
	if result := at(levels.Warn); !result.Allowed {
		r.Warn(fmt.Sprintf("would violate PodSecurity %q: %s", levels.Warn.String(), result.ForbiddenDetail()))
	}
	return nil
}

func privileged() api.Policy {
	all := api.LevelVersion{Level: api.LevelPrivileged, Version: api.LatestVersion()}
	return api.Policy{Enforce: all, Audit: all, Warn: all}
}

func labelled(labels map[string]string) bool {
	for key := range labels {
		if strings.HasPrefix(key, api.AuditAnnotationPrefix) {
			return true
		}
	}
	return false
}

// podOf returns the pod, or the template of pods, of an object.
func podOf(obj runtime.Object) (*metav1.ObjectMeta, *corev1.PodSpec) {
	template := func(t *corev1.PodTemplateSpec) (*metav1.ObjectMeta, *corev1.PodSpec) { return &t.ObjectMeta, &t.Spec }
	switch o := obj.(type) {
	case *corev1.Pod:
		return &o.ObjectMeta, &o.Spec
	case *corev1.PodTemplate:
		return template(&o.Template)
	case *corev1.ReplicationController:
		if o.Spec.Template == nil {
			return nil, nil
		}
		return template(o.Spec.Template)
	case *appsv1.ReplicaSet:
		return template(&o.Spec.Template)
	case *appsv1.Deployment:
		return template(&o.Spec.Template)
	case *appsv1.StatefulSet:
		return template(&o.Spec.Template)
	case *appsv1.DaemonSet:
		return template(&o.Spec.Template)
	case *batchv1.Job:
		return template(&o.Spec.Template)
	case *batchv1.CronJob:
		return template(&o.Spec.JobTemplate.Spec.Template)
	}
	return nil, nil
}

// securityChanged says whether an update of a pod can matter to a check: most cannot, as a pod's spec is nearly immutable.
func securityChanged(pod, old *corev1.Pod) bool {
	if len(pod.Spec.Containers) != len(old.Spec.Containers) || len(pod.Spec.InitContainers) != len(old.Spec.InitContainers) ||
		len(pod.Spec.EphemeralContainers) != len(old.Spec.EphemeralContainers) {
		return true
	}
	return !equality.Semantic.DeepEqual(pod.Annotations, old.Annotations) || !equality.Semantic.DeepEqual(pod.Spec, old.Spec)
}

// namespace checks the labels of a namespace, and warns of pods that would not be let in at a stricter level.
func (s *security) namespace(r *Request, namespace *corev1.Namespace) error {
	levels, errs := api.PolicyToEvaluate(namespace.Labels, privileged())
	if r.Operation == Create {
		return invalidLabels(r, namespace.Name, errs)
	}
	oldLevels, oldErrs := api.PolicyToEvaluate(r.Old.GetLabels(), privileged())
	if len(errs) > 0 && len(oldErrs) == 0 {
		return invalidLabels(r, namespace.Name, errs)
	}
	stricter := api.CompareLevels(levels.Enforce.Level, oldLevels.Enforce.Level) > 0 || levels.Enforce.Version != oldLevels.Enforce.Version
	if levels.Enforce.Level == api.LevelPrivileged || !stricter || namespace.DeletionTimestamp != nil {
		return nil
	}
	for _, warning := range s.violations(namespace.Name, levels.Enforce) {
		r.Warn(warning)
	}
	return nil
}

func invalidLabels(r *Request, name string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(r.Kind.GroupKind(), name, errs)
}

// violations counts the pods of a namespace that a level refuses, one line for each combination of reasons.
func (s *security) violations(namespace string, level api.LevelVersion) []string {
	type group struct {
		pod   string
		count int
	}
	groups, order := map[string]*group{}, []string(nil)
	controllers := map[types.UID]bool{}
	checked, total := 0, 0
	for item := range s.reader.Snapshot().List("pods", namespace) {
		total++
		if checked == maxPodsToCheck {
			continue
		}
		checked++
		pod := item.Object.(*corev1.Pod)
		// Pods of one controller are alike; one of them speaks for all.
		if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
			if controllers[owner.UID] {
				continue
			}
			controllers[owner.UID] = true
		}
		result := policy.AggregateCheckResults(s.evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec))
		if result.Allowed {
			continue
		}
		reason := result.ForbiddenReason()
		if g := groups[reason]; g != nil {
			g.count++
			continue
		}
		groups[reason] = &group{pod: pod.Name, count: 1}
		order = append(order, reason)
	}
	if len(order) == 0 {
		return nil
	}
	var out []string
	if total > checked {
		out = append(out, fmt.Sprintf("new PodSecurity enforce level only checked against the first %d of %d existing pods", checked, total))
	}
	out = append(out, fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q", namespace, level.String()))
	slices.SortFunc(order, func(a, b string) int { return strings.Compare(groups[a].pod, groups[b].pod) })
	for _, reason := range order {
		switch g := groups[reason]; g.count {
		case 1:
			out = append(out, fmt.Sprintf("%s: %s", g.pod, reason))
		case 2:
			out = append(out, fmt.Sprintf("%s (and 1 other pod): %s", g.pod, reason))
		default:
			out = append(out, fmt.Sprintf("%s (and %d other pods): %s", g.pod, g.count-1, reason))
		}
	}
	return out
}
