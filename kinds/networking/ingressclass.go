package networking

import (
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// maxController is the longest name of an ingress controller, in bytes.
const maxController = 250

// IngressClass is the row of ingress classes.
func IngressClass() *kinds.Kind {
	return &kinds.Kind{
		Group:    networkingv1.GroupName,
		Kind:     "IngressClass",
		Resource: "ingressclasses",
		Versions: []kinds.Version{kinds.V[networkingv1.IngressClass, networkingv1.IngressClassList]("v1")},
		Default: kinds.On(func(c *networkingv1.IngressClass) {
			if c.Spec.Parameters != nil {
				check.DefaultPointer(&c.Spec.Parameters.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
			}
		}),
		Validate: kinds.Check(validateIngressClass),
		ValidateUpdate: kinds.CheckUpdate(func(c, old *networkingv1.IngressClass) field.ErrorList {
			var r check.Report
			parameters(&r, field.NewPath("spec", "parameters"), c.Spec.Parameters)
			r.Immutable(field.NewPath("spec", "controller"), c.Spec.Controller, old.Spec.Controller)
			return r.Errs
		}),
		HasGeneration:       true,
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Controller", "string", "Controller that is responsible for handling this class"),
			kinds.Column("Parameters", "string", "A reference to a resource with additional parameters"),
			kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(c *networkingv1.IngressClass, now metav1.Time) []any {
			params := kinds.None
			if p := c.Spec.Parameters; p != nil {
				params = p.Kind
				if p.APIGroup != nil {
					params += "." + *p.APIGroup
				}
				params += "/" + p.Name
			}
			return []any{c.Name, c.Spec.Controller, params, kinds.Age(c.CreationTimestamp, now)}
		}),
	}
}

func validateIngressClass(c *networkingv1.IngressClass) field.ErrorList {
	var r check.Report
	at := field.NewPath("spec")
	if len(c.Spec.Controller) > maxController {
		r.Add(field.TooLong(at.Child("controller"), c.Spec.Controller, maxController))
	}
	r.Add(validation.IsDomainPrefixedPath(at.Child("controller"), c.Spec.Controller)...)
	parameters(&r, at.Child("parameters"), c.Spec.Parameters)
	return r.Errs
}

func parameters(r *check.Report, at *field.Path, p *networkingv1.IngressClassParametersReference) {
	if p == nil {
		return
	}
	typedReference(r, at, p.APIGroup, p.Kind, p.Name)
	if p.Scope == nil {
		r.Required(at.Child("scope"), "")
		return
	}
	cluster, namespace := networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace
	check.OneOf(r, at.Child("scope"), *p.Scope, cluster, namespace)
	switch {
	case *p.Scope == namespace && (p.Namespace == nil || *p.Namespace == ""):
		r.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'")
	case *p.Scope == namespace:
		r.Invalid(at.Child("namespace"), *p.Namespace, apivalidation.ValidateNamespaceName(*p.Namespace, false)...)
	case *p.Scope == cluster && p.Namespace != nil:
		r.Forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'")
	}
}
