package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds/check"
)

const oneSource = "may not specify more than 1 volume type"

// volumes checks the volumes of a pod and returns the good ones by name. meta is nil in templates.
func (r *report) volumes(at *field.Path, volumes []corev1.Volume, meta *metav1.ObjectMeta) map[string]*corev1.VolumeSource {
	good := map[string]*corev1.VolumeSource{}
	for i := range volumes {
		v, at := &volumes[i], at.Index(i)
		before := len(r.Errs)
		r.volumeSource(at, v, meta)
		if v.Ephemeral != nil {
			r.ephemeralName(at, v, meta)
		}
		r.Name(at.Child("name"), v.Name, validation.IsDNS1123Label)
		if good[v.Name] != nil {
			r.Add(field.Duplicate(at.Child("name"), v.Name))
		}
		if len(r.Errs) == before {
			good[v.Name] = &v.VolumeSource
		}
	}
	return good
}

// volumeCheck is one sort of volume source: whether it is set, and what must hold for it.
type volumeCheck struct {
	name  string
	set   bool
	check func(r *report, at *field.Path)
}

// volumeSource reports all but the first source, in upstream's order, and what is wrong with that one.
func (r *report) volumeSource(at *field.Path, v *corev1.Volume, meta *metav1.ObjectMeta) {
	n, checks := 0, localSources(v, meta)
	// Nearly all volumes are local: spare them the long list of the others.
	others := v.VolumeSource
	others.EmptyDir, others.HostPath, others.Secret, others.ConfigMap, others.Projected, others.DownwardAPI = nil, nil, nil, nil, nil, nil
	others.PersistentVolumeClaim = nil
	if others != (corev1.VolumeSource{}) {
		checks = append(checks, networkSources(&v.VolumeSource)...)
	}
	for _, c := range checks {
		if !c.set {
			continue
		}
		if n++; n > 1 {
			r.Forbidden(at.Child(c.name), oneSource)
			continue
		}
		c.check(r, at.Child(c.name))
	}
	if n == 0 {
		r.Required(at, "must specify a volume type")
	}
}

// localSources are those that the node makes by itself or from objects of the API.
func localSources(v *corev1.Volume, meta *metav1.ObjectMeta) []volumeCheck {
	return []volumeCheck{
		{"emptyDir", v.EmptyDir != nil, func(r *report, at *field.Path) {
			if l := v.EmptyDir.SizeLimit; l != nil && l.Sign() < 0 {
				r.Forbidden(at.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")
			}
		}},
		{"hostPath", v.HostPath != nil, func(r *report, at *field.Path) {
			if r.Present(at.Child("path"), v.HostPath.Path) {
				r.noBacksteps(at.Child("path"), v.HostPath.Path)
			}
			if t := v.HostPath.Type; t != nil {
				check.OneOf(&r.Report, at.Child("type"), *t, corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
					corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)
			}
		}},
		{"gitRepo", v.GitRepo != nil, func(r *report, at *field.Path) {
			r.Present(at.Child("repository"), v.GitRepo.Repository)
			r.descendingPath(at.Child("directory"), v.GitRepo.Directory)
		}},
		{"secret", v.Secret != nil, func(r *report, at *field.Path) {
			r.Present(at.Child("secretName"), v.Secret.SecretName)
			r.mode(at.Child("defaultMode"), v.Secret.DefaultMode)
			r.items(at.Child("items"), v.Secret.Items)
		}},
		{"persistentVolumeClaim", v.PersistentVolumeClaim != nil, func(r *report, at *field.Path) {
			r.Present(at.Child("claimName"), v.PersistentVolumeClaim.ClaimName)
		}},
		{"downwardAPI", v.DownwardAPI != nil, func(r *report, at *field.Path) {
			r.mode(at.Child("defaultMode"), v.DownwardAPI.DefaultMode)
			for i := range v.DownwardAPI.Items {
				r.downwardFile(at, &v.DownwardAPI.Items[i])
			}
		}},
		{"configMap", v.ConfigMap != nil, func(r *report, at *field.Path) {
			r.Present(at.Child("name"), v.ConfigMap.Name)
			r.mode(at.Child("defaultMode"), v.ConfigMap.DefaultMode)
			r.items(at.Child("items"), v.ConfigMap.Items)
		}},
		{"projected", v.Projected != nil, func(r *report, at *field.Path) {
			r.projections(at, v.Projected)
			r.mode(at.Child("defaultMode"), v.Projected.DefaultMode)
		}},
		{"ephemeral", v.Ephemeral != nil, func(r *report, at *field.Path) { r.ephemeralVolume(at, v) }},
		{"image", v.Image != nil, func(r *report, at *field.Path) {
			// Controllers may fill in the images of their templates.
			if meta != nil {
				r.Present(at.Child("reference"), v.Image.Reference)
			}
			check.OneOfRequired(&r.Report, at.Child("pullPolicy"), v.Image.PullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
		}},
	}
}

// mode checks the permission bits of a file.
func (r *report) mode(at *field.Path, mode *int32) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		r.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")
	}
}

