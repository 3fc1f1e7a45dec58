package networking

import (
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// IPAddress is the row of IP addresses: one for each cluster IP in use, named after it.
func IPAddress() *kinds.Kind {
	return &kinds.Kind{
		Group:        networkingv1.GroupName,
		Kind:         "IPAddress",
		Resource:     "ipaddresses",
		ShortNames:   []string{"ip"},
		Versions:     []kinds.Version{kinds.V[networkingv1.IPAddress, networkingv1.IPAddressList]("v1")},
		ValidateName: ipAddressName,
		Validate:     kinds.Check(validateIPAddress),
		ValidateUpdate: kinds.CheckUpdate(func(a, old *networkingv1.IPAddress) field.ErrorList {
			if check.Same(a.Spec.ParentRef, old.Spec.ParentRef) {
				return nil
			}
			var r check.Report
			r.Invalid(field.NewPath("spec", "parentRef"), podspec.Dump(a.Spec.ParentRef), "field is immutable")
			return r.Errs
		}),
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(), kinds.Column("ParentRef", "string", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]), kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(a *networkingv1.IPAddress, now metav1.Time) []any {
			return []any{a.Name, parentCell(a.Spec.ParentRef), kinds.Age(a.CreationTimestamp, now)}
		}),
	}
}

func ipAddressName(name string, _ bool) []string {
	switch ip, err := netip.ParseAddr(name); {
	case err != nil:
		return []string{err.Error()}
	case ip.String() != name:
		return []string{"must be a canonical format IP address"}
	}
	return nil
}

func validateIPAddress(a *networkingv1.IPAddress) field.ErrorList {
	var r check.Report
	at, p := field.NewPath("spec", "parentRef"), a.Spec.ParentRef
	if p == nil {
		r.Required(at, "")
		return r.Errs
	}
	// The core group is empty, so the group cannot be required.
	if p.Group != "" {
		r.Invalid(at.Child("group"), p.Group, validation.IsDNS1123Subdomain(p.Group)...)
	}
	r.Name(at.Child("resource"), p.Resource, path.IsValidPathSegmentName)
	r.Name(at.Child("name"), p.Name, path.IsValidPathSegmentName)
	if p.Namespace != "" {
		r.Invalid(at.Child("namespace"), p.Namespace, path.IsValidPathSegmentName(p.Namespace)...)
	}
	return r.Errs
}

func parentCell(p *networkingv1.ParentReference) string {
	if p == nil {
		return kinds.None
	}
	resource := schema.GroupResource{Group: p.Group, Resource: p.Resource}.String() + "/"
	if p.Namespace != "" {
		resource += p.Namespace + "/"
	}
	return resource + p.Name
}
