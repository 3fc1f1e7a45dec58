package core

import (
	"maps"
	"strconv"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// ReplicationController is the row of replication controllers, the predecessors of replica sets.
func ReplicationController() *kinds.Kind {
	return &kinds.Kind{
		Kind:       "ReplicationController",
		Resource:   "replicationcontrollers",
		ShortNames: []string{"rc"},
		Categories: []string{"all"},
		Namespaced: true,
		Versions:   []kinds.Version{kinds.V[corev1.ReplicationController, corev1.ReplicationControllerList]("v1")},
		Default:    kinds.On(defaultReplicationController),
		PrepareCreate: kinds.On(func(c *corev1.ReplicationController) {
			c.Status = corev1.ReplicationControllerStatus{}
		}),
		PrepareUpdate: kinds.OnUpdate(func(c, old *corev1.ReplicationController) { c.Status = old.Status }),
		Validate:      kinds.Check(validateReplicationController),
		ValidateUpdate: kinds.CheckUpdate(func(c, _ *corev1.ReplicationController) field.ErrorList {
			return validateReplicationController(c)
		}),
		Warnings:            kinds.Warn(warnReplicationController),
		HasGeneration:       true,
		UnconditionalUpdate: true,
		OrphanByDefault:     true,
		FieldLabels:         []string{"status.replicas"},
		Fields: kinds.Select(func(c *corev1.ReplicationController) fields.Set {
			return fields.Set{
				"metadata.name": c.Name, "metadata.namespace": c.Namespace, "status.replicas": strconv.Itoa(int(c.Status.Replicas)),
			}
		}),
		Columns:     kinds.ReplicaColumns(corev1.ReplicationControllerSpec{}.SwaggerDoc(), corev1.ReplicationControllerStatus{}.SwaggerDoc()),
		Cells:       kinds.Print(replicationControllerCells),
		ResetFields: map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{
			kinds.ScaleSubresource(),
			{
				Name:           "status",
				Verbs:          kinds.ReadWrite(),
				PrepareUpdate:  kinds.OnUpdate(func(c, old *corev1.ReplicationController) { c.Spec = old.Spec }),
				ValidateUpdate: kinds.CheckUpdate(validateReplicationControllerStatus),
				ResetFields:    map[string][]string{"v1": {"spec"}},
			},
		},
		Scale: &kinds.Scale{
			Get: func(o kinds.Object) *autoscalingv1.Scale {
				c := o.(*corev1.ReplicationController)
				return &autoscalingv1.Scale{
					Spec: autoscalingv1.ScaleSpec{Replicas: ptr.Deref(c.Spec.Replicas, 1)},
					Status: autoscalingv1.ScaleStatus{
						Replicas: c.Status.Replicas, Selector: labels.Set(c.Spec.Selector).AsSelectorPreValidated().String(),
					},
				}
			},
			SetReplicas:  func(o kinds.Object, n int32) { o.(*corev1.ReplicationController).Spec.Replicas = &n },
			ReplicasPath: map[string]string{"v1": ".spec.replicas"},
		},
	}
}

func defaultReplicationController(c *corev1.ReplicationController) {
	check.DefaultPointer(&c.Spec.Replicas, 1)
	if c.Spec.Template == nil {
		return
	}
	podspec.Default(&c.Spec.Template.Spec)
	if len(c.Spec.Selector) == 0 {
		c.Spec.Selector = maps.Clone(c.Spec.Template.Labels)
	}
	if len(c.Labels) == 0 {
		c.Labels = maps.Clone(c.Spec.Template.Labels)
	}
}

func validateReplicationController(c *corev1.ReplicationController) field.ErrorList {
	var r check.Report
	at, spec := field.NewPath("spec"), &c.Spec
	selector := labels.Set(spec.Selector).AsSelectorPreValidated()
	if selector.Empty() {
		r.Required(at.Child("selector"), "")
	}
	if t := spec.Template; t == nil {
		r.Required(at.Child("template"), "")
	} else {
		at := at.Child("template")
		if !selector.Empty() && !selector.Matches(labels.Set(t.Labels)) {
			r.Invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`")
		}
		r.Add(podspec.ValidateTemplate(t, at)...)
		check.OneOf(&r, at.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, corev1.RestartPolicyAlways)
		if t.Spec.ActiveDeadlineSeconds != nil {
			r.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicationController is not Supported")
		}
	}
	if spec.Replicas == nil {
		r.Required(at.Child("replicas"), "")
	} else {
		check.NotNegative(&r, at.Child("replicas"), *spec.Replicas)
	}
	check.NotNegative(&r, at.Child("minReadySeconds"), spec.MinReadySeconds)
	return r.Errs
}

func validateReplicationControllerStatus(c, _ *corev1.ReplicationController) field.ErrorList {
	var r check.Report
	at, s := field.NewPath("status"), &c.Status
	check.NotNegative(&r, at.Child("replicas"), s.Replicas)
	of := []struct {
		name  string
		value int32
	}{{"fullyLabeledReplicas", s.FullyLabeledReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas}}
	for _, c := range of {
		check.NotNegative(&r, at.Child(c.name), c.value)
	}
	r.Add(apivalidation.ValidateNonnegativeField(s.ObservedGeneration, at.Child("observedGeneration"))...)
	for _, c := range of {
		if c.value > s.Replicas {
			r.Invalid(at.Child(c.name), c.value, "cannot be greater than status.replicas")
		}
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		r.Invalid(at.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas")
	}
	return r.Errs
}

func warnReplicationController(c, old *corev1.ReplicationController) (out []string) {
	var before *corev1.PodTemplateSpec
	if old == nil {
		out = check.PodNameWarning(c.Name)
	} else {
		before = old.Spec.Template
	}
	if c.Spec.Template == nil {
		return out
	}
	return append(out, podspec.TemplateWarnings(field.NewPath("spec", "template"), c.Spec.Template, before)...)
}

func replicationControllerCells(c *corev1.ReplicationController, now metav1.Time) []any {
	names, images := kinds.ContainerCells(ptr.Deref(c.Spec.Template, corev1.PodTemplateSpec{}).Spec.Containers)
	return []any{
		c.Name, int64(ptr.Deref(c.Spec.Replicas, 0)), int64(c.Status.Replicas), int64(c.Status.ReadyReplicas),
		kinds.Age(c.CreationTimestamp, now), names, images, kinds.LabelCell(c.Spec.Selector),
	}
}
