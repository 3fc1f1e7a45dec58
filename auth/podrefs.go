package auth

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/store"
)

// podRefers says whether a pod refers to the object that a names, directly or through its claims and volumes.
func podRefers(s store.Snapshot, pod *corev1.Pod, a *Attributes) bool {
	switch a.Resource {
	case "pods":
		return pod.Name == a.Name
	case "serviceaccounts":
		return pod.Spec.ServiceAccountName == a.Name
	case "resourceclaims":
		return podClaims(pod, a.Name)
	case "configmaps":
		return containersRefer(pod, a.Name, "") || volumesRefer(pod, func(v *corev1.Volume) bool { return volumeConfigMap(v, a.Name) })
	case "persistentvolumeclaims":
		return volumesRefer(pod, func(v *corev1.Volume) bool { return claimOf(pod, v) == a.Name })
	case "persistentvolumes":
		return volumesRefer(pod, func(v *corev1.Volume) bool {
			claim := claimOf(pod, v)
			return claim != "" && volumeNameOf(s, pod.Namespace, claim) == a.Name
		})
	case "secrets":
		return podSecret(s, pod, a.Namespace, a.Name)
	}
	return false
}

func volumesRefer(pod *corev1.Pod, f func(*corev1.Volume) bool) bool {
	for i := range pod.Spec.Volumes {
		if f(&pod.Spec.Volumes[i]) {
			return true
		}
	}
	return false
}

func podClaims(pod *corev1.Pod, name string) bool {
	for _, c := range pod.Spec.ResourceClaims {
		if c.ResourceClaimName != nil && *c.ResourceClaimName == name {
			return true
		}
	}
	for _, c := range pod.Status.ResourceClaimStatuses {
		if c.ResourceClaimName != nil && *c.ResourceClaimName == name {
			return true
		}
	}
	extended := pod.Status.ExtendedResourceClaimStatus
	return extended != nil && extended.ResourceClaimName == name
}

// containersRefer looks for a ConfigMap, or for a Secret, in the environment of all containers.
func containersRefer(pod *corev1.Pod, configMap, secret string) bool {
	refers := func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for i := range env {
			v := env[i].ValueFrom
			if v == nil {
				continue
			}
			if configMap != "" && v.ConfigMapKeyRef != nil && v.ConfigMapKeyRef.Name == configMap {
				return true
			}
			if secret != "" && v.SecretKeyRef != nil && v.SecretKeyRef.Name == secret {
				return true
			}
		}
		for i := range from {
			if configMap != "" && from[i].ConfigMapRef != nil && from[i].ConfigMapRef.Name == configMap {
				return true
			}
			if secret != "" && from[i].SecretRef != nil && from[i].SecretRef.Name == secret {
				return true
			}
		}
		return false
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; refers(c.Env, c.EnvFrom) {
			return true
		}
	}
	for i := range pod.Spec.Containers {
		if c := &pod.Spec.Containers[i]; refers(c.Env, c.EnvFrom) {
			return true
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if c := &pod.Spec.EphemeralContainers[i]; refers(c.Env, c.EnvFrom) {
			return true
		}
	}
	return false
}

func volumeConfigMap(v *corev1.Volume, name string) bool {
	if v.ConfigMap != nil && v.ConfigMap.Name == name {
		return true
	}
	if v.Projected != nil {
		for i := range v.Projected.Sources {
			if c := v.Projected.Sources[i].ConfigMap; c != nil && c.Name == name {
				return true
			}
		}
	}
	return false
}

// claimOf is the claim that a volume stands on, made for it (ephemeral) or not; "" for other volumes.
func claimOf(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}

func volumeNameOf(s store.Snapshot, namespace, claim string) string {
	item := s.Get(store.Key{Resource: "persistentvolumeclaims", Namespace: namespace, Name: claim})
	if item == nil {
		return ""
	}
	return item.Object.(*corev1.PersistentVolumeClaim).Spec.VolumeName
}

func podSecret(s store.Snapshot, pod *corev1.Pod, namespace, name string) bool {
	if pod.Namespace == namespace {
		for i := range pod.Spec.ImagePullSecrets {
			if pod.Spec.ImagePullSecrets[i].Name == name {
				return true
			}
		}
		if containersRefer(pod, "", name) || volumesRefer(pod, func(v *corev1.Volume) bool { return volumeSecret(v, name) }) {
			return true
		}
	}
	// Secrets of persistent volumes may lie in other namespaces.
	return volumesRefer(pod, func(v *corev1.Volume) bool {
		claim := claimOf(pod, v)
		if claim == "" {
			return false
		}
		item := s.Get(store.Key{Resource: "persistentvolumes", Name: volumeNameOf(s, pod.Namespace, claim)})
		return item != nil && persistentVolumeSecret(item.Object.(*corev1.PersistentVolume), namespace, name)
	})
}

func volumeSecret(v *corev1.Volume, name string) bool {
	local := func(r *corev1.LocalObjectReference) bool { return r != nil && r.Name == name }
	switch {
	case v.Secret != nil:
		return v.Secret.SecretName == name
	case v.Projected != nil:
		for i := range v.Projected.Sources {
			if s := v.Projected.Sources[i].Secret; s != nil && s.Name == name {
				return true
			}
		}
	case v.CSI != nil:
		return local(v.CSI.NodePublishSecretRef)
	case v.CephFS != nil:
		return local(v.CephFS.SecretRef)
	case v.RBD != nil:
		return local(v.RBD.SecretRef)
	case v.Cinder != nil:
		return local(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		return local(v.FlexVolume.SecretRef)
	case v.ScaleIO != nil:
		return local(v.ScaleIO.SecretRef)
	case v.ISCSI != nil:
		return local(v.ISCSI.SecretRef)
	case v.StorageOS != nil:
		return local(v.StorageOS.SecretRef)
	case v.AzureFile != nil:
		return v.AzureFile.SecretName == name
	}
	return false
}

// persistentVolumeSecret knows the secrets that a node needs of a volume; those of the controller side are not the node's.
func persistentVolumeSecret(pv *corev1.PersistentVolume, namespace, name string) bool {
	ref := func(r *corev1.SecretReference) bool {
		if r == nil || r.Name != name {
			return false
		}
		if r.Namespace == "" && pv.Spec.ClaimRef != nil {
			return pv.Spec.ClaimRef.Namespace == namespace
		}
		return r.Namespace == namespace
	}
	src := &pv.Spec.PersistentVolumeSource
	switch {
	case src.CSI != nil:
		return ref(src.CSI.NodePublishSecretRef) || ref(src.CSI.NodeStageSecretRef) || ref(src.CSI.NodeExpandSecretRef)
	case src.CephFS != nil:
		return ref(src.CephFS.SecretRef)
	case src.RBD != nil:
		return ref(src.RBD.SecretRef)
	case src.Cinder != nil:
		return ref(src.Cinder.SecretRef)
	case src.FlexVolume != nil:
		return ref(src.FlexVolume.SecretRef)
	case src.ScaleIO != nil:
		return ref(src.ScaleIO.SecretRef)
	case src.ISCSI != nil:
		return ref(src.ISCSI.SecretRef)
	case src.AzureFile != nil:
		r := &corev1.SecretReference{Name: src.AzureFile.SecretName}
		if src.AzureFile.SecretNamespace != nil {
			r.Namespace = *src.AzureFile.SecretNamespace
		}
		return ref(r)
	case src.StorageOS != nil && src.StorageOS.SecretRef != nil:
		return src.StorageOS.SecretRef.Name == name && src.StorageOS.SecretRef.Namespace == namespace
	}
	return false
}
