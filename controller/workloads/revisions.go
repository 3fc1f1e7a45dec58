package workloads

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
)

// revisionHash labels a ControllerRevision with the hash of its data.
const revisionHash = "controller.kubernetes.io/hash"

// history keeps the templates that a StatefulSet or DaemonSet has had as ControllerRevisions. Their data is a patch that
// brings the template back, which is what `kubectl rollout undo` applies.
type history struct {
	client     *client.Client
	owner      client.Object
	kind       schema.GroupVersionKind
	labels     map[string]string
	collisions *int32
	// hashLabel is the label for the hash.
	hashLabel string
}

// templatePatch is the data of a revision.
func templatePatch(template *corev1.PodTemplateSpec) ([]byte, error) {
	raw, err := json.Marshal(template)
	if err != nil {
		return nil, err
	}
	fields := map[string]any{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	fields["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
}

// templateOf reads the template back from a revision.
func templateOf(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var patch struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &patch); err != nil {
		return nil, fmt.Errorf("read revision %s: %w", r.Name, err)
	}
	return &patch.Spec.Template, nil
}

// dataHash names revision data.
func dataHash(data []byte, collisions *int32) string {
	h := fnv.New32()
	h.Write(data)
	if collisions != nil {
		fmt.Fprint(h, *collisions)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// sync returns the revision of today's template, which is the newest afterwards: the one that exists, an older one that is
// raised to the newest number, or a new one. collided says that the collision count must go up before the next try.
// existing is sorted by sync from the oldest to the newest.
func (h *history) sync(ctx context.Context, template *corev1.PodTemplateSpec, existing []*appsv1.ControllerRevision) (rev *appsv1.ControllerRevision, collided bool, err error) {
	data, err := templatePatch(template)
	if err != nil {
		return nil, false, err
	}
	slices.SortFunc(existing, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	next := int64(1)
	if len(existing) > 0 {
		next = existing[len(existing)-1].Revision + 1
	}
	for i, r := range slices.Backward(existing) {
		if !bytes.Equal(r.Data.Raw, data) {
			continue
		}
		if i == len(existing)-1 {
			return r, false, nil
		}
		update := r.DeepCopy()
		update.Revision = next
		rev, err = client.Update(ctx, h.client, update)
		return rev, false, err
	}
	return h.create(ctx, data, next)
}

func (h *history) create(ctx context.Context, data []byte, number int64) (*appsv1.ControllerRevision, bool, error) {
	hash := dataHash(data, h.collisions)
	rev := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: h.owner.GetNamespace(), Name: h.owner.GetName() + "-" + hash,
			Labels:          cloneMap(h.labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(h.owner, h.kind)},
		},
		Data:     runtime.RawExtension{Raw: data},
		Revision: number,
	}
	rev.Labels[h.hashLabel] = hash
	created, err := client.Create(ctx, h.client, rev)
	if !apierrors.IsAlreadyExists(err) {
		return created, false, err
	}
	other, there := client.From[*appsv1.ControllerRevision](h.client, h.client.Snapshot(), rev.Namespace, rev.Name)
	if there && bytes.Equal(other.Data.Raw, data) && metav1.IsControlledBy(other, h.owner) {
		return other, false, nil
	}
	return nil, true, err
}

// prune deletes the oldest revisions that are not in use, beyond the limit.
func (h *history) prune(ctx context.Context, existing []*appsv1.ControllerRevision, limit *int32, inUse func(*appsv1.ControllerRevision) bool) error {
	var idle []*appsv1.ControllerRevision
	for _, r := range existing {
		if !inUse(r) {
			idle = append(idle, r)
		}
	}
	surplus := len(idle) - int(min(ptr.Deref(limit, 10), math.MaxInt32))
	for i := 0; i < surplus; i++ {
		err := client.Remove[*appsv1.ControllerRevision](ctx, h.client, idle[i].Namespace, idle[i].Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &idle[i].UID},
		})
		if err != nil && !gone(err) {
			return fmt.Errorf("delete revision %s: %w", idle[i].Name, err)
		}
	}
	return nil
}
