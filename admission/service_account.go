package admission

import (
	"context"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/store"
)

const (
	tokenMountPath      = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolumePrefix   = "kube-api-access-"
	rootCAConfigMap     = "kube-root-ca.crt"
	mountableAnnotation = "kubernetes.io/enforce-mountable-secrets"
)

// serviceAccount gives every pod an account, the account's token and CA as a volume, and the account's pull secrets.
func serviceAccount(reader store.Reader) Step {
	return Step{
		Name: "ServiceAccount",
		Mutate: func(_ context.Context, r *Request) error {
			pod, ok := r.newPod()
			if !ok || isMirror(pod) {
				return nil
			}
			if pod.Spec.ServiceAccountName == "" {
				pod.Spec.ServiceAccountName = "default"
			}
			pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
			account, ok := named[*corev1.ServiceAccount](reader, "serviceaccounts", r.Namespace, pod.Spec.ServiceAccountName)
			if !ok {
				return r.forbid("error looking up service account %s/%s: serviceaccount %q not found",
					r.Namespace, pod.Spec.ServiceAccountName, pod.Spec.ServiceAccountName)
			}
			if automounts(account, pod) {
				mountToken(pod)
			}
			if len(pod.Spec.ImagePullSecrets) == 0 {
				pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
			}
			return nil
		},
		Validate: func(_ context.Context, r *Request) error {
			pod, ok := r.newPod()
			if !ok {
				return nil
			}
			if isMirror(pod) {
				return checkMirror(r, pod)
			}
			account, ok := named[*corev1.ServiceAccount](reader, "serviceaccounts", r.Namespace, pod.Spec.ServiceAccountName)
			if ok && account.Annotations[mountableAnnotation] == "true" {
				return checkMountable(r, account, pod)
			}
			return nil
		},
	}
}

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// checkMirror: the shadow of a node's static pod has no part in the API.
func checkMirror(r *Request, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return r.forbid("a mirror pod may not reference service accounts")
	}
	for i := range pod.Spec.Volumes {
		p := pod.Spec.Volumes[i].Projected
		if p != nil && slices.ContainsFunc(p.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil }) {
			return r.forbid("a mirror pod may not use ServiceAccountToken volume projections")
		}
	}
	return nil
}

// automounts: the pod's word counts before the account's, and yes is the default.
func automounts(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	switch {
	case pod.Spec.AutomountServiceAccountToken != nil:
		return *pod.Spec.AutomountServiceAccountToken
	case account.AutomountServiceAccountToken != nil:
		return *account.AutomountServiceAccountToken
	}
	return true
}

// mountToken mounts the token volume in every container that has nothing of its own in that place.
func mountToken(pod *corev1.Pod) {
	name, exists := "", false
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; strings.HasPrefix(v.Name, tokenVolumePrefix) {
			name, exists = v.Name, true
			break
		}
	}
	if !exists {
		taken := sets.New[string]()
		for i := range pod.Spec.Volumes {
			taken.Insert(pod.Spec.Volumes[i].Name)
		}
		for name == "" || taken.Has(name) {
			name = tokenVolumePrefix + rand.String(5)
		}
	}
	mounted := false
	mount := func(containers []corev1.Container) {
		for i := range containers {
			c := &containers[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMountPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
			mounted = true
		}
	}
	mount(pod.Spec.InitContainers)
	mount(pod.Spec.Containers)
	if mounted && !exists {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: tokenVolume()})
	}
}

func tokenVolume() corev1.VolumeSource {
	mode, seconds := corev1.ProjectedVolumeSourceDefaultMode, int64(auth.ProjectedTokenSeconds)
	return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}}
}

// checkMountable holds a pod to the secrets that its account lists, where the account asks for that.
func checkMountable(r *Request, account *corev1.ServiceAccount, pod *corev1.Pod) error {
	mountable := sets.New[string]()
	for _, s := range account.Secrets {
		mountable.Insert(s.Name)
	}
	for i := range pod.Spec.Volumes {
		if s := pod.Spec.Volumes[i].Secret; s != nil && !mountable.Has(s.SecretName) {
			return r.forbid("volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", s.SecretName, account.Name)
		}
	}
	check := func(what string, containers []corev1.Container) error {
		for i := range containers {
			c := &containers[i]
			for j := range c.Env {
				if v := c.Env[j].ValueFrom; v != nil && v.SecretKeyRef != nil && !mountable.Has(v.SecretKeyRef.Name) {
					return r.forbid("%s %s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
						what, c.Name, c.Env[j].Name, v.SecretKeyRef.Name, account.Name)
				}
			}
			for _, from := range c.EnvFrom {
				if from.SecretRef != nil && !mountable.Has(from.SecretRef.Name) {
					return r.forbid("%s %s with envFrom referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
						what, c.Name, from.SecretRef.Name, account.Name)
				}
			}
		}
		return nil
	}
	if err := check("init container", pod.Spec.InitContainers); err != nil {
		return err
	}
	if err := check("container", pod.Spec.Containers); err != nil {
		return err
	}
	for i, s := range pod.Spec.ImagePullSecrets {
		if !slices.Contains(account.ImagePullSecrets, s) {
			return r.forbid("imagePullSecrets[%s].name=%q is not allowed because service account %s does not reference that imagePullSecret",
				strconv.Itoa(i), s.Name, account.Name)
		}
	}
	return nil
}
