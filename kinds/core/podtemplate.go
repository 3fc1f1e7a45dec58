package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// PodTemplate returns the row of podtemplates.
func PodTemplate() *kinds.Kind {
	check := func(t *corev1.PodTemplate) field.ErrorList {
		return podspec.ValidateTemplate(&t.Template, field.NewPath("template"))
	}
	return &kinds.Kind{
		Kind:           "PodTemplate",
		Resource:       "podtemplates",
		Namespaced:     true,
		Versions:       []kinds.Version{kinds.V[corev1.PodTemplate, corev1.PodTemplateList]("v1")},
		Default:        kinds.On(func(t *corev1.PodTemplate) { podspec.Default(&t.Template.Spec) }),
		Validate:       kinds.Check(check),
		ValidateUpdate: kinds.CheckUpdate(func(t, _ *corev1.PodTemplate) field.ErrorList { return check(t) }),
		Warnings: kinds.Warn(func(t, old *corev1.PodTemplate) []string {
			var before *corev1.PodTemplateSpec
			if old != nil {
				before = &old.Template
			}
			return podspec.TemplateWarnings(field.NewPath("template"), &t.Template, before)
		}),
		HasGeneration: true,
		SpecChanged: func(obj, old kinds.Object) bool {
			return !equality.Semantic.DeepEqual(obj.(*corev1.PodTemplate).Template, old.(*corev1.PodTemplate).Template)
		},
		UnconditionalUpdate: true,
		ReturnsDeleted:      true,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Containers", "string", "Names of each container in the template."),
			kinds.Column("Images", "string", "Images referenced by each container in the template."),
			kinds.Column("Pod Labels", "string", "The labels for the pod template."),
		},
		Cells: kinds.Print(func(t *corev1.PodTemplate, _ metav1.Time) []any {
			names, images := kinds.ContainerCells(t.Template.Spec.Containers)
			return []any{t.Name, names, images, kinds.LabelCell(t.Template.Labels)}
		}),
	}
}
