package core

import (
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// mountableSecrets is the annotation that once limited the secrets a service account's pods may mount.
const mountableSecrets = "kubernetes.io/enforce-mountable-secrets"

// ServiceAccount is the row of service accounts.
func ServiceAccount() *kinds.Kind {
	return &kinds.Kind{
		Kind:                "ServiceAccount",
		Resource:            "serviceaccounts",
		ShortNames:          []string{"sa"},
		Namespaced:          true,
		Versions:            []kinds.Version{kinds.V[corev1.ServiceAccount, corev1.ServiceAccountList]("v1")},
		PrepareCreate:       kinds.On(keepSecretNames),
		PrepareUpdate:       kinds.OnUpdate(func(a, _ *corev1.ServiceAccount) { keepSecretNames(a) }),
		Warnings:            kinds.Warn(warnServiceAccount),
		UnconditionalUpdate: true,
		ReturnsDeleted:      true,
		Columns:             []metav1.TableColumnDefinition{kinds.NameColumn(), kinds.AgeColumn()},
		Cells: kinds.Print(func(a *corev1.ServiceAccount, now metav1.Time) []any {
			return []any{a.Name, kinds.Age(a.CreationTimestamp, now)}
		}),
		Subresources: []kinds.Subresource{{
			Name:    "token",
			Body:    authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"),
			Verbs:   []string{"create"},
			NewBody: func() kinds.Object { return new(authenticationv1.TokenRequest) },
			DefaultBody: kinds.On(func(t *authenticationv1.TokenRequest) {
				check.DefaultPointer(&t.Spec.ExpirationSeconds, int64(time.Hour/time.Second))
			}),
			ValidateBody: kinds.Check(validateTokenRequest),
		}},
	}
}

// keepSecretNames drops all of a reference to a secret but its name: it can only be in the account's own namespace.
func keepSecretNames(a *corev1.ServiceAccount) {
	for i := range a.Secrets {
		a.Secrets[i] = corev1.ObjectReference{Name: a.Secrets[i].Name}
	}
}

func warnServiceAccount(a, old *corev1.ServiceAccount) []string {
	if _, ok := a.Annotations[mountableSecrets]; !ok {
		return nil
	}
	if old != nil {
		if _, ok := old.Annotations[mountableSecrets]; ok {
			return nil
		}
	}
	at := field.NewPath("metadata", "annotations").Key(mountableSecrets)
	return []string{at.String() + ": deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"}
}

func validateTokenRequest(t *authenticationv1.TokenRequest) field.ErrorList {
	var r check.Report
	at := field.NewPath("spec", "expirationSeconds")
	seconds := *t.Spec.ExpirationSeconds
	if seconds < int64(10*time.Minute/time.Second) {
		r.Invalid(at, seconds, "may not specify a duration less than 10 minutes")
	}
	if seconds > 1<<32 {
		r.Invalid(at, seconds, "may not specify a duration larger than 2^32 seconds")
	}
	return r.Errs
}
