package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// VolumeAttributesClass is the row of volume attributes classes.
func VolumeAttributesClass() *kinds.Kind {
	return &kinds.Kind{
		Group:      storagev1.GroupName,
		Kind:       "VolumeAttributesClass",
		Resource:   "volumeattributesclasses",
		ShortNames: []string{"vac"},
		Versions:   []kinds.Version{kinds.V[storagev1.VolumeAttributesClass, storagev1.VolumeAttributesClassList]("v1")},
		Validate: kinds.Check(func(c *storagev1.VolumeAttributesClass) field.ErrorList {
			r := check.Report{Errs: podspec.ValidateCSIDriverName(c.DriverName, field.NewPath("driverName"))}
			at := field.NewPath("parameters")
			if len(c.Parameters) == 0 {
				r.Required(at, "must contain at least one key/value pair")
			}
			classParameters(&r, at, c.Parameters)
			return r.Errs
		}),
		ValidateUpdate: kinds.CheckUpdate(func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
			var r check.Report
			r.Immutable(field.NewPath("driverName"), c.DriverName, old.DriverName)
			r.Immutable(field.NewPath("parameters"), c.Parameters, old.Parameters)
			return r.Errs
		}),
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("DriverName", "string", storagev1.VolumeAttributesClass{}.SwaggerDoc()["driverName"]),
			kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(c *storagev1.VolumeAttributesClass, now metav1.Time) []any {
			return []any{c.Name, c.DriverName, kinds.Age(c.CreationTimestamp, now)}
		}),
	}
}
