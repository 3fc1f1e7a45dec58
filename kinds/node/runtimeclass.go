// Package node holds the kinds of node.k8s.io. Only kinds/builtin imports it.
package node

import (
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// RuntimeClass is the row of runtime classes.
func RuntimeClass() *kinds.Kind {
	return &kinds.Kind{
		Group:    nodev1.GroupName,
		Kind:     "RuntimeClass",
		Resource: "runtimeclasses",
		Versions: []kinds.Version{kinds.V[nodev1.RuntimeClass, nodev1.RuntimeClassList]("v1")},
		Validate: kinds.Check(validate),
		ValidateUpdate: kinds.CheckUpdate(func(c, old *nodev1.RuntimeClass) field.ErrorList {
			errs := validate(c)
			if c.Handler != old.Handler {
				errs = append(errs, field.Invalid(field.NewPath("handler"), nil, "field is immutable"))
			}
			return errs
		}),
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(), kinds.Column("Handler", "string", nodev1.RuntimeClass{}.SwaggerDoc()["handler"]), kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(c *nodev1.RuntimeClass, now metav1.Time) []any {
			return []any{c.Name, c.Handler, kinds.Age(c.CreationTimestamp, now)}
		}),
	}
}

func validate(c *nodev1.RuntimeClass) field.ErrorList {
	var r check.Report
	if c.Overhead != nil {
		r.Add(podspec.ValidateOverhead(c.Overhead.PodFixed, field.NewPath("overhead"))...)
	}
	if s := c.Scheduling; s != nil {
		at := field.NewPath("scheduling")
		r.Add(metav1validation.ValidateLabels(s.NodeSelector, at.Child("nodeSelector"))...)
		r.Add(podspec.ValidateTolerations(s.Tolerations, at.Child("tolerations"))...)
		for i, t := range s.Tolerations {
			for j := range i {
				if check.Same(s.Tolerations[j], t) {
					r.Add(field.Duplicate(at.Child("tolerations").Index(i), t))
					break
				}
			}
		}
	}
	// What stands on the handler alone comes last, as upstream reports it.
	r.Name(field.NewPath("handler"), c.Handler, validation.IsDNS1123Label)
	return r.Errs
}
