package apps

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// ControllerRevision is the row of controller revisions, the histories of stateful sets and daemon sets.
func ControllerRevision() *kinds.Kind {
	return &kinds.Kind{
		Group:      appsv1.GroupName,
		Kind:       "ControllerRevision",
		Resource:   "controllerrevisions",
		Namespaced: true,
		Versions:   []kinds.Version{kinds.V[appsv1.ControllerRevision, appsv1.ControllerRevisionList]("v1")},
		Validate:   kinds.Check(validateControllerRevision),
		ValidateUpdate: kinds.CheckUpdate(func(c, old *appsv1.ControllerRevision) field.ErrorList {
			r := check.Report{Errs: validateControllerRevision(c)}
			r.Immutable(field.NewPath("data"), c.Data, old.Data)
			return r.Errs
		}),
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Controller", "string", "Controller of the object"),
			kinds.Column("Revision", "string", appsv1.ControllerRevision{}.SwaggerDoc()["revision"]),
			kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(c *appsv1.ControllerRevision, now metav1.Time) []any {
			return []any{c.Name, controllerCell(c), c.Revision, kinds.Age(c.CreationTimestamp, now)}
		}),
	}
}

func validateControllerRevision(c *appsv1.ControllerRevision) field.ErrorList {
	var r check.Report
	if c.Data.Object == nil && len(c.Data.Raw) == 0 {
		r.Required(field.NewPath("data"), "data is mandatory")
	}
	check.NotNegative(&r, field.NewPath("revision"), c.Revision)
	return r.Errs
}

// controllerCell prints the owner as "daemonset.apps/name".
func controllerCell(c *appsv1.ControllerRevision) string {
	owner := metav1.GetControllerOfNoCopy(c)
	if owner == nil {
		return kinds.None
	}
	gv, err := schema.ParseGroupVersion(owner.APIVersion)
	if err != nil {
		return owner.Name
	}
	return strings.ToLower(gv.WithKind(owner.Kind).GroupKind().String()) + "/" + owner.Name
}
