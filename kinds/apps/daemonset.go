package apps

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// DaemonSet is the row of daemon sets.
func DaemonSet() *kinds.Kind {
	return &kinds.Kind{
		Group:         appsv1.GroupName,
		Kind:          "DaemonSet",
		Resource:      "daemonsets",
		ShortNames:    []string{"ds"},
		Categories:    []string{"all"},
		Namespaced:    true,
		Versions:      []kinds.Version{kinds.V[appsv1.DaemonSet, appsv1.DaemonSetList]("v1")},
		Default:       kinds.On(defaultDaemonSet),
		PrepareCreate: kinds.On(prepareDaemonSet),
		PrepareUpdate: kinds.OnUpdate(prepareDaemonSetUpdate),
		Validate:      kinds.Check(validateDaemonSet),
		ValidateUpdate: kinds.CheckUpdate(func(d, old *appsv1.DaemonSet) field.ErrorList {
			r := check.Report{Errs: validateDaemonSet(d)}
			r.Immutable(field.NewPath("spec", "selector"), d.Spec.Selector, old.Spec.Selector)
			return r.Errs
		}),
		Warnings:            kinds.Warn(warnDaemonSet),
		HasGeneration:       true,
		UnconditionalUpdate: true,
		Columns:             daemonSetColumns(),
		Cells:               kinds.Print(daemonSetCells),
		ResetFields:         map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{{
			Name:           "status",
			Verbs:          kinds.ReadWrite(),
			PrepareUpdate:  kinds.OnUpdate(func(d, old *appsv1.DaemonSet) { d.Spec = old.Spec }),
			ValidateUpdate: kinds.CheckUpdate(validateDaemonSetStatus),
			ResetFields:    map[string][]string{"v1": {"spec"}},
		}},
	}
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	podspec.Default(&d.Spec.Template.Spec)
	s := &d.Spec.UpdateStrategy
	check.Default(&s.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if s.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		check.DefaultPointer(&s.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		check.DefaultPointer(&s.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		check.DefaultPointer(&s.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	check.DefaultPointer(&d.Spec.RevisionHistoryLimit, 10)
}

// templateGeneration reads the annotation that counts the changes of the template; it is a field no more.
func templateGeneration(d *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
}

func prepareDaemonSet(d *appsv1.DaemonSet) {
	d.Status = appsv1.DaemonSetStatus{}
	setTemplateGeneration(d, max(templateGeneration(d), 1))
}

func prepareDaemonSetUpdate(d, old *appsv1.DaemonSet) {
	d.Status = old.Status
	n := templateGeneration(old)
	if !check.Same(d.Spec.Template, old.Spec.Template) {
		n++
	}
	setTemplateGeneration(d, n)
}

func validateDaemonSet(d *appsv1.DaemonSet) field.ErrorList {
	var r check.Report
	at, spec := field.NewPath("spec"), &d.Spec
	template := at.Child("template")
	r.Selector(at.Child("selector"), spec.Selector)
	if selector, err := metav1.LabelSelectorAsSelector(spec.Selector); err == nil && !selector.Matches(labels.Set(spec.Template.Labels)) {
		r.Invalid(template.Child("metadata", "labels"), spec.Template.Labels, "`selector` does not match template `labels`")
	}
	if s := spec.Selector; s != nil && len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		r.Invalid(at.Child("selector"), s, "empty selector is invalid for daemonset")
	}
	r.Add(podspec.ValidateTemplate(&spec.Template, template)...)
	check.OneOf(&r, template.Child("spec", "restartPolicy"), spec.Template.Spec.RestartPolicy, corev1.RestartPolicyAlways)
	if spec.Template.Spec.ActiveDeadlineSeconds != nil {
		r.Forbidden(template.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in DaemonSet is not Supported")
	}
	check.NotNegative(&r, at.Child("minReadySeconds"), spec.MinReadySeconds)
	check.NotNegative(&r, at.Child("templateGeneration"), templateGeneration(d))
	daemonStrategy(&r, at.Child("updateStrategy"), &spec.UpdateStrategy)
	check.NotNegative(&r, at.Child("revisionHistoryLimit"), ptr.Deref(spec.RevisionHistoryLimit, 0))
	return r.Errs
}

func daemonStrategy(r *check.Report, at *field.Path, s *appsv1.DaemonSetUpdateStrategy) {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		at = at.Child("rollingUpdate")
		if s.RollingUpdate == nil {
			r.Required(at, "")
			return
		}
		unavailable, surge := s.RollingUpdate.MaxUnavailable, s.RollingUpdate.MaxSurge
		check.Amount(r, at.Child("maxUnavailable"), unavailable)
		check.Amount(r, at.Child("maxSurge"), surge)
		check.AtMostAll(r, at.Child("maxUnavailable"), unavailable)
		check.AtMostAll(r, at.Child("maxSurge"), surge)
		switch {
		case !check.IsZero(unavailable) && !check.IsZero(surge):
			r.Invalid(at.Child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero")
		case check.IsZero(unavailable) && check.IsZero(surge):
			r.Required(at.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0")
		}
	default:
		r.Add(field.NotSupported(at, "", []appsv1.DaemonSetUpdateStrategyType{
			appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType,
		}))
		r.Errs[len(r.Errs)-1].BadValue = podspec.Dump(*s)
	}
}

func validateDaemonSetStatus(d, old *appsv1.DaemonSet) field.ErrorList {
	var r check.Report
	at, s := field.NewPath("status"), &d.Status
	notNegativeCounts(&r, at,
		count{"currentNumberScheduled", int64(s.CurrentNumberScheduled)}, count{"numberMisscheduled", int64(s.NumberMisscheduled)},
		count{"desiredNumberScheduled", int64(s.DesiredNumberScheduled)}, count{"numberReady", int64(s.NumberReady)},
		count{"observedGeneration", s.ObservedGeneration}, count{"updatedNumberScheduled", int64(s.UpdatedNumberScheduled)},
		count{"numberAvailable", int64(s.NumberAvailable)}, count{"numberUnavailable", int64(s.NumberUnavailable)})
	collisionCount(&r, at, s.CollisionCount, old.Status.CollisionCount)
	return r.Errs
}

func daemonSetColumns() []metav1.TableColumnDefinition {
	doc := appsv1.DaemonSetStatus{}.SwaggerDoc()
	columns := []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Desired", "integer", doc["desiredNumberScheduled"]),
		kinds.Column("Current", "integer", doc["currentNumberScheduled"]),
		kinds.Column("Ready", "integer", doc["numberReady"]),
		kinds.Column("Up-to-date", "integer", doc["updatedNumberScheduled"]),
		kinds.Column("Available", "integer", doc["numberAvailable"]),
		kinds.Column("Node Selector", "string", corev1.PodSpec{}.SwaggerDoc()["nodeSelector"]),
		kinds.AgeColumn(),
	}
	columns = append(columns, kinds.ContainerColumns()...)
	return append(columns, kinds.WideColumn("Selector", "string", appsv1.DaemonSetSpec{}.SwaggerDoc()["selector"]))
}

func daemonSetCells(d *appsv1.DaemonSet, now metav1.Time) []any {
	names, images := kinds.ContainerCells(d.Spec.Template.Spec.Containers)
	s := &d.Status
	return []any{
		d.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady), int64(s.UpdatedNumberScheduled),
		int64(s.NumberAvailable), kinds.LabelCell(d.Spec.Template.Spec.NodeSelector), kinds.Age(d.CreationTimestamp, now),
		names, images, kinds.SelectorCell(d.Spec.Selector),
	}
}

func warnDaemonSet(d, old *appsv1.DaemonSet) []string {
	at := field.NewPath("spec", "template")
	if old == nil {
		return podspec.TemplateWarnings(at, &d.Spec.Template, nil)
	}
	return podspec.TemplateWarnings(at, &d.Spec.Template, &old.Spec.Template)
}