// items checks which keys of a ConfigMap or Secret become which files.
func (r *report) items(at *field.Path, items []corev1.KeyToPath) {
	for i, item := range items {
		at := at.Index(i)
		r.Present(at.Child("key"), item.Key)
		if r.Present(at.Child("path"), item.Path) {
			r.ownPath(at.Child("path"), item.Path)
		}
		r.mode(at.Child("mode"), item.Mode)
	}
}

// downwardFile checks a file that shows a field of the pod; upstream's paths do not say which of the items it is.
func (r *report) downwardFile(at *field.Path, f *corev1.DownwardAPIVolumeFile) {
	if r.Present(at.Child("path"), f.Path) {
		r.ownPath(at.Child("path"), f.Path)
	}
	switch {
	case f.FieldRef != nil:
		r.fieldRef(at.Child("fieldRef"), f.FieldRef, fileFields)
		if f.ResourceFieldRef != nil {
			r.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
		}
	case f.ResourceFieldRef != nil:
		r.resourceFieldRef(at.Child("resourceFieldRef"), f.ResourceFieldRef, true)
	default:
		r.Required(at, "one of fieldRef and resourceFieldRef is required")
	}
	r.mode(at.Child("mode"), f.Mode)
}

// projections checks what goes into one projected volume. No two sources may write the same file.
func (r *report) projections(at *field.Path, p *corev1.ProjectedVolumeSource) {
	paths := map[string]bool{}
	claim := func(path string, value any) {
		if path == "" {
			return
		}
		if paths[path] {
			r.Invalid(at, value, "conflicting duplicate paths")
		}
		paths[path] = true
	}
	for i := range p.Sources {
		s, source, n := &p.Sources[i], at.Child("sources").Index(i), 0
		for _, c := range []volumeCheck{
			{"secret", s.Secret != nil, func(r *report, at *field.Path) {
				r.Present(at.Child("name"), s.Secret.Name)
				r.items(at.Child("items"), s.Secret.Items)
				for _, item := range s.Secret.Items {
					claim(item.Path, s.Secret.Name)
				}
			}},
			{"configMap", s.ConfigMap != nil, func(r *report, at *field.Path) {
				r.Present(at.Child("name"), s.ConfigMap.Name)
				r.items(at.Child("items"), s.ConfigMap.Items)
				for _, item := range s.ConfigMap.Items {
					claim(item.Path, s.ConfigMap.Name)
				}
			}},
			{"downwardAPI", s.DownwardAPI != nil, func(r *report, at *field.Path) {
				for j := range s.DownwardAPI.Items {
					r.downwardFile(at, &s.DownwardAPI.Items[j])
					claim(s.DownwardAPI.Items[j].Path, s.DownwardAPI.Items[j].Path)
				}
			}},
			{"serviceAccountToken", s.ServiceAccountToken != nil, func(r *report, token *field.Path) {
				t := s.ServiceAccountToken
				if e := t.ExpirationSeconds; e != nil {
					if *e < 10*60 {
						r.Invalid(token.Child("expirationSeconds"), *e, "may not specify a duration less than 10 minutes")
					}
					if *e > 1<<32 {
						r.Invalid(token.Child("expirationSeconds"), *e, "may not specify a duration larger than 2^32 seconds")
					}
				}
				// The path of a token is reported at the volume, as upstream does.
				if r.Present(at.Child("path"), t.Path) {
					r.ownPath(at.Child("path"), t.Path)
				}
				claim(t.Path, t.Path)
			}},
			{"clusterTrustBundle", s.ClusterTrustBundle != nil, func(r *report, at *field.Path) {
				r.trustBundle(at, s.ClusterTrustBundle)
				claim(s.ClusterTrustBundle.Path, s.ClusterTrustBundle.Path)
			}},
			{"podCertificate", s.PodCertificate != nil, func(r *report, at *field.Path) {
				r.podCertificate(at, s.PodCertificate)
				for _, path := range []string{s.PodCertificate.CredentialBundlePath, s.PodCertificate.KeyPath, s.PodCertificate.CertificateChainPath} {
					claim(path, path)
				}
			}},
		} {
			if !c.set {
				continue
			}
			if n++; n > 1 {
				r.Forbidden(source.Child(c.name), oneSource)
				continue
			}
			c.check(r, source.Child(c.name))
		}
	}
}

