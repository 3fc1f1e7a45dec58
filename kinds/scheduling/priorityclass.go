// Package scheduling holds the kinds of scheduling.k8s.io. Only kinds/builtin imports it.
package scheduling

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// highestUserPriority is the highest value of a class that is not the system's own.
const highestUserPriority = 1_000_000_000

// systemPrefix starts the names of the system's own classes.
const systemPrefix = "system-"

// PriorityClass is the row of priority classes.
func PriorityClass() *kinds.Kind {
	return &kinds.Kind{
		Group:      schedulingv1.GroupName,
		Kind:       "PriorityClass",
		Resource:   "priorityclasses",
		ShortNames: []string{"pc"},
		Versions:   []kinds.Version{kinds.V[schedulingv1.PriorityClass, schedulingv1.PriorityClassList]("v1")},
		Default: kinds.On(func(c *schedulingv1.PriorityClass) {
			check.DefaultPointer(&c.PreemptionPolicy, corev1.PreemptLowerPriority)
		}),
		Validate:            kinds.Check(validatePriorityClass),
		ValidateUpdate:      kinds.CheckUpdate(validatePriorityClassUpdate),
		UnconditionalUpdate: true,
		HasGeneration:       true,
		SpecChanged:         func(_, _ kinds.Object) bool { return false },
		Columns:             priorityClassColumns(),
		Cells: kinds.Print(func(c *schedulingv1.PriorityClass, now metav1.Time) []any {
			policy := ""
			if c.PreemptionPolicy != nil {
				policy = string(*c.PreemptionPolicy)
			}
			return []any{c.Name, int64(c.Value), c.GlobalDefault, kinds.Age(c.CreationTimestamp, now), policy}
		}),
	}
}

func priorityClassColumns() []metav1.TableColumnDefinition {
	doc := schedulingv1.PriorityClass{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Value", "integer", doc["value"]),
		kinds.Column("Global-Default", "boolean", doc["globalDefault"]),
		kinds.AgeColumn(),
		kinds.Column("PreemptionPolicy", "string", doc["preemptionPolicy"]),
	}
}

func validatePriorityClass(c *schedulingv1.PriorityClass) field.ErrorList {
	var r check.Report
	if strings.HasPrefix(c.Name, systemPrefix) {
		if wrong := systemClassError(c); wrong != "" {
			r.Forbidden(field.NewPath("metadata", "name"),
				"priority class names with '"+systemPrefix+"' prefix are reserved for system use only. error: "+wrong)
		}
	} else if c.Value > highestUserPriority {
		r.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", highestUserPriority))
	}
	if c.PreemptionPolicy != nil {
		check.OneOfRequired(&r, field.NewPath("preemptionPolicy"), *c.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	return r.Errs
}

// systemClassError says how a class differs from the one that the system itself makes under that name.
func systemClassError(c *schedulingv1.PriorityClass) string {
	for name, value := range map[string]int32{"system-cluster-critical": 2 * highestUserPriority, "system-node-critical": 2*highestUserPriority + 1000} {
		switch {
		case name != c.Name:
		case c.Value != value:
			return fmt.Sprintf("value of %v PriorityClass must be %v", name, value)
		case c.GlobalDefault:
			return fmt.Sprintf("globalDefault of %v PriorityClass must be %v", name, false)
		default:
			return ""
		}
	}
	return fmt.Sprintf("%v is not a known system priority class", c.Name)
}

func validatePriorityClassUpdate(c, old *schedulingv1.PriorityClass) field.ErrorList {
	var r check.Report
	if c.Value != old.Value {
		r.Forbidden(field.NewPath("value"), "may not be changed in an update.")
	}
	r.Immutable(field.NewPath("preemptionPolicy"), c.PreemptionPolicy, old.PreemptionPolicy)
	return r.Errs
}
