package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kebernetes/kebernetes/kinds/quota"
	"github.com/kebernetes/kebernetes/store"
)

const (
	quotaResource = "resourcequotas"
	// quotaTries is how often a charge is tried again when others charge the same quota at once.
	quotaTries = 32
)

// resourceQuota charges new objects, and objects that grow, to the quotas of their namespace. A charge is a write of the quota's status at the
// revision that was read, so two requests never spend the same rest. Should the request itself fail afterwards, or another of its
// quotas be used up meanwhile, the quota controller gives the charge back when it counts again.
func resourceQuota(s store.Store) Step {
	return Step{Name: "ResourceQuota", Validate: func(ctx context.Context, r *Request) error {
		if r.Namespace == "" || (r.Operation != Create && r.Operation != Update) || (r.Subresource != "" && !r.is("pods", "resize")) {
			return nil
		}
		snapshot := s.Snapshot()
		if snapshot.Len(quotaResource) == 0 {
			return nil
		}
		delta := growth(r)
		if len(delta) == 0 {
			return nil
		}
		var concerned []store.Key
		for item := range snapshot.List(quotaResource, r.Namespace) {
			charged, err := charge(item.Object.(*corev1.ResourceQuota), r, delta)
			if err != nil {
				return err
			}
			if charged != nil {
				concerned = append(concerned, item.Key)
			}
		}
		if r.DryRun {
			return nil
		}
		for _, key := range concerned {
			if err := spend(ctx, s, key, r, delta); err != nil {
				return err
			}
		}
		return nil
	}}
}

// spend charges one quota, and looks again whenever another request changed it first.
func spend(ctx context.Context, s store.Store, key store.Key, r *Request, delta usage) error {
	for range quotaTries {
		item := s.Snapshot().Get(key)
		if item == nil {
			return nil
		}
		charged, err := charge(item.Object.(*corev1.ResourceQuota), r, delta)
		if err != nil || charged == nil {
			return err
		}
		result := s.Commit(ctx, store.Write{Key: key, Object: charged, Expect: item.Revision})[0]
		if !errors.Is(result.Err, store.ErrConflict) && !errors.Is(result.Err, store.ErrNotFound) {
			return result.Err
		}
	}
	return r.forbid("quota %s changes too fast to be charged; try again", key.Name)
}

// charge returns the quota with delta added to its usage, nil when delta is none of its concern, or why it does not allow it.
func charge(limit *corev1.ResourceQuota, r *Request, delta usage) (*corev1.ResourceQuota, error) {
	if !quota.InScope(limit, r.Object) {
		return nil, nil
	}
	spent := usage{}
	for name := range limit.Spec.Hard {
		if q, ok := delta[name]; ok {
			spent[name] = q
		}
	}
	if missing := unspecified(limit, r.Object); missing != "" {
		return nil, r.forbid("failed quota: %s: must specify %s", limit.Name, missing)
	}
	if len(spent) == 0 {
		return nil, nil
	}
	if unknown := withoutStatus(limit, spent); len(unknown) > 0 {
		return nil, r.forbid("status unknown for quota: %s, resources: %s", limit.Name, strings.Join(unknown, ","))
	}
	if over := beyond(limit, spent); len(over) > 0 {
		return nil, r.forbid("exceeded quota: %s, requested: %s, used: %s, limited: %s", limit.Name,
			amounts(over, spent), amounts(over, limit.Status.Used), amounts(over, limit.Status.Hard))
	}
	charged := limit.DeepCopy()
	for name, q := range spent {
		used := charged.Status.Used[name]
		used.Add(q)
		charged.Status.Used[name] = used
	}
	return charged, nil
}

func withoutStatus(quota *corev1.ResourceQuota, spent usage) []string {
	var out []string
	for name := range spent {
		_, hard := quota.Status.Hard[name]
		_, used := quota.Status.Used[name]
		if !hard || !used {
			out = append(out, string(name))
		}
	}
	slices.Sort(out)
	return out
}

// beyond names what would be used up. What only shrinks is always allowed.
func beyond(quota *corev1.ResourceQuota, spent usage) []corev1.ResourceName {
	var out []corev1.ResourceName
	for name, q := range spent {
		used, hard := quota.Status.Used[name], quota.Status.Hard[name]
		used = used.DeepCopy()
		used.Add(q)
		if q.Sign() > 0 && used.Cmp(hard) > 0 {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func amounts(names []corev1.ResourceName, list map[corev1.ResourceName]resource.Quantity) string {
	var parts []string
	for _, name := range names {
		q := list[name]
		parts = append(parts, fmt.Sprintf("%s=%s", name, q.String()))
	}
	return strings.Join(parts, ",")
}