func (r *report) trustBundle(at *field.Path, b *corev1.ClusterTrustBundleProjection) {
	switch {
	case b.Name != nil && b.SignerName != nil:
		r.Invalid(at, Dump(b), "only one of name and signerName may be used")
	case b.Name != nil:
		if *b.Name == "" {
			r.Required(at.Child("name"), "must be a valid object name")
		}
		r.Invalid(at.Child("name"), *b.Name, trustBundleName(*b.Name)...)
		if b.LabelSelector != nil {
			r.Invalid(at.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified")
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			r.Required(at.Child("signerName"), "must be a valid signer name")
		}
		r.signerName(at.Child("signerName"), *b.SignerName)
	default:
		r.Required(at, "either name or signerName must be specified")
	}
	if r.Present(at.Child("path"), b.Path) {
		r.ownPath(at.Child("path"), b.Path)
	}
}

// trustBundleName checks a bundle's name: a signer's one begins with the signer's name, "/" written as ":".
func trustBundleName(name string) []string {
	if domain, rest, ok := strings.Cut(name, ":"); ok {
		if bad := subdomain(domain); len(bad) > 0 {
			return bad
		}
		name = strings.ReplaceAll(rest, ":", ".")
	}
	return subdomain(name)
}

// signerName checks "domain/path".
func (r *report) signerName(at *field.Path, name string) {
	domain, path, ok := strings.Cut(name, "/")
	if !ok || !strings.Contains(domain, ".") {
		r.Invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
		return
	}
	r.Invalid(at, domain, subdomain(domain)...)
	r.Invalid(at, path, subdomain(path)...)
}

func (r *report) podCertificate(at *field.Path, c *corev1.PodCertificateProjection) {
	r.signerName(at.Child("signerName"), c.SignerName)
	check.OneOfRequired(&r.Report, at.Child("keyType"), c.KeyType, "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")
	if s := c.MaxExpirationSeconds; s != nil {
		at := at.Child("maxExpirationSeconds")
		if *s < 3600 {
			r.Invalid(at, *s, "if provided, maxExpirationSeconds must be >= 3600")
		}
		// A day for the signers of Kubernetes itself, 91 days for others.
		if own := strings.HasPrefix(c.SignerName, "kubernetes.io/") || strings.Contains(c.SignerName, ".kubernetes.io/"); own && *s > 86400 {
			r.Invalid(at, *s, "if provided, maxExpirationSeconds must be <= 86400")
		} else if *s > 7862400 {
			r.Invalid(at, *s, "if provided, maxExpirationSeconds must be <= 7862400")
		}
	}
	paths := []struct{ name, path string }{
		{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath},
	}
	if c.CredentialBundlePath == "" && c.KeyPath == "" && c.CertificateChainPath == "" {
		r.Required(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")
	}
	for _, p := range paths {
		if p.path != "" {
			r.ownPath(at.Child(p.name), p.path)
		}
	}
	for key := range c.UserAnnotations {
		r.Add(validation.IsDomainPrefixedKey(at.Child("userAnnotations"), key)...)
	}
}

// ephemeralVolume checks a claim that lives as long as its pod, and is named for the pod and the volume.
func (r *report) ephemeralVolume(at *field.Path, v *corev1.Volume) {
	at = at.Child("volumeClaimTemplate")
	t := v.Ephemeral.VolumeClaimTemplate
	if t == nil {
		r.Required(at, "")
		return
	}
	r.Add(claimMetadata(at.Child("metadata"), &t.ObjectMeta)...)
	r.Add(ValidateClaimSpec(&t.Spec, at.Child("spec"))...)
}

// ephemeralName checks what the claim of an ephemeral volume will be called.
func (r *report) ephemeralName(at *field.Path, v *corev1.Volume, meta *metav1.ObjectMeta) {
	if meta == nil || meta.Name == "" || v.Name == "" {
		return
	}
	name := meta.Name + "-" + v.Name
	for _, m := range subdomain(name) {
		r.Invalid(at.Child("name"), v.Name, fmt.Sprintf("PVC name %q: %v", name, m))
	}
}
