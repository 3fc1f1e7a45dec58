// Package coordination holds the kinds of coordination.k8s.io. Only kinds/builtin imports it.
package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// Lease is the row of leases.
func Lease() *kinds.Kind {
	return &kinds.Kind{
		Group:          coordinationv1.GroupName,
		Kind:           "Lease",
		Resource:       "leases",
		Namespaced:     true,
		Volatile:       true,
		Versions:       []kinds.Version{kinds.V[coordinationv1.Lease, coordinationv1.LeaseList]("v1")},
		PrepareCreate:  kinds.On(dropUncoordinated),
		PrepareUpdate:  kinds.OnUpdate(func(l, _ *coordinationv1.Lease) { dropUncoordinated(l) }),
		Validate:       kinds.Check(validateLease),
		ValidateUpdate: kinds.CheckUpdate(func(l, _ *coordinationv1.Lease) field.ErrorList { return validateLease(l) }),
		CreateOnUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Holder", "string", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]),
			kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(l *coordinationv1.Lease, now metav1.Time) []any {
			holder := ""
			if l.Spec.HolderIdentity != nil {
				holder = *l.Spec.HolderIdentity
			}
			return []any{l.Name, holder, kinds.Age(l.CreationTimestamp, now)}
		}),
	}
}

// dropUncoordinated drops the fields of coordinated leader election, which is off by default upstream.
func dropUncoordinated(l *coordinationv1.Lease) {
	l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	var r check.Report
	spec := field.NewPath("spec")
	if d := l.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		r.Invalid(spec.Child("leaseDurationSeconds"), *d, "must be greater than 0")
	}
	if n := l.Spec.LeaseTransitions; n != nil {
		check.NotNegative(&r, spec.Child("leaseTransitions"), *n)
	}
	return r.Errs
}
