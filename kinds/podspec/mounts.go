package podspec

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds/check"
)

func (r *report) mounts(at *field.Path, c *corev1.Container, p *podContext) {
	paths := map[string]bool{}
	for i := range c.VolumeMounts {
		m, index := &c.VolumeMounts[i], at.Index(i)
		r.Present(index.Child("name"), m.Name)
		if p.volumes[m.Name] == nil {
			r.Add(field.NotFound(index.Child("name"), m.Name))
		}
		r.Present(index.Child("mountPath"), m.MountPath)
		if paths[m.MountPath] {
			r.Invalid(index.Child("mountPath"), m.MountPath, "must be unique")
		}
		paths[m.MountPath] = true
		if slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == m.Name }) {
			r.Invalid(index.Child("name"), m.Name, "must not already exist in volumeDevices")
		}
		if slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.DevicePath == m.MountPath }) {
			r.Invalid(index.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices")
		}
		// Upstream leaves the index out of the paths from here on.
		if m.SubPath != "" {
			r.descendingPath(at.Child("subPath"), m.SubPath)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				r.Invalid(index.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
			}
			r.descendingPath(at.Child("subPathExpr"), m.SubPathExpr)
		}
		r.propagation(at, m, c)
	}
}

func (r *report) propagation(at *field.Path, m *corev1.VolumeMount, c *corev1.Container) {
	propagation := ptr.Deref(m.MountPropagation, corev1.MountPropagationNone)
	if m.MountPropagation != nil {
		at := at.Child("mountPropagation")
		check.OneOf(&r.Report, at, propagation, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
		if propagation == corev1.MountPropagationBidirectional && (c.SecurityContext == nil || !ptr.Deref(c.SecurityContext.Privileged, false)) {
			r.Forbidden(at, "Bidirectional mount propagation is available only to privileged containers")
		}
	}
	if m.RecursiveReadOnly == nil {
		return
	}
	at = at.Child("recursiveReadOnly")
	mode := *m.RecursiveReadOnly
	if !check.OneOf(&r.Report, at, mode, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible) {
		return
	}
	if !m.ReadOnly {
		r.Forbidden(at, "may only be specified when readOnly is true")
	}
	if mode != corev1.RecursiveReadOnlyDisabled && propagation != corev1.MountPropagationNone {
		r.Forbidden(at, "may only be specified when mountPropagation is None or not specified")
	}
}

func (r *report) devices(at *field.Path, c *corev1.Container, p *podContext) {
	names, paths := map[string]bool{}, map[string]bool{}
	for i, d := range c.VolumeDevices {
		name, path := at.Index(i).Child("name"), at.Index(i).Child("devicePath")
		v := p.volumes[d.Name]
		r.Present(name, d.Name)
		if names[d.Name] {
			r.Invalid(name, d.Name, "must be unique")
		}
		switch {
		case v == nil:
			r.Add(field.NotFound(name, d.Name))
		case v.PersistentVolumeClaim == nil && v.Ephemeral == nil:
			r.Invalid(name, d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
		}
		r.Present(path, d.DevicePath)
		if paths[d.DevicePath] {
			r.Invalid(path, d.DevicePath, "must be unique")
		}
		if hasBackstep(d.DevicePath) {
			r.Invalid(path, d.DevicePath, "can not contain backsteps ('..')")
		}
		if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == d.Name }) {
			r.Invalid(name, d.Name, "must not already exist in volumeMounts")
		}
		if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == d.DevicePath }) {
			r.Invalid(path, d.DevicePath, "must not already exist as a path in volumeMounts")
		}
		names[d.Name], paths[d.DevicePath] = true, true
	}
}
