package csi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/volume"
	"github.com/kebernetes/kebernetes/volume/capability"
)

const (
	// callTimeout bounds one call of a driver, attachTimeout the wait for an attachment: upstream's.
	callTimeout   = 2 * time.Minute
	attachTimeout = 2 * time.Minute
	// republishEvery is how often a volume is published again whose driver asks for that.
	republishEvery = time.Minute
)

var _ volume.Plugin = (*Node)(nil)

// Kind implements volume.Plugin.
func (n *Node) Kind() string { return kind }

// Supports implements volume.Plugin.
func (n *Node) Supports(r *volume.Request) bool {
	return r.Volume.CSI != nil || r.PV != nil && r.PV.Spec.CSI != nil
}

// source is a volume as its driver knows it.
type source struct {
	driverName, handle, fsType string
	attributes                 map[string]string
	readOnly, inline           bool
	stage, publish, expand     *corev1.SecretReference
}

// inlineHandle is the id of a volume that lives and dies with its pod: upstream's.
func inlineHandle(pod types.UID, name string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(string(pod)+name)))
}

func sourceOf(r *volume.Request) *source {
	if r.PV != nil {
		s := r.PV.Spec.CSI
		return &source{driverName: s.Driver, handle: s.VolumeHandle, fsType: s.FSType, attributes: s.VolumeAttributes, readOnly: s.ReadOnly || r.ReadOnly,
			stage: s.NodeStageSecretRef, publish: s.NodePublishSecretRef, expand: s.NodeExpandSecretRef}
	}
	s := r.Volume.CSI
	out := &source{driverName: s.Driver, handle: inlineHandle(r.Pod.UID, r.Name), attributes: s.VolumeAttributes, inline: true}
	if s.FSType != nil {
		out.fsType = *s.FSType
	}
	out.readOnly = s.ReadOnly != nil && *s.ReadOnly
	if s.NodePublishSecretRef != nil {
		out.publish = &corev1.SecretReference{Namespace: r.Pod.Namespace, Name: s.NodePublishSecretRef.Name}
	}
	return out
}

// mount is one volume on its way to one pod.
type mount struct {
	*volume.Request
	*source
	n       *Node
	d       *driver
	object  *storagev1.CSIDriver // nil: the driver does not describe itself
	context map[string]string    // of the attachment
}

// Mount implements volume.Plugin: it waits for the attachment, stages the volume on the node, and publishes it to the pod.
func (n *Node) Mount(ctx context.Context, r *volume.Request) (volume.Mounted, error) {
	m := &mount{Request: r, source: sourceOf(r), n: n}
	var err error
	if m.d, err = n.driver(m.driverName); err != nil {
		return volume.Mounted{}, fmt.Errorf("kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: %w", err)
	}
	m.object, err = client.Get[*storagev1.CSIDriver](ctx, n.Client, "", m.driverName)
	if apierrors.IsNotFound(err) {
		m.object, err = nil, nil
	}
	if err != nil {
		return volume.Mounted{}, fmt.Errorf("kubernetes.io/csi: %w", err)
	}
	if err := m.allowed(); err != nil {
		return volume.Mounted{}, err
	}
	kept := &data{SpecVolID: r.Name, VolumeHandle: m.handle, DriverName: m.driverName, NodeName: n.NodeName, VolumeLifecycleMode: string(m.lifecycle())}
	if m.attaches() {
		kept.AttachmentID = AttachmentName(m.handle, m.driverName, n.NodeName)
		if err := m.awaitAttached(ctx, kept.AttachmentID); err != nil {
			return volume.Mounted{}, volume.Step("MountVolume.WaitForAttach failed", err)
		}
	}
	defer n.lock(m.driverName, m.handle)()
	if err := m.stageVolume(ctx, kept); err != nil {
		return volume.Mounted{}, volume.Step("MountVolume.MountDevice failed", err)
	}
	if err := kept.save(r.Dir); err != nil {
		return volume.Mounted{}, err
	}
	if !m.d.stages {
		if err := m.claimUse(ctx, kept); err != nil {
			return volume.Mounted{}, err
		}
	}
	return m.publishVolume(ctx)
}

// claimUse has the node say that it uses an attached volume, before it does: then nobody detaches it under the pod, whatever
// becomes of the pod's object.
func (m *mount) claimUse(ctx context.Context, kept *data) error {
	if kept.AttachmentID == "" || m.n.Status == nil {
		return nil
	}
	if err := m.n.Status.Reported(ctx); err != nil {
		return fmt.Errorf("report volume %s as in use: %w", m.handle, err)
	}
	return nil
}

func (m *mount) lifecycle() storagev1.VolumeLifecycleMode {
	if m.inline {
		return storagev1.VolumeLifecycleEphemeral
	}
	return storagev1.VolumeLifecyclePersistent
}

