package storage

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/kebernetes/kebernetes/client"
)

// Drivers returns a connection to the controller service of a driver on a node; its calls fail with codes.Unavailable when the
// node cannot be reached.
type Drivers func(node, driver string) grpc.ClientConnInterface

// BuiltInController is the annotation of a CSIDriver whose controller service these controllers call themselves, on a node
// where the driver runs: with "true" it needs no sidecars of upstream's (external-provisioner, -attacher, -resizer), which would do
// the same over the same objects.
const BuiltInController = "keb.dev/built-in-controller"

// ProvisionerIdentity is the service account of those who call drivers. Upstream has none in its control plane, and so no role.
const ProvisionerIdentity = "volume-provisioner"

// driverCalls finds drivers and what their calls need.
type driverCalls struct {
	client  *client.Client
	drivers Drivers
}

// builtIn says whether a driver's controller service is called from here.
func (d *driverCalls) builtIn(snap client.Snapshot, driver string) bool {
	if driver == LocalProvisioner {
		return true
	}
	object, ok := client.From[*storagev1.CSIDriver](d.client, snap, "", driver)
	return ok && object.Annotations[BuiltInController] == "true"
}

// call is a driver that can be called, and the node where.
type call struct {
	node string
	conn grpc.ClientConnInterface
}

// driver finds a driver: on the node that is preferred, or else, for CSI, on one that can reach the volume. volume may be nil.
func (d *driverCalls) driver(snap client.Snapshot, name, prefer string, volume *corev1.PersistentVolume) (call, error) {
	if name == LocalProvisioner {
		n, ok := client.From[*corev1.Node](d.client, snap, "", prefer)
		if !ok {
			return call{}, status.Errorf(codes.Unavailable, "node %q is not in the cluster", prefer)
		}
		if !nodeReady(n) {
			return call{}, status.Errorf(codes.Unavailable, "node %q is not ready", prefer)
		}
		return call{prefer, d.drivers(prefer, name)}, nil
	}
	var affinity *nodeaffinity.NodeSelector
	if volume != nil && volume.Spec.NodeAffinity != nil && volume.Spec.NodeAffinity.Required != nil {
		var err error
		if affinity, err = nodeaffinity.NewNodeSelector(volume.Spec.NodeAffinity.Required); err != nil {
			return call{}, err
		}
	}
	best := ""
	for _, cn := range client.List[*storagev1.CSINode](d.client, snap, "", nil) {
		node, ok := client.From[*corev1.Node](d.client, snap, "", cn.Name)
		if !ok || !nodeReady(node) || csiNodeDriver(cn, name) == nil || affinity != nil && !affinity.Match(node) {
			continue
		}
		if best == "" || cn.Name == prefer {
			best = cn.Name
		}
	}
	if best == "" {
		return call{}, status.Errorf(codes.Unavailable, "no ready node runs the driver %s", name)
	}
	return call{best, d.drivers(best, name)}, nil
}

func csiNodeDriver(cn *storagev1.CSINode, name string) *storagev1.CSINodeDriver {
	for i := range cn.Spec.Drivers {
		if cn.Spec.Drivers[i].Name == name {
			return &cn.Spec.Drivers[i]
		}
	}
	return nil
}

func nodeReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// topology says where a volume must be reachable: from the chosen node. A driver without topology is asked for none.
func (d *driverCalls) topology(snap client.Snapshot, driver, node string) *csi.TopologyRequirement {
	cn, ok := client.From[*storagev1.CSINode](d.client, snap, "", node)
	if !ok {
		return nil
	}
	row := csiNodeDriver(cn, driver)
	object, ok := client.From[*corev1.Node](d.client, snap, "", node)
	if row == nil || len(row.TopologyKeys) == 0 || !ok {
		return nil
	}
	segments := map[string]string{}
	for _, key := range row.TopologyKeys {
		segments[key] = object.Labels[key]
	}
	one := []*csi.Topology{{Segments: segments}}
	return &csi.TopologyRequirement{Requisite: one, Preferred: one}
}

// Parameters of storage classes that are not the driver's (https://kubernetes-csi.github.io/docs/external-provisioner.html).
const (
	parameterPrefix = "csi.storage.k8s.io/"
	fsTypeParameter = parameterPrefix + "fstype"

	provisionSecret = "provisioner"
	publishSecret   = "controller-publish"
	stageSecret     = "node-stage"
	mountSecret     = "node-publish"
	expandSecret    = "controller-expand"
	nodeExpand      = "node-expand"

	deletionSecretName      = "volume.kubernetes.io/provisioner-deletion-secret-name"
	deletionSecretNamespace = "volume.kubernetes.io/provisioner-deletion-secret-namespace"
)

