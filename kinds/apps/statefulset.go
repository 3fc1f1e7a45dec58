package apps

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/meta"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// StatefulSet is the row of stateful sets.
func StatefulSet() *kinds.Kind {
	return &kinds.Kind{
		Group:      appsv1.GroupName,
		Kind:       "StatefulSet",
		Resource:   "statefulsets",
		ShortNames: []string{"sts"},
		Categories: []string{"all"},
		Namespaced: true,
		Versions:   []kinds.Version{kinds.V[appsv1.StatefulSet, appsv1.StatefulSetList]("v1")},
		// Pods are named after the set, and their names are host names.
		ValidateName:  apivalidation.NameIsDNSLabel,
		Default:       kinds.On(defaultStatefulSet),
		PrepareCreate: kinds.On(func(s *appsv1.StatefulSet) { s.Status = appsv1.StatefulSetStatus{} }),
		PrepareUpdate: kinds.OnUpdate(func(s, old *appsv1.StatefulSet) { s.Status = old.Status }),
		Validate: kinds.Check(func(s *appsv1.StatefulSet) field.ErrorList {
			r := check.Report{Errs: validateStatefulSet(s)}
			// Old sets may have any: the name is the pods' subdomain, and those that cannot work have no pods.
			if n := s.Spec.ServiceName; n != "" {
				r.Invalid(field.NewPath("spec", "serviceName"), n, validation.IsDNS1123Label(n)...)
			}
			return r.Errs
		}),
		ValidateUpdate:      kinds.CheckUpdate(validateStatefulSetUpdate),
		Warnings:            kinds.Warn(warnStatefulSet),
		HasGeneration:       true,
		UnconditionalUpdate: true,
		Columns: append([]metav1.TableColumnDefinition{
			kinds.NameColumn(), kinds.Column("Ready", "string", "Number of the pod with ready state"), kinds.AgeColumn(),
		}, kinds.ContainerColumns()...),
		Cells: kinds.Print(func(s *appsv1.StatefulSet, now metav1.Time) []any {
			names, images := kinds.ContainerCells(s.Spec.Template.Spec.Containers)
			ready := fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, ptr.Deref(s.Spec.Replicas, 0))
			return []any{s.Name, ready, kinds.Age(s.CreationTimestamp, now), names, images}
		}),
		ResetFields: map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{
			kinds.ScaleSubresource(),
			{
				Name:           "status",
				Verbs:          kinds.ReadWrite(),
				PrepareUpdate:  kinds.OnUpdate(func(s, old *appsv1.StatefulSet) { s.Spec = old.Spec }),
				ValidateUpdate: kinds.CheckUpdate(validateStatefulSetStatus),
				ResetFields:    map[string][]string{"v1": {"spec"}},
			},
		},
		Scale: scaleOf(func(s *appsv1.StatefulSet) (**int32, *metav1.LabelSelector, int32) {
			return &s.Spec.Replicas, s.Spec.Selector, s.Status.Replicas
		}),
	}
}