// allowed says whether the driver offers volumes of this kind. One that does not describe itself offers persistent ones only.
func (m *mount) allowed() error {
	modes, why := []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}, "no CSIDriver object"
	if m.object != nil {
		why = fmt.Sprintf("only supports %q", m.object.Spec.VolumeLifecycleModes)
		if len(m.object.Spec.VolumeLifecycleModes) > 0 {
			modes = m.object.Spec.VolumeLifecycleModes
		}
	}
	if !slices.Contains(modes, m.lifecycle()) {
		return fmt.Errorf("volume mode %q not supported by driver %s (%s)", m.lifecycle(), m.driverName, why)
	}
	return nil
}

func (m *mount) attaches() bool {
	return !m.inline && (m.object == nil || m.object.Spec.AttachRequired == nil || *m.object.Spec.AttachRequired)
}

// AttachmentName is the name by which the control plane and node agents find the attachment of a volume to a node.
func AttachmentName(handle, driver, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(handle+driver+node)))
}

// awaitAttached waits for the attachment. A node may read its attachments one by one and not follow them, so it asks again and again.
func (m *mount) awaitAttached(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	for delay := 50 * time.Millisecond; ; delay = min(2*delay, 5*time.Second) {
		va, err := client.Get[*storagev1.VolumeAttachment](ctx, m.n.Client, "", name)
		switch {
		case err == nil && va.Status.Attached:
			m.context = va.Status.AttachmentMetadata
			return nil
		case err == nil && va.Status.AttachError != nil:
			return errors.New(va.Status.AttachError.Message)
		case err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) && ctx.Err() == nil:
			// What is not there is not the node's either, and so is forbidden.
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("timed out waiting for external-attacher of %s CSI driver to attach volume %s", m.driverName, m.handle)
		case <-time.After(delay):
		}
	}
}

// capability is what the driver is told of the volume's use.
func (m *mount) capability() *spec.VolumeCapability {
	access, mode := m.AccessModes(), (*corev1.PersistentVolumeMode)(nil)
	if m.PV != nil {
		mode = m.PV.Spec.VolumeMode
	}
	c := capability.One(access, mode, m.fsType, m.Options())
	if group := m.group(); group != nil && m.d.groups && c.GetMount() != nil {
		c.GetMount().VolumeMountGroup = fmt.Sprint(*group)
	}
	return c
}

func (m *mount) group() *int64 {
	if s := m.Pod.Spec.SecurityContext; s != nil {
		return s.FSGroup
	}
	return nil
}

// stageVolume makes the volume known to the node, for drivers that do this once for all pods.
func (m *mount) stageVolume(ctx context.Context, kept *data) error {
	if !m.d.stages || m.inline {
		return nil
	}
	dir := m.n.stagingDir(m.driverName, m.handle)
	if err := kept.save(dir); err != nil {
		return err
	}
	if err := m.claimUse(ctx, kept); err != nil {
		return err
	}
	target := filepath.Join(dir, "globalmount")
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	secrets, err := m.secret(ctx, m.stage)
	if err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := spec.NewNodeClient(m.d.conn).NodeStageVolume(call, &spec.NodeStageVolumeRequest{
		VolumeId: m.handle, PublishContext: m.context, StagingTargetPath: target, VolumeCapability: m.capability(), Secrets: secrets, VolumeContext: m.attributes,
	}); err != nil {
		return err
	}
	return m.expandVolume(ctx, target)
}

