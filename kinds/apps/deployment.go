package apps

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/meta"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// Deployment is the row of deployments.
func Deployment() *kinds.Kind {
	return &kinds.Kind{
		Group:               appsv1.GroupName,
		Kind:                "Deployment",
		Resource:            "deployments",
		ShortNames:          []string{"deploy"},
		Categories:          []string{"all"},
		Namespaced:          true,
		Versions:            []kinds.Version{kinds.V[appsv1.Deployment, appsv1.DeploymentList]("v1")},
		Default:             kinds.On(defaultDeployment),
		PrepareCreate:       kinds.On(func(d *appsv1.Deployment) { d.Status = appsv1.DeploymentStatus{} }),
		PrepareUpdate:       kinds.OnUpdate(func(d, old *appsv1.Deployment) { d.Status = old.Status }),
		Validate:            kinds.Check(validateDeployment),
		ValidateUpdate:      kinds.CheckUpdate(validateDeploymentUpdate),
		Warnings:            kinds.Warn(warnDeployment),
		HasGeneration:       true,
		UnconditionalUpdate: true,
		// Annotations count too: the revision annotations of a rollback once lived there.
		SpecChanged: func(o, before kinds.Object) bool {
			d, old := o.(*appsv1.Deployment), before.(*appsv1.Deployment)
			return !check.Same(d.Spec, old.Spec) || !check.Same(d.Annotations, old.Annotations)
		},
		Columns:     deploymentColumns(),
		Cells:       kinds.Print(deploymentCells),
		ResetFields: map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{
			kinds.ScaleSubresource(),
			{
				Name:  "status",
				Verbs: kinds.ReadWrite(),
				PrepareUpdate: kinds.OnUpdate(func(d, old *appsv1.Deployment) {
					d.Spec, d.Labels = old.Spec, old.Labels
				}),
				ValidateUpdate: kinds.CheckUpdate(validateDeploymentStatus),
				ResetFields:    map[string][]string{"v1": {"spec", "metadata.labels"}},
			},
		},
		Scale: scaleOf(func(d *appsv1.Deployment) (**int32, *metav1.LabelSelector, int32) {
			return &d.Spec.Replicas, d.Spec.Selector, d.Status.Replicas
		}),
	}
}

func defaultDeployment(d *appsv1.Deployment) {
	spec := &d.Spec
	podspec.Default(&spec.Template.Spec)
	check.DefaultPointer(&spec.Replicas, 1)
	check.Default(&spec.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		check.DefaultPointer(&spec.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		check.DefaultPointer(&spec.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		check.DefaultPointer(&spec.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	check.DefaultPointer(&spec.RevisionHistoryLimit, 10)
	check.DefaultPointer(&spec.ProgressDeadlineSeconds, 600)
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	var r check.Report
	at := field.NewPath("spec")
	spec := &d.Spec
	check.NotNegative(&r, at.Child("replicas"), ptr.Deref(spec.Replicas, 0))
	selector, errs := meta.ValidateSelector(spec.Selector, "deployment", at.Child("selector"))
	r.Add(errs...)
	if selector != nil {
		r.Add(podspec.ValidateReplicated(&spec.Template, selector, at.Child("template"))...)
	}
	validateStrategy(&r, at.Child("strategy"), &spec.Strategy)
	check.NotNegative(&r, at.Child("minReadySeconds"), spec.MinReadySeconds)
	check.NotNegative(&r, at.Child("revisionHistoryLimit"), ptr.Deref(spec.RevisionHistoryLimit, 0))
	if p := spec.ProgressDeadlineSeconds; p != nil {
		check.NotNegative(&r, at.Child("progressDeadlineSeconds"), *p)
		if *p <= spec.MinReadySeconds {
			r.Invalid(at.Child("progressDeadlineSeconds"), *p, "must be greater than minReadySeconds")
		}
	}
	return r.Errs
}

func validateStrategy(r *check.Report, at *field.Path, s *appsv1.DeploymentStrategy) {
	rolling := at.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			r.Forbidden(rolling, "may not be specified when strategy `type` is 'Recreate'")
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			r.Required(rolling, "this should be defaulted and never be nil")
			return
		}
		check.Amount(r, rolling.Child("maxUnavailable"), s.RollingUpdate.MaxUnavailable)
		check.Amount(r, rolling.Child("maxSurge"), s.RollingUpdate.MaxSurge)
		if check.IsZero(s.RollingUpdate.MaxUnavailable) && check.IsZero(s.RollingUpdate.MaxSurge) {
			r.Invalid(rolling.Child("maxUnavailable"), s.RollingUpdate.MaxUnavailable, "may not be 0 when `maxSurge` is 0")
		}
		check.AtMostAll(r, rolling.Child("maxUnavailable"), s.RollingUpdate.MaxUnavailable)
	default:
		check.OneOf(r, at.Child("type"), s.Type, appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType)
	}
}

func validateDeploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	r := check.Report{Errs: validateDeployment(d)}
	r.Immutable(field.NewPath("spec", "selector"), d.Spec.Selector, old.Spec.Selector)
	return r.Errs
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	var r check.Report
	at, s := field.NewPath("status"), &d.Status
	updated, ready := count{"updatedReplicas", int64(s.UpdatedReplicas)}, count{"readyReplicas", int64(s.ReadyReplicas)}
	available := count{"availableReplicas", int64(s.AvailableReplicas)}
	notNegativeCounts(&r, at, count{"observedGeneration", s.ObservedGeneration}, count{"replicas", int64(s.Replicas)},
		updated, ready, available, count{"unavailableReplicas", int64(s.UnavailableReplicas)})
	if s.TerminatingReplicas != nil {
		check.NotNegative(&r, at.Child("terminatingReplicas"), *s.TerminatingReplicas)
	}
	collisionCount(&r, at, s.CollisionCount, old.Status.CollisionCount)
	atMost(&r, at, s.Replicas, aboveReplicas, updated, ready, available)
	atMost(&r, at, s.ReadyReplicas, aboveReadyReplicas, available)
	return r.Errs
}

func deploymentColumns() []metav1.TableColumnDefinition {
	doc := appsv1.DeploymentStatus{}.SwaggerDoc()
	columns := []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Ready", "string", "Number of the pod with ready state"),
		kinds.Column("Up-to-date", "string", doc["updatedReplicas"]),
		kinds.Column("Available", "string", doc["availableReplicas"]),
		kinds.AgeColumn(),
	}
	columns = append(columns, kinds.ContainerColumns()...)
	return append(columns, kinds.WideColumn("Selector", "string", appsv1.DeploymentSpec{}.SwaggerDoc()["selector"]))
}

func deploymentCells(d *appsv1.Deployment, now metav1.Time) []any {
	names, images := kinds.ContainerCells(d.Spec.Template.Spec.Containers)
	return []any{
		d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, ptr.Deref(d.Spec.Replicas, 0)),
		int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas), kinds.Age(d.CreationTimestamp, now),
		names, images, kinds.SelectorCell(d.Spec.Selector),
	}
}

func warnDeployment(d, old *appsv1.Deployment) []string {
	at := field.NewPath("spec", "template")
	if old == nil {
		return append(check.PodNameWarning(d.Name), podspec.TemplateWarnings(at, &d.Spec.Template, nil)...)
	}
	return podspec.TemplateWarnings(at, &d.Spec.Template, &old.Spec.Template)
}
