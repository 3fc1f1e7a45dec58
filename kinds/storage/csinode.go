package storage

import (
	"fmt"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// maxNodeID is the longest name that a driver may have for a node, in bytes.
const maxNodeID = 192

// CSINode is the row of CSI nodes: which drivers run on a node, and what they call it.
func CSINode() *kinds.Kind {
	return &kinds.Kind{
		Group:    storagev1.GroupName,
		Kind:     "CSINode",
		Resource: "csinodes",
		Versions: []kinds.Version{kinds.V[storagev1.CSINode, storagev1.CSINodeList]("v1")},
		// The health of storage is not reported yet by upstream's default settings.
		PrepareCreate: kinds.On(func(n *storagev1.CSINode) { n.Status = storagev1.CSINodeStatus{} }),
		PrepareUpdate: kinds.OnUpdate(func(n, old *storagev1.CSINode) { n.Status = old.Status }),
		Validate:      kinds.Check(validateCSINode),
		ValidateUpdate: kinds.CheckUpdate(func(n, old *storagev1.CSINode) field.ErrorList {
			r := check.Report{Errs: validateCSINode(n)}
			for _, before := range old.Spec.Drivers {
				for _, d := range n.Spec.Drivers {
					// What a node can hold may change; who it is may not.
					d.Allocatable = before.Allocatable
					if d.Name == before.Name && !check.Same(d, before) {
						r.Invalid(field.NewPath("CSINode"), podspec.Dump(d), "field is immutable")
					}
				}
			}
			return r.Errs
		}),
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Drivers", "integer", "Drivers indicates the number of CSI drivers registered on the node"),
			kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(n *storagev1.CSINode, now metav1.Time) []any {
			return []any{n.Name, int64(len(n.Spec.Drivers)), kinds.Age(n.CreationTimestamp, now)}
		}),
	}
}

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	var r check.Report
	names := map[string]bool{}
	for i, d := range n.Spec.Drivers {
		at := field.NewPath("spec", "drivers").Index(i)
		r.Add(podspec.ValidateCSIDriverName(d.Name, at.Child("name"))...)
		r.Present(at.Child("nodeID"), d.NodeID)
		if len(d.NodeID) > maxNodeID {
			r.Invalid(at.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", maxNodeID))
		}
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			check.NotNegative(&r, at.Child("allocatable", "count"), *d.Allocatable.Count)
		}
		if names[d.Name] {
			r.Add(field.Duplicate(at.Child("name"), d.Name))
		}
		names[d.Name] = true
		topologies := map[string]bool{}
		for _, k := range d.TopologyKeys {
			at := at.Child("topologyKeys")
			if k == "" {
				r.Required(at, "")
			}
			if topologies[k] {
				r.Add(field.Duplicate(at, k))
			}
			topologies[k] = true
			r.Invalid(at, k, validation.IsQualifiedName(k)...)
		}
	}
	return r.Errs
}
