package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// CSIStorageCapacity is the row of CSI storage capacities: how much a driver has left in a part of the cluster.
func CSIStorageCapacity() *kinds.Kind {
	return &kinds.Kind{
		Group:      storagev1.GroupName,
		Kind:       "CSIStorageCapacity",
		Resource:   "csistoragecapacities",
		Namespaced: true,
		Versions:   []kinds.Version{kinds.V[storagev1.CSIStorageCapacity, storagev1.CSIStorageCapacityList]("v1")},
		Validate:   kinds.Check(validateCapacity),
		ValidateUpdate: kinds.CheckUpdate(func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
			r := check.Report{Errs: validateCapacity(c)}
			r.Immutable(field.NewPath("nodeTopology"), c.NodeTopology, old.NodeTopology)
			r.Immutable(field.NewPath("storageClassName"), c.StorageClassName, old.StorageClassName)
			return r.Errs
		}),
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("StorageClassName", "string", storagev1.CSIStorageCapacity{}.SwaggerDoc()["storageClassName"]),
			kinds.Column("Capacity", "string", storagev1.CSIStorageCapacity{}.SwaggerDoc()["capacity"]),
		},
		Cells: kinds.Print(func(c *storagev1.CSIStorageCapacity, _ metav1.Time) []any {
			capacity := "<unset>"
			if c.Capacity != nil {
				capacity = c.Capacity.String()
			}
			return []any{c.Name, c.StorageClassName, capacity}
		}),
	}
}

func validateCapacity(c *storagev1.CSIStorageCapacity) field.ErrorList {
	var r check.Report
	r.Selector(field.NewPath("nodeTopology"), c.NodeTopology)
	r.Invalid(field.NewPath("storageClassName"), c.StorageClassName, apivalidation.NameIsDNSSubdomain(c.StorageClassName, false)...)
	for _, f := range []struct {
		name  string
		value *resource.Quantity
	}{{"capacity", c.Capacity}, {"maximumVolumeSize", c.MaximumVolumeSize}} {
		if f.value != nil && f.value.Sign() < 0 {
			r.Invalid(field.NewPath(f.name), f.value.String(), apivalidation.IsNegativeErrorMsg)
		}
	}
	return r.Errs
}
