package core

import (
	"crypto/tls"
	"encoding/json"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// Secret is the row of secrets.
func Secret() *kinds.Kind {
	return &kinds.Kind{
		Kind:                "Secret",
		Resource:            "secrets",
		Namespaced:          true,
		Versions:            []kinds.Version{kinds.V[corev1.Secret, corev1.SecretList]("v1")},
		Default:             kinds.On(defaultSecret),
		Validate:            kinds.Check(validateSecret),
		ValidateUpdate:      kinds.CheckUpdate(validateSecretUpdate),
		Warnings:            kinds.Warn(warnSecret),
		UnconditionalUpdate: true,
		FieldLabels:         []string{"type"},
		Fields: kinds.Select(func(s *corev1.Secret) fields.Set {
			return fields.Set{"metadata.name": s.Name, "metadata.namespace": s.Namespace, "type": string(s.Type)}
		}),
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Type", "string", corev1.Secret{}.SwaggerDoc()["type"]),
			kinds.Column("Data", "string", corev1.Secret{}.SwaggerDoc()["data"]),
			kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(s *corev1.Secret, now metav1.Time) []any {
			return []any{s.Name, string(s.Type), int64(len(s.Data)), kinds.Age(s.CreationTimestamp, now)}
		}),
	}
}

// defaultSecret also turns the write-only stringData into data, which it wins over.
func defaultSecret(s *corev1.Secret) {
	check.Default(&s.Type, corev1.SecretTypeOpaque)
	if s.StringData == nil {
		return
	}
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for k, v := range s.StringData {
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	var r check.Report
	data := field.NewPath("data")
	size := 0
	for _, k := range slices.Sorted(maps.Keys(s.Data)) {
		r.Invalid(data.Key(k), k, validation.IsConfigMapKey(k)...)
		size += len(s.Data[k])
	}
	if size > corev1.MaxSecretSize {
		r.Add(field.TooLong(data, "", corev1.MaxSecretSize))
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			r.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), "")
		}
	case corev1.SecretTypeDockercfg:
		jsonKey(&r, s, corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		jsonKey(&r, s, corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			r.Required(data.Key(corev1.BasicAuthUsernameKey), "")
			r.Required(data.Key(corev1.BasicAuthPasswordKey), "")
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			r.Required(data.Key(corev1.SSHAuthPrivateKey), "")
		}
	case corev1.SecretTypeTLS:
		for _, k := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
			if _, ok := s.Data[k]; !ok {
				r.Required(data.Key(k), "")
			}
		}
	}
	return r.Errs
}

// jsonKey wants JSON under key. What it finds instead is never repeated: it is a credential.
func jsonKey(r *check.Report, s *corev1.Secret, key string) {
	at := field.NewPath("data").Key(key)
	content, ok := s.Data[key]
	if !ok {
		r.Required(at, "")
		return
	}
	var any map[string]any
	if err := json.Unmarshal(content, &any); err != nil {
		r.Invalid(at, "<secret contents redacted>", err.Error())
	}
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	var r check.Report
	r.Immutable(field.NewPath("type"), s.Type, old.Type)
	if old.Immutable != nil && *old.Immutable {
		if s.Immutable == nil || !*s.Immutable {
			r.Forbidden(field.NewPath("immutable"), immutableSet)
		}
		if !check.Same(s.Data, old.Data) {
			r.Forbidden(field.NewPath("data"), immutableSet)
		}
	}
	return append(r.Errs, validateSecret(s)...)
}

// warnSecret speaks of certificates that do not fit their key, or are none.
func warnSecret(s, _ *corev1.Secret) []string {
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}