// secret is one of a class's secrets.
type secret struct {
	ref  *corev1.SecretReference
	data map[string]string
}

// parameters are a class's, sorted out.
type parameters struct {
	driver    map[string]string
	fsType    string
	provision secret
	refs      map[string]*corev1.SecretReference
}

func (d *driverCalls) parameters(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) (*parameters, error) {
	p := &parameters{driver: map[string]string{}, refs: map[string]*corev1.SecretReference{}}
	for key, value := range class.Parameters {
		own, ours := strings.CutPrefix(key, parameterPrefix)
		if !ours {
			p.driver[key] = value
			continue
		}
		if key == fsTypeParameter {
			p.fsType = value
			continue
		}
		use, isName := strings.CutSuffix(own, "-secret-name")
		if !isName {
			continue
		}
		name, err := fill(value, claim)
		if err != nil {
			return nil, err
		}
		namespace, err := fill(class.Parameters[parameterPrefix+use+"-secret-namespace"], claim)
		if err != nil {
			return nil, err
		}
		p.refs[use] = &corev1.SecretReference{Name: name, Namespace: namespace}
	}
	p.provision.ref = p.refs[provisionSecret]
	var err error
	p.provision.data, err = d.secret(ctx, p.provision.ref)
	return p, err
}

// fill puts the claim's names into a template.
func fill(template string, claim *corev1.PersistentVolumeClaim) (string, error) {
	var err error
	out := os.Expand(template, func(name string) string {
		switch name {
		case "pv.name":
			return volumeName(claim)
		case "pvc.name":
			return claim.Name
		case "pvc.namespace":
			return claim.Namespace
		}
		err = status.Errorf(codes.InvalidArgument, "unknown ${%s} in the parameters of the storage class", name)
		return ""
	})
	return out, err
}

// secret reads a driver's secret; none without a reference.
func (d *driverCalls) secret(ctx context.Context, ref *corev1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	s, err := client.Get[*corev1.Secret](ctx, d.client, ref.Namespace, ref.Name)
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s of the driver: %w", ref.Namespace, ref.Name, err)
	}
	out := make(map[string]string, len(s.Data))
	for k, v := range s.Data {
		out[k] = string(v)
	}
	return out, nil
}

// annotatedSecret reads the secret that a volume's annotations name.
func (d *driverCalls) annotatedSecret(ctx context.Context, volume *corev1.PersistentVolume, name, namespace string) (map[string]string, error) {
	if volume.Annotations[name] == "" {
		return nil, nil
	}
	return d.secret(ctx, &corev1.SecretReference{Name: volume.Annotations[name], Namespace: volume.Annotations[namespace]})
}

// describeCSI fills in a volume that a CSI driver made.
func describeCSI(volume *corev1.PersistentVolume, made *csi.Volume, driver string, p *parameters) {
	volume.Spec.CSI = &corev1.CSIPersistentVolumeSource{
		Driver: driver, VolumeHandle: made.GetVolumeId(), VolumeAttributes: made.GetVolumeContext(), FSType: p.fsType,
		ControllerPublishSecretRef: p.refs[publishSecret], NodeStageSecretRef: p.refs[stageSecret], NodePublishSecretRef: p.refs[mountSecret],
		ControllerExpandSecretRef: p.refs[expandSecret], NodeExpandSecretRef: p.refs[nodeExpand],
	}
	if ref := p.provision.ref; ref != nil {
		metav1.SetMetaDataAnnotation(&volume.ObjectMeta, deletionSecretName, ref.Name)
		metav1.SetMetaDataAnnotation(&volume.ObjectMeta, deletionSecretNamespace, ref.Namespace)
	}
	var terms []corev1.NodeSelectorTerm
	for _, t := range made.GetAccessibleTopology() {
		var term corev1.NodeSelectorTerm
		for key, value := range t.GetSegments() {
			term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}})
		}
		slices.SortFunc(term.MatchExpressions, func(a, b corev1.NodeSelectorRequirement) int { return cmp.Compare(a.Key, b.Key) })
		terms = append(terms, term)
	}
	if len(terms) > 0 {
		volume.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: terms}}
	}
}

// sizeOf is the size that a driver gave, or the one that was asked for when it does not say.
func sizeOf(given int64, asked resource.Quantity) resource.Quantity {
	if given <= 0 || given == asked.Value() {
		return asked
	}
	return *resource.NewQuantity(given, resource.BinarySI)
}
