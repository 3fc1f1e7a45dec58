package networking

import (
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// ServiceCIDR is the row of service CIDRs, the ranges that cluster IPs come from.
func ServiceCIDR() *kinds.Kind {
	return &kinds.Kind{
		Group:               networkingv1.GroupName,
		Kind:                "ServiceCIDR",
		Resource:            "servicecidrs",
		Versions:            []kinds.Version{kinds.V[networkingv1.ServiceCIDR, networkingv1.ServiceCIDRList]("v1")},
		PrepareCreate:       kinds.On(func(c *networkingv1.ServiceCIDR) { c.Status = networkingv1.ServiceCIDRStatus{} }),
		PrepareUpdate:       kinds.OnUpdate(func(c, old *networkingv1.ServiceCIDR) { c.Status = old.Status }),
		Validate:            kinds.Check(validateServiceCIDR),
		ValidateUpdate:      kinds.CheckUpdate(validateServiceCIDRUpdate),
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(), kinds.Column("CIDRs", "string", networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]), kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(c *networkingv1.ServiceCIDR, now metav1.Time) []any {
			return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), kinds.Age(c.CreationTimestamp, now)}
		}),
		ResetFields: map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{{
			Name:          "status",
			Verbs:         kinds.ReadWrite(),
			PrepareUpdate: kinds.OnUpdate(func(c, old *networkingv1.ServiceCIDR) { c.Spec = old.Spec }),
			ResetFields:   map[string][]string{"v1": {"spec"}},
		}},
	}
}

func validateServiceCIDR(c *networkingv1.ServiceCIDR) field.ErrorList {
	var r check.Report
	at, cidrs := field.NewPath("spec", "cidrs"), c.Spec.CIDRs
	switch {
	case len(cidrs) == 0:
		r.Required(at, "at least one CIDR required")
		return r.Errs
	case len(cidrs) > 2:
		r.Invalid(at, cidrs, "may only hold up to 2 values")
		return r.Errs
	case len(cidrs) == 2:
		if dual, err := netutils.IsDualStackCIDRStrings(cidrs); err != nil {
			r.Invalid(at, cidrs, err.Error())
			return r.Errs
		} else if !dual {
			r.Invalid(at, cidrs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96")
			return r.Errs
		}
	}
	for i, cidr := range cidrs {
		r.Add(validation.IsValidCIDR(at.Index(i), cidr)...)
	}
	return r.Errs
}

// validateServiceCIDRUpdate lets a second family be added, and nothing else change.
func validateServiceCIDRUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	at, now, before := field.NewPath("spec", "cidrs"), c.Spec.CIDRs, old.Spec.CIDRs
	if len(before) == 1 && len(now) == 2 {
		r := check.Report{Errs: validateServiceCIDR(c)}
		r.Immutable(at.Index(0), now[0], before[0])
		return r.Errs
	}
	var r check.Report
	r.Immutable(at, now, before)
	return r.Errs
}