func defaultStatefulSet(s *appsv1.StatefulSet) {
	spec := &s.Spec
	podspec.Default(&spec.Template.Spec)
	for i := range spec.VolumeClaimTemplates {
		c := &spec.VolumeClaimTemplates[i]
		check.Default(&c.TypeMeta, metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"})
		check.Default(&c.Status.Phase, corev1.ClaimPending)
		check.DefaultPointer(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	}
	check.Default(&spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	check.Default(&spec.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
	if spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		check.DefaultPointer(&spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
		check.DefaultPointer(&spec.UpdateStrategy.RollingUpdate.Partition, 0)
		check.DefaultPointer(&spec.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	check.DefaultPointer(&spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	check.Default(&spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	check.Default(&spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	check.DefaultPointer(&spec.Replicas, 1)
	check.DefaultPointer(&spec.RevisionHistoryLimit, 10)
}

func validateStatefulSet(s *appsv1.StatefulSet) field.ErrorList {
	var r check.Report
	at, spec := field.NewPath("spec"), &s.Spec
	policy := at.Child("podManagementPolicy")
	switch spec.PodManagementPolicy {
	case "":
		r.Required(policy, "")
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		r.Invalid(policy, spec.PodManagementPolicy, "must be 'OrderedReady' or 'Parallel'")
	}
	statefulStrategy(&r, at.Child("updateStrategy"), &spec.UpdateStrategy)
	if p := spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		keep, remove := appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
		check.OneOf(&r, at.Child("persistentVolumeClaimRetentionPolicy", "whenDeleted"), p.WhenDeleted, keep, remove)
		check.OneOf(&r, at.Child("persistentVolumeClaimRetentionPolicy", "whenScaled"), p.WhenScaled, keep, remove)
	}
	check.NotNegative(&r, at.Child("replicas"), ptr.Deref(spec.Replicas, 0))
	check.NotNegative(&r, at.Child("minReadySeconds"), spec.MinReadySeconds)
	if spec.Ordinals != nil {
		check.NotNegative(&r, at.Child("ordinals", "start"), spec.Ordinals.Start)
	}
	selector, errs := meta.ValidateSelector(spec.Selector, "statefulset", at.Child("selector"))
	r.Add(errs...)
	if selector != nil {
		podsOf(&r, at.Child("template"), withClaims(spec), selector, "StatefulSet")
	}
	return r.Errs
}

// withClaims is the template as its pods get it: the claims that are made for each are its volumes, instead of those of the same name.
func withClaims(spec *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	if len(spec.VolumeClaimTemplates) == 0 {
		return &spec.Template
	}
	out := spec.Template
	out.Spec.Volumes = slices.DeleteFunc(slices.Clone(out.Spec.Volumes), func(v corev1.Volume) bool {
		return slices.ContainsFunc(spec.VolumeClaimTemplates, func(c corev1.PersistentVolumeClaim) bool { return c.Name == v.Name })
	})
	for _, c := range spec.VolumeClaimTemplates {
		out.Spec.Volumes = append(out.Spec.Volumes, corev1.Volume{Name: c.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name}}})
	}
	return &out
}

// podsOf checks the template of a workload, named by its kind, whose pods run for ever.
func podsOf(r *check.Report, at *field.Path, t *corev1.PodTemplateSpec, selector labels.Selector, kind string) {
	if !selector.Empty() && !selector.Matches(labels.Set(t.Labels)) {
		r.Invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`")
	}
	r.Add(podspec.ValidateTemplate(t, at)...)
	check.OneOf(r, at.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, corev1.RestartPolicyAlways)
	if t.Spec.ActiveDeadlineSeconds != nil {
		r.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported")
	}
}

func statefulStrategy(r *check.Report, at *field.Path, s *appsv1.StatefulSetUpdateStrategy) {
	rolling := at.Child("rollingUpdate")
	switch s.Type {
	case "":
		r.Required(at, "")
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			r.Invalid(rolling, podspec.Dump(s.RollingUpdate), "only allowed for updateStrategy 'RollingUpdate'")
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if s.RollingUpdate == nil {
			return
		}
		check.NotNegative(r, rolling.Child("partition"), ptr.Deref(s.RollingUpdate.Partition, 0))
		if m := s.RollingUpdate.MaxUnavailable; m != nil {
			check.Amount(r, rolling.Child("maxUnavailable"), m)
			if check.IsZero(m) {
				r.Invalid(rolling.Child("maxUnavailable"), *m, "cannot be 0")
			}
			check.AtMostAll(r, rolling.Child("maxUnavailable"), m)
		}
	default:
		r.Invalid(at, podspec.Dump(*s), "must be 'RollingUpdate' or 'OnDelete'")
	}
}

func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	r := check.Report{Errs: validateStatefulSet(s)}
	at := field.NewPath("spec")
	r.Immutable(at.Child("selector"), s.Spec.Selector, old.Spec.Selector)
	if !check.Same(s.Spec.VolumeClaimTemplates, old.Spec.VolumeClaimTemplates) {
		r.Invalid(at.Child("volumeClaimTemplates"), podspec.Dump(s.Spec.VolumeClaimTemplates), apivalidation.FieldImmutableErrorMsg)
	}
	r.Immutable(at.Child("serviceName"), s.Spec.ServiceName, old.Spec.ServiceName)
	r.Immutable(at.Child("podManagementPolicy"), s.Spec.PodManagementPolicy, old.Spec.PodManagementPolicy)
	return r.Errs
}

func validateStatefulSetStatus(s, old *appsv1.StatefulSet) field.ErrorList {
	var r check.Report
	at, t := field.NewPath("status"), &s.Status
	ready, current := count{"readyReplicas", int64(t.ReadyReplicas)}, count{"currentReplicas", int64(t.CurrentReplicas)}
	updated, available := count{"updatedReplicas", int64(t.UpdatedReplicas)}, count{"availableReplicas", int64(t.AvailableReplicas)}
	notNegativeCounts(&r, at, count{"replicas", int64(t.Replicas)}, ready, current, updated, available,
		count{"observedGeneration", t.ObservedGeneration})
	collisionCount(&r, at, t.CollisionCount, old.Status.CollisionCount)
	atMost(&r, at, t.Replicas, aboveReplicas, ready, current, updated, available)
	atMost(&r, at, t.ReadyReplicas, "cannot be greater than status.readyReplicas", available)
	return r.Errs
}

func warnStatefulSet(s, old *appsv1.StatefulSet) []string {
	var before *corev1.PodTemplateSpec
	if old != nil {
		before = &old.Spec.Template
	}
	out := podspec.TemplateWarnings(field.NewPath("spec", "template"), &s.Spec.Template, before)
	if ptr.Deref(s.Spec.RevisionHistoryLimit, 0) < 0 {
		out = append(out, "spec.revisionHistoryLimit: a negative value retains all historical revisions")
	}
	return out
}
