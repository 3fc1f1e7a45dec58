package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The fields of a pod that containers may be told, sorted: by environment, and by files.
var (
	envFields = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	fileFields = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	// knownFields are all that the v1 API can name at all; the others get another text.
	knownFields = slices.Concat(envFields, fileFields, []string{"spec.restartPolicy", "spec.schedulerName", "status.phase"})

	resourceFields = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory"}
)

func (r *report) env(at *field.Path, env []corev1.EnvVar, p *podContext) {
	for i := range env {
		at := at.Index(i)
		r.Name(at.Child("name"), env[i].Name, validation.IsRelaxedEnvVarName)
		if env[i].ValueFrom != nil {
			r.envSource(at.Child("valueFrom"), &env[i], p)
		}
	}
}

func (r *report) envSource(at *field.Path, e *corev1.EnvVar, p *podContext) {
	from, sources := e.ValueFrom, 0
	if f := from.FieldRef; f != nil {
		sources++
		r.fieldRef(at.Child("fieldRef"), f, envFields)
	}
	if f := from.ResourceFieldRef; f != nil {
		sources++
		r.resourceFieldRef(at.Child("resourceFieldRef"), f, false)
	}
	if f := from.ConfigMapKeyRef; f != nil {
		sources++
		r.keyRef(at.Child("configMapKeyRef"), f.Name, f.Key)
	}
	if f := from.SecretKeyRef; f != nil {
		sources++
		r.keyRef(at.Child("secretKeyRef"), f.Name, f.Key)
	}
	if f := from.FileKeyRef; f != nil {
		sources++
		r.fileKeyRef(at.Child("fileKeyRef"), f, p)
	}
	switch {
	case sources == 0:
		r.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
	case e.Value != "":
		r.Invalid(at, "", "may not be specified when `value` is not empty")
	case sources > 1:
		r.Invalid(at, "", "may not have more than one field specified at a time")
	}
}

func (r *report) keyRef(at *field.Path, name, key string) {
	r.Invalid(at.Child("name"), name, subdomain(name)...)
	r.Name(at.Child("key"), key, validation.IsConfigMapKey)
}

// fileKeyRef checks a variable that comes from a file which another container of the pod wrote.
func (r *report) fileKeyRef(at *field.Path, f *corev1.FileKeySelector, p *podContext) {
	if name := at.Child("volumeName"); r.Present(name, f.VolumeName) {
		if v, ok := p.volumes[f.VolumeName]; !ok {
			r.Add(field.NotFound(name, f.VolumeName))
		} else if v.EmptyDir == nil {
			r.Invalid(name, f.VolumeName, "must reference an emptyDir volume")
		}
	}
	if path := at.Child("path"); r.Present(path, f.Path) {
		r.ownPath(path, f.Path)
	}
	if key := at.Child("key"); r.Present(key, f.Key) {
		r.Invalid(key, f.Key, validation.IsRelaxedEnvVarName(f.Key)...)
		if len(f.Key) > 128 {
			r.Add(field.TooLong(key, f.Key, 128))
		}
	}
}

func (r *report) envFrom(at *field.Path, sources []corev1.EnvFromSource) {
	for i, s := range sources {
		index, n := at.Index(i), 0
		if s.Prefix != "" {
			r.Invalid(index.Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix)...)
		}
		if s.ConfigMapRef != nil {
			n++
			r.Name(index.Child("configMapRef", "name"), s.ConfigMapRef.Name, subdomain)
		}
		if s.SecretRef != nil {
			n++
			r.Name(index.Child("secretRef", "name"), s.SecretRef.Name, subdomain)
		}
		switch n {
		case 0:
			r.Invalid(at, "", "must specify one of: `configMapRef` or `secretRef`")
		case 2:
			r.Invalid(at, "", "may not have more than one field specified at a time")
		}
	}
}

// fieldRef checks a reference to a field of the pod, one of allowed, or to one label or annotation: metadata.labels['a'].
func (r *report) fieldRef(at *field.Path, f *corev1.ObjectFieldSelector, allowed []string) {
	if !r.Present(at.Child("apiVersion"), f.APIVersion) || !r.Present(at.Child("fieldPath"), f.FieldPath) {
		return
	}
	bad := func(format string, args ...any) {
		r.Invalid(at.Child("fieldPath"), f.FieldPath, "error converting fieldPath: "+fmt.Sprintf(format, args...))
	}
	path, subscript, subscripted := splitSubscript(f.FieldPath)
	switch {
	case f.APIVersion != "v1":
		bad("unsupported pod version: %s", f.APIVersion)
	case subscripted && path == "metadata.annotations":
		r.Invalid(at, subscript, validation.IsQualifiedName(strings.ToLower(subscript))...)
	case subscripted && path == "metadata.labels":
		r.Invalid(at, subscript, validation.IsQualifiedName(subscript)...)
	case subscripted:
		bad("field label does not support subscript: %s", f.FieldPath)
	case path != "spec.host" && !slices.Contains(knownFields, path):
		bad("field label not supported: %s", path)
	case path != "spec.host" && !slices.Contains(allowed, path):
		r.Add(field.NotSupported(at.Child("fieldPath"), path, allowed))
	}
}

// splitSubscript takes metadata.labels['a'] apart.
func splitSubscript(fieldPath string) (path, subscript string, ok bool) {
	inner, closed := strings.CutSuffix(fieldPath, "']")
	path, subscript, opened := strings.Cut(inner, "['")
	if !closed || !opened || path == "" {
		return fieldPath, "", false
	}
	return path, subscript, true
}

const byteDivisors = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei"

func (r *report) resourceFieldRef(at *field.Path, f *corev1.ResourceFieldSelector, inVolume bool) {
	if inVolume && !r.Present(at.Child("containerName"), f.ContainerName) {
		return
	}
	if !r.Present(at.Child("resource"), f.Resource) {
		return
	}
	_, name, _ := strings.Cut(f.Resource, ".")
	hugePages := strings.HasPrefix(f.Resource, "limits."+corev1.ResourceHugePagesPrefix) || strings.HasPrefix(f.Resource, "requests."+corev1.ResourceHugePagesPrefix)
	if !hugePages && !slices.Contains(resourceFields, f.Resource) {
		r.Add(field.NotSupported(at.Child("resource"), f.Resource, resourceFields))
	}
	if f.Divisor.Cmp(resource.Quantity{}) == 0 {
		return
	}
	divisors, noun, and := byteDivisors, name+" resource", ""
	switch {
	case name == string(corev1.ResourceCPU):
		divisors, and = "1m, 1", "1m and 1"
	case name == string(corev1.ResourceEphemeralStorage):
		noun = "local ephemeral storage resource"
	case hugePages:
		noun = "hugepages resource"
	}
	if and == "" {
		and = divisors
	}
	if !slices.Contains(strings.Split(divisors, ", "), f.Divisor.String()) {
		r.Invalid(at.Child("divisor"), f.Resource, fmt.Sprintf("only divisor's values %s are supported with the %s", and, noun))
	}
}
