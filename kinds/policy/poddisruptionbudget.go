// Package policy holds the kinds of the policy group. Only kinds/builtin imports it.
package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// PodDisruptionBudget is the row of pod disruption budgets.
func PodDisruptionBudget() *kinds.Kind {
	return &kinds.Kind{
		Group:         policyv1.GroupName,
		Kind:          "PodDisruptionBudget",
		Resource:      "poddisruptionbudgets",
		ShortNames:    []string{"pdb"},
		Namespaced:    true,
		Versions:      []kinds.Version{kinds.V[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList]("v1")},
		PrepareCreate: kinds.On(func(b *policyv1.PodDisruptionBudget) { b.Status = policyv1.PodDisruptionBudgetStatus{} }),
		PrepareUpdate: kinds.OnUpdate(func(b, old *policyv1.PodDisruptionBudget) { b.Status = old.Status }),
		Validate:      kinds.Check(func(b *policyv1.PodDisruptionBudget) field.ErrorList { return validate(b, false) }),
		ValidateUpdate: kinds.CheckUpdate(func(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
			return validate(b, metav1validation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector))
		}),
		HasGeneration: true,
		Columns:       columns(),
		Cells: kinds.Print(func(b *policyv1.PodDisruptionBudget, now metav1.Time) []any {
			return []any{
				b.Name, amountCell(b.Spec.MinAvailable), amountCell(b.Spec.MaxUnavailable),
				int64(b.Status.DisruptionsAllowed), kinds.Age(b.CreationTimestamp, now),
			}
		}),
		ResetFields: map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{{
			Name:           "status",
			Verbs:          kinds.ReadWrite(),
			PrepareUpdate:  kinds.OnUpdate(func(b, old *policyv1.PodDisruptionBudget) { b.Spec = old.Spec }),
			ValidateUpdate: kinds.CheckUpdate(func(b, _ *policyv1.PodDisruptionBudget) field.ErrorList { return validateStatus(b) }),
			ResetFields:    map[string][]string{"v1": {"spec"}},
		}},
	}
}

// validate checks a budget; looseSelector lets label values pass that were stored before they were checked.
func validate(b *policyv1.PodDisruptionBudget, looseSelector bool) field.ErrorList {
	var r check.Report
	at, spec := field.NewPath("spec"), &b.Spec
	if spec.MinAvailable != nil && spec.MaxUnavailable != nil {
		r.Invalid(at, podspec.Dump(*spec), "minAvailable and maxUnavailable cannot be both set")
	}
	if v := spec.MinAvailable; v != nil {
		check.Amount(&r, at.Child("minAvailable"), v)
		check.AtMostAll(&r, at.Child("minAvailable"), v)
	}
	if v := spec.MaxUnavailable; v != nil {
		check.Amount(&r, at.Child("maxUnavailable"), v)
		check.AtMostAll(&r, at.Child("maxUnavailable"), v)
	}
	opts := metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: looseSelector}
	r.Add(metav1validation.ValidateLabelSelector(spec.Selector, opts, at.Child("selector"))...)
	if p := spec.UnhealthyPodEvictionPolicy; p != nil {
		check.OneOf(&r, at.Child("unhealthyPodEvictionPolicy"), *p, policyv1.AlwaysAllow, policyv1.IfHealthyBudget)
	}
	return r.Errs
}

func validateStatus(b *policyv1.PodDisruptionBudget) field.ErrorList {
	at, s := field.NewPath("status"), &b.Status
	errs := metav1validation.ValidateConditions(s.Conditions, at.Child("conditions"))
	for _, c := range []struct {
		name  string
		value int32
	}{
		{"disruptionsAllowed", s.DisruptionsAllowed}, {"currentHealthy", s.CurrentHealthy},
		{"desiredHealthy", s.DesiredHealthy}, {"expectedPods", s.ExpectedPods},
	} {
		errs = append(errs, apivalidation.ValidateNonnegativeField(int64(c.value), at.Child(c.name))...)
	}
	return errs
}

func columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Min Available", "string", "The minimum number of pods that must be available."),
		kinds.Column("Max Unavailable", "string", "The maximum number of pods that may be unavailable."),
		kinds.Column("Allowed Disruptions", "integer", "Calculated number of pods that may be disrupted at this time."),
		kinds.AgeColumn(),
	}
}

func amountCell(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}