// publishVolume hands the volume to the pod.
func (m *mount) publishVolume(ctx context.Context) (volume.Mounted, error) {
	out := volume.Mounted{Path: m.target(), ReadOnly: m.readOnly}
	attributes, secrets, err := m.told(ctx)
	if err != nil {
		return out, err
	}
	request := &spec.NodePublishVolumeRequest{
		VolumeId: m.handle, PublishContext: m.context, TargetPath: m.target(), VolumeCapability: m.capability(), Readonly: m.readOnly,
		Secrets: secrets, VolumeContext: attributes,
	}
	if m.d.stages && !m.inline {
		request.StagingTargetPath = filepath.Join(m.n.stagingDir(m.driverName, m.handle), "globalmount")
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := spec.NewNodeClient(m.d.conn).NodePublishVolume(call, request); err != nil {
		return out, err
	}
	if m.object != nil && m.object.Spec.RequiresRepublish != nil && *m.object.Spec.RequiresRepublish {
		out.Refresh = time.Now().Add(republishEvery)
	}
	if !m.d.stages || m.inline {
		if err := m.expandVolume(ctx, m.target()); err != nil {
			return out, err
		}
	}
	if m.group() == nil || m.d.groups || m.readOnly || m.Device() || !m.owned() {
		return out, nil
	}
	return out, volume.Own(m.target(), m.Pod)
}

// target is where the driver mounts the volume, or puts the device; only its parent is made here.
func (m *mount) target() string {
	if m.Device() {
		return filepath.Join(m.Dir, "device")
	}
	return filepath.Join(m.Dir, "mount")
}

// owned says whether the volume's files are given to the pod's group, by the driver's policy.
func (m *mount) owned() bool {
	policy := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
	if m.object != nil && m.object.Spec.FSGroupPolicy != nil {
		policy = *m.object.Spec.FSGroupPolicy
	}
	switch policy {
	case storagev1.FileFSGroupPolicy:
		return true
	case storagev1.NoneFSGroupPolicy:
		return false
	}
	return m.fsType != "" && slices.Contains(m.AccessModes(), corev1.ReadWriteOnce)
}

// told is what the driver is told of the pod: the volume's attributes, and what the driver's object asks for beside them.
func (m *mount) told(ctx context.Context) (attributes, secrets map[string]string, err error) {
	attributes = maps.Clone(m.attributes)
	if attributes == nil {
		attributes = map[string]string{}
	}
	if secrets, err = m.secret(ctx, m.publish); err != nil || m.object == nil {
		return attributes, secrets, err
	}
	if p := m.object.Spec.PodInfoOnMount; p != nil && *p {
		attributes["csi.storage.k8s.io/pod.name"] = m.Pod.Name
		attributes["csi.storage.k8s.io/pod.namespace"] = m.Pod.Namespace
		attributes["csi.storage.k8s.io/pod.uid"] = string(m.Pod.UID)
		attributes["csi.storage.k8s.io/serviceAccount.name"] = m.Pod.Spec.ServiceAccountName
		attributes["csi.storage.k8s.io/ephemeral"] = fmt.Sprint(m.inline)
	}
	if len(m.object.Spec.TokenRequests) == 0 {
		return attributes, secrets, nil
	}
	tokens := map[string]token{}
	for _, wanted := range m.object.Spec.TokenRequests {
		issued, err := m.n.token(ctx, m.Pod, wanted.Audience, wanted.ExpirationSeconds)
		if err != nil {
			return nil, nil, fmt.Errorf("service account token: %w", err)
		}
		tokens[wanted.Audience] = token{issued.Token, issued.ExpirationTimestamp.UTC().Format(time.RFC3339)}
	}
	text, err := json.Marshal(tokens)
	if err != nil {
		return nil, nil, err
	}
	const key = "csi.storage.k8s.io/serviceAccount.tokens"
	if in := m.object.Spec.ServiceAccountTokenInSecrets; in != nil && *in {
		secrets = maps.Clone(secrets)
		if secrets == nil {
			secrets = map[string]string{}
		}
		secrets[key] = string(text)
	} else {
		attributes[key] = string(text)
	}
	return attributes, secrets, nil
}

// secret reads a driver's secret; none without a reference.
func (m *mount) secret(ctx context.Context, ref *corev1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	s, err := client.Get[*corev1.Secret](ctx, m.n.Client, ref.Namespace, ref.Name)
	if err != nil {
		return nil, fmt.Errorf("fetch secret %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	out := make(map[string]string, len(s.Data))
	for k, v := range s.Data {
		out[k] = string(v)
	}
	return out, nil
}

// expandVolume finishes the growth of a volume that its driver could not grow as a whole without the node.
func (m *mount) expandVolume(ctx context.Context, path string) error {
	if m.PV == nil || m.Claim == nil || !m.d.expands || m.readOnly {
		return nil
	}
	size, has := m.PV.Spec.Capacity[corev1.ResourceStorage], m.Claim.Status.Capacity[corev1.ResourceStorage]
	if size.Cmp(has) <= 0 {
		return nil
	}
	secrets, err := m.secret(ctx, m.expand)
	if err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request := &spec.NodeExpandVolumeRequest{VolumeId: m.handle, VolumePath: path, CapacityRange: &spec.CapacityRange{RequiredBytes: size.Value()},
		VolumeCapability: m.capability(), Secrets: secrets}
	if m.d.stages {
		request.StagingTargetPath = path
	}
	if _, err := spec.NewNodeClient(m.d.conn).NodeExpandVolume(call, request); err != nil {
		return volume.Step("MountVolume.NodeExpandVolume failed", err)
	}
	update := m.Claim.DeepCopy()
	update.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: size}
	update.Status.Conditions = nil
	_, err = client.UpdateStatus(ctx, m.n.Client, update)
	return err
}

// Unmount implements volume.Plugin: by the data on disk alone.
func (n *Node) Unmount(ctx context.Context, _ types.UID, dir string) error {
	kept, err := load(dir)
	if err != nil || kept == nil {
		return err
	}
	d, err := n.driver(kept.DriverName)
	if err != nil {
		return err
	}
	defer n.lock(kept.DriverName, kept.VolumeHandle)()
	targets := []string{"mount", "device"}
	target := targets[0]
	if _, err := os.Lstat(filepath.Join(dir, targets[1])); err == nil {
		target = targets[1]
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := spec.NewNodeClient(d.conn).NodeUnpublishVolume(call, &spec.NodeUnpublishVolumeRequest{
		VolumeId: kept.VolumeHandle, TargetPath: filepath.Join(dir, target),
	}); err != nil {
		return err
	}
	// The data goes last: until then this is tried again.
	if err := n.unstage(ctx, d, kept.VolumeHandle, dir); err != nil {
		return err
	}
	if err := discard(dir, targets...); err != nil {
		return err
	}
	if kept.AttachmentID != "" && n.Status != nil {
		n.Status.Report() // who waits for the volume elsewhere need not wait for the next heartbeat
	}
	return nil
}
