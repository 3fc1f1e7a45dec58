package csi

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
)

// nodeIDs is the annotation of a Node that tells the drivers' names for it, in JSON.
const nodeIDs = "csi.volume.kubernetes.io/nodeid"

// announce shows the drivers until that succeeds: at a node's start its object may not be there yet.
func (n *Node) announce(ctx context.Context) {
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 10*time.Second) {
		err := n.show(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		if !apierrors.IsNotFound(err) {
			n.Logger.Warn("volume drivers are not shown", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}

// show brings the CSINode up to date, and the labels by which the drivers' topology is known to the scheduler.
func (n *Node) show(ctx context.Context) error {
	for {
		err := n.write(ctx)
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) || ctx.Err() != nil {
			return err
		}
	}
}

func (n *Node) write(ctx context.Context) error {
	rows, labels, ids := n.rows()
	node, err := client.Get[*corev1.Node](ctx, n.Client, "", n.NodeName)
	if err != nil {
		return err
	}
	if err := n.label(ctx, node, labels, ids); err != nil {
		return fmt.Errorf("label node: %w", err)
	}
	old, err := client.Get[*storagev1.CSINode](ctx, n.Client, "", n.NodeName)
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, n.Client, &storagev1.CSINode{
			ObjectMeta: metav1.ObjectMeta{Name: n.NodeName, OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}},
			Spec:       storagev1.CSINodeSpec{Drivers: rows},
		})
		return err
	}
	if err != nil {
		return fmt.Errorf("read CSINode: %w", err)
	}
	if apiequality.Semantic.DeepEqual(old.Spec.Drivers, rows) {
		return nil
	}
	update := old.DeepCopy()
	update.Spec.Drivers = rows
	_, err = client.Update(ctx, n.Client, update)
	return err
}

// rows describe the drivers of the moment, by name.
func (n *Node) rows() (rows []storagev1.CSINodeDriver, labels, ids map[string]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	rows, labels, ids = []storagev1.CSINodeDriver{}, map[string]string{}, map[string]string{}
	for _, d := range n.drivers {
		row := storagev1.CSINodeDriver{Name: d.name, NodeID: d.nodeID, TopologyKeys: slices.Sorted(maps.Keys(d.topology))}
		if d.most > 0 {
			count := int32(min(d.most, 1<<31-1))
			row.Allocatable = &storagev1.VolumeNodeResources{Count: &count}
		}
		rows = append(rows, row)
		maps.Copy(labels, d.topology)
		ids[d.name] = d.nodeID
	}
	slices.SortFunc(rows, func(a, b storagev1.CSINodeDriver) int { return cmp.Compare(a.Name, b.Name) })
	return rows, labels, ids
}

// label adds to the node's labels what drivers call its place. They stay when a driver goes: volumes may be bound to them.
func (n *Node) label(ctx context.Context, node *corev1.Node, labels, ids map[string]string) error {
	meta := map[string]any{}
	missing := map[string]string{}
	for k, v := range labels {
		if node.Labels[k] != v {
			missing[k] = v
		}
	}
	if len(missing) > 0 {
		meta["labels"] = missing
	}
	text, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	if has := node.Annotations[nodeIDs]; len(ids) > 0 && has != string(text) {
		meta["annotations"] = map[string]any{nodeIDs: string(text)}
	} else if len(ids) == 0 && has != "" {
		meta["annotations"] = map[string]any{nodeIDs: nil}
	}
	if len(meta) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return err
	}
	_, err = client.Patch[*corev1.Node](ctx, n.Client, "", n.NodeName, "", types.MergePatchType, patch)
	return err
}
