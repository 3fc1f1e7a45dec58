package node

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/cri"
)

// The rhythm of upstream's kubelet: the lease lives 40 s and is renewed every 10, the status is written when it changes and
// every 5 minutes.
const (
	leaseSeconds  = 40
	renewInterval = 10 * time.Second
	retryInterval = time.Second           // after a failed write
	soonest       = 20 * time.Millisecond // until an unready runtime is asked again, the first time
	reportEvery   = 5 * time.Minute
	// A runtime that is asked executes its network plugin: where nothing points at a change, it is asked rarely.
	askInterval = time.Minute
	// runtimePatience is how long a runtime may be away before the node is not ready: upstream's, long enough to start it anew.
	runtimePatience = 30 * time.Second
	maxImages       = 50
)

// Keeper keeps one node's object and lease. Fill the fields, then Run.
type Keeper struct {
	Client   *client.Client
	Runtime  cri.Runtime
	Logger   *slog.Logger
	Name     string
	IPs      []string // until SetIPs
	Hostname string
	Labels   map[string]string
	// Annotations besides those that every node has.
	Annotations map[string]string
	Taints      []corev1.Taint
	// Capacity and Allocatable as computed from the Machine.
	Capacity, Allocatable corev1.ResourceList
	Info                  corev1.NodeSystemInfo
	// Port of the node's HTTP API.
	Port int32
	// VolumesInUse, when set, names the attached volumes that may not be detached.
	VolumesInUse func() ([]corev1.UniqueVolumeName, error)
	// Recorder of events about the node.
	Event func(node *corev1.Node, eventType, reason, message string)

	mu    sync.Mutex
	poke  chan struct{}
	stale bool // the images have changed
	ask   bool // the runtime has come or gone
	// short is when each shortage was last seen, by the condition that tells of it.
	short map[corev1.NodeConditionType]time.Time
	// waiters are closed by the next report that is written.
	waiters []chan struct{}
	// What follows is Run's own.
	listed    time.Time          // when the images were listed
	runtime   *rt.StatusResponse // the runtime's last answer
	asked     time.Time          // when that was
	failing   time.Time          // since when it has not answered; zero: it answers
	unready   bool
	reported  time.Time
	leaseHave *coordinationv1.Lease
}

// Run registers the node, then reports until ctx ends. registered is called once the node is in the API.
func (k *Keeper) Run(ctx context.Context, registered func()) {
	k.mu.Lock()
	k.poke = make(chan struct{}, 1)
	k.mu.Unlock()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 7*time.Second) {
		err := k.register(ctx)
		if err == nil {
			break
		}
		k.Logger.Warn("node is not registered yet", "node", k.Name, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
	registered()
	k.keep(ctx)
}

// keep renews the lease and reports until ctx ends.
func (k *Keeper) keep(ctx context.Context) {
	var renewed time.Time
	hurry := soonest
	for {
		if now := time.Now(); now.Sub(renewed) >= renewInterval {
			renewed = now
			if err := k.renew(ctx); err != nil && ctx.Err() == nil {
				k.Logger.Warn("node lease is not renewed", "node", k.Name, "err", err)
				renewed = now.Add(retryInterval - renewInterval)
			}
		}
		wait := time.Until(renewed.Add(renewInterval))
		waiters := k.takeWaiters()
		if err := k.report(ctx); err != nil {
			if ctx.Err() == nil {
				k.Logger.Warn("node status is not written", "node", k.Name, "err", err)
			}
			wait = min(wait, retryInterval)
			k.putBack(waiters)
		} else {
			for _, told := range waiters {
				close(told)
			}
		}
		if k.unready {
			// A network that is just coming up tells nobody; asking soon again is what makes a node ready in time.
			wait, hurry = min(wait, hurry), min(2*hurry, renewInterval)
		} else {
			hurry = soonest
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-k.poke:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// ImagesChanged makes the next report list the images anew.
func (k *Keeper) ImagesChanged() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stale = true
}

// imagesDue says whether the images must be listed: they have changed, or were last listed a report ago.
func (k *Keeper) imagesDue(now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	due := k.stale || now.Sub(k.listed) >= reportEvery
	if due {
		k.stale, k.listed = false, now
	}
	return due
}

// SetIPs gives the node other addresses, which it reports now.
func (k *Keeper) SetIPs(ips []string) {
	k.mu.Lock()
	k.IPs = ips
	k.mu.Unlock()
	k.Changed()
}

// Changed makes the node look at itself and report now: its runtime has come or gone.
func (k *Keeper) Changed() {
	k.mu.Lock()
	k.ask = true
	k.mu.Unlock()
	k.Report()
}

// Report makes the node report now, if there is anything new to say.
func (k *Keeper) Report() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.poke == nil {
		return
	}
	select {
	case k.poke <- struct{}{}:
	default:
	}
}

func (k *Keeper) labels() map[string]string {
	out := map[string]string{
		corev1.LabelHostname: k.Hostname, corev1.LabelOSStable: k.Info.OperatingSystem, corev1.LabelArchStable: k.Info.Architecture,
		"beta.kubernetes.io/os": k.Info.OperatingSystem, "beta.kubernetes.io/arch": k.Info.Architecture,
	}
	maps.Copy(out, k.Labels)
	return out
}

// register creates the node, or brings the labels of the one that is there up to date.
func (k *Keeper) register(ctx context.Context) error {
	fresh := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: k.Name, Labels: k.labels(),
			Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
		Spec: corev1.NodeSpec{Taints: k.Taints},
	}
	maps.Copy(fresh.Annotations, k.Annotations)
	fresh.Status = k.status(ctx, &corev1.Node{}, time.Now())
	old, err := client.Get[*corev1.Node](ctx, k.Client, "", k.Name)
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, k.Client, fresh)
		if err == nil || !apierrors.IsAlreadyExists(err) {
			return err
		}
		old, err = client.Get[*corev1.Node](ctx, k.Client, "", k.Name)
	}
	if err != nil {
		return err
	}
	k.ImagesChanged() // the status made above is not written
	changed := old.DeepCopy()
	if changed.Labels == nil {
		changed.Labels = map[string]string{}
	}
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	maps.Copy(changed.Labels, fresh.Labels)
	maps.Copy(changed.Annotations, fresh.Annotations)
	if equality.Semantic.DeepEqual(old.ObjectMeta, changed.ObjectMeta) {
		return nil
	}
	_, err = client.Update(ctx, k.Client, changed)
	return err
}

// status computes the node's status over the present one: what others put there (extended resources, conditions, volumes) stays.
func (k *Keeper) status(ctx context.Context, node *corev1.Node, now time.Time) corev1.NodeStatus {
	st := *node.Status.DeepCopy()
	st.Addresses = nil
	k.mu.Lock()
	ips := k.IPs
	k.mu.Unlock()
	for _, ip := range ips {
		st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: k.Hostname})
	st.Capacity = foreign(st.Capacity, k.Capacity)
	st.Allocatable = foreign(st.Allocatable, k.Allocatable)
	for name, q := range st.Capacity {
		// An extended resource that was only put into capacity may be used as a whole.
		if _, ok := st.Allocatable[name]; !ok {
			st.Allocatable[name] = q.DeepCopy()
		}
	}
	st.NodeInfo = k.Info
	st.DaemonEndpoints.KubeletEndpoint.Port = k.Port
	if k.VolumesInUse != nil {
		if volumes, err := k.VolumesInUse(); err != nil {
			k.Logger.Warn("volumes in use are not reported", "node", k.Name, "err", err)
		} else {
			st.VolumesInUse = volumes
		}
	}
	runtimeErr := ""
	s, err := k.runtimeStatus(ctx, now)
	if err != nil {
		runtimeErr = fmt.Sprintf("container runtime is down: %v", err)
	} else {
		for _, c := range s.GetStatus().GetConditions() {
			if (c.Type == "RuntimeReady" || c.Type == "NetworkReady") && !c.Status {
				word := "container runtime"
				if c.Type == "NetworkReady" {
					word = "container runtime network"
				}
				runtimeErr = fmt.Sprintf("%s not ready: %s=%t reason:%s message:%s", word, c.Type, c.Status, c.Reason, c.Message)
				break
			}
		}
		st.RuntimeHandlers = nil
		for _, h := range s.GetRuntimeHandlers() {
			rro, userns := h.GetFeatures().GetRecursiveReadOnlyMounts(), h.GetFeatures().GetUserNamespaces()
			st.RuntimeHandlers = append(st.RuntimeHandlers, corev1.NodeRuntimeHandler{Name: h.GetName(),
				Features: &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &rro, UserNamespaces: &userns}})
		}
		if f := s.GetFeatures(); f != nil {
			policy := f.GetSupplementalGroupsPolicy()
			st.Features = &corev1.NodeFeatures{SupplementalGroupsPolicy: &policy}
		}
		if k.imagesDue(now) {
			if images, err := k.listImages(ctx); err == nil {
				st.Images = images
			}
		}
	}
	k.unready = runtimeErr != "" || !k.failing.IsZero()
	k.conditions(&st, runtimeErr, metav1.NewTime(now.Truncate(time.Second)))
	return st
}

// runtimeStatus is what the runtime says of itself, or said lately: while nothing points at a change, or while it has only just
// ceased to answer.
func (k *Keeper) runtimeStatus(ctx context.Context, now time.Time) (*rt.StatusResponse, error) {
	k.mu.Lock()
	ask := k.ask || k.unready || now.Sub(k.asked) >= askInterval
	k.ask = false
	k.mu.Unlock()
	if !ask {
		return k.runtime, nil
	}
	s, err := k.Runtime.Status(ctx)
	if err == nil {
		k.runtime, k.asked, k.failing = s, now, time.Time{}
		return s, nil
	}
	if k.failing.IsZero() {
		k.failing = now
	}
	if k.runtime != nil && now.Sub(k.failing) < runtimePatience {
		return k.runtime, nil
	}
	return nil, err
}

// foreign puts own over what is there.
func foreign(there, own corev1.ResourceList) corev1.ResourceList {
	out := there.DeepCopy()
	if out == nil {
		out = corev1.ResourceList{}
	}
	maps.Copy(out, own)
	return out
}

func (k *Keeper) conditions(st *corev1.NodeStatus, runtimeErr string, now metav1.Time) {
	set := func(t corev1.NodeConditionType, bad bool, badReason, badMessage, goodReason, goodMessage string) {
		c := corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: goodReason, Message: goodMessage, LastHeartbeatTime: now, LastTransitionTime: now}
		if bad {
			c.Reason, c.Message = badReason, badMessage
		}
		if bad != (t == corev1.NodeReady) {
			c.Status = corev1.ConditionTrue
		}
		i := slices.IndexFunc(st.Conditions, func(o corev1.NodeCondition) bool { return o.Type == t })
		if i < 0 {
			st.Conditions = append(st.Conditions, c)
			return
		}
		if st.Conditions[i].Status == c.Status {
			c.LastTransitionTime = st.Conditions[i].LastTransitionTime
		}
		st.Conditions[i] = c
	}
	under := k.Pressure(now.Time)
	set(corev1.NodeMemoryPressure, slices.Contains(under, corev1.NodeMemoryPressure), "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
		"KubeletHasSufficientMemory", "kubelet has sufficient memory available")
	set(corev1.NodeDiskPressure, slices.Contains(under, corev1.NodeDiskPressure), "KubeletHasDiskPressure", "kubelet has disk pressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
	set(corev1.NodePIDPressure, slices.Contains(under, corev1.NodePIDPressure), "KubeletHasInsufficientPID", "kubelet has insufficient PID available",
		"KubeletHasSufficientPID", "kubelet has sufficient PID available")
	set(corev1.NodeReady, runtimeErr != "", "KubeletNotReady", runtimeErr, "KubeletReady", "kubelet is posting ready status")
}

// listImages returns the largest images, as the scheduler's image locality wants them.
func (k *Keeper) listImages(ctx context.Context) ([]corev1.ContainerImage, error) {
	images, err := k.Runtime.ListImages(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]corev1.ContainerImage, 0, len(images))
	for _, i := range images {
		names := append(slices.Clone(i.RepoDigests), i.RepoTags...)
		if len(names) > 5 {
			names = names[:5]
		}
		out = append(out, corev1.ContainerImage{Names: names, SizeBytes: int64(i.Size)})
	}
	slices.SortFunc(out, func(a, b corev1.ContainerImage) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), slices.Compare(a.Names, b.Names))
	})
	return out[:min(len(out), maxImages)], nil
}

// report writes the status when it says something new, or when the last report is old.
func (k *Keeper) report(ctx context.Context) error {
	now := time.Now()
	node, err := client.Get[*corev1.Node](ctx, k.Client, "", k.Name)
	if apierrors.IsNotFound(err) {
		// Somebody deleted the node; it is still here.
		return k.register(ctx)
	}
	if err != nil {
		return err
	}
	st := k.status(ctx, node, now)
	if now.Sub(k.reported) < reportEvery && same(&node.Status, &st) {
		return nil
	}
	changed := node.DeepCopy()
	changed.Status = st
	if _, err := client.UpdateStatus(ctx, k.Client, changed); err != nil {
		k.ImagesChanged() // the list was not written
		if apierrors.IsConflict(err) {
			return k.report(ctx) // somebody wrote since the node was read; the next try is over theirs
		}
		return err
	}
	k.announce(node, &st)
	k.reported = now
	return nil
}

// announce tells of changed conditions by the events that upstream's kubelet writes.
func (k *Keeper) announce(node *corev1.Node, st *corev1.NodeStatus) {
	names := map[corev1.NodeConditionType][2]string{
		corev1.NodeMemoryPressure: {"NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
		corev1.NodeDiskPressure:   {"NodeHasDiskPressure", "NodeHasNoDiskPressure"},
		corev1.NodePIDPressure:    {"NodeHasInsufficientPID", "NodeHasSufficientPID"},
		corev1.NodeReady:          {"NodeReady", "NodeNotReady"},
	}
	for _, c := range st.Conditions {
		reasons, ours := names[c.Type]
		i := slices.IndexFunc(node.Status.Conditions, func(o corev1.NodeCondition) bool { return o.Type == c.Type })
		if !ours || i >= 0 && node.Status.Conditions[i].Status == c.Status {
			continue
		}
		reason := reasons[1]
		if c.Status == corev1.ConditionTrue {
			reason = reasons[0]
		}
		k.Event(node, corev1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", k.Name, reason))
	}
}

// same compares statuses without their heartbeats.
func same(a, b *corev1.NodeStatus) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	for _, st := range []*corev1.NodeStatus{x, y} {
		for i := range st.Conditions {
			st.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return equality.Semantic.DeepEqual(x, y)
}

// renew creates or renews the lease by which the control plane sees that the node lives.
func (k *Keeper) renew(ctx context.Context) error {
	now := metav1.NewMicroTime(time.Now())
	seconds := int32(leaseSeconds)
	have := k.leaseHave
	if have == nil {
		l, err := client.Get[*coordinationv1.Lease](ctx, k.Client, corev1.NamespaceNodeLease, k.Name)
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		if err == nil {
			have = l
		}
	}
	if have == nil {
		fresh := &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: k.Name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &k.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}
		if node, err := client.Get[*corev1.Node](ctx, k.Client, "", k.Name); err == nil {
			fresh.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
		}
		made, err := client.Create(ctx, k.Client, fresh)
		if err == nil {
			k.leaseHave = made
		}
		return err
	}
	renewed := have.DeepCopy()
	renewed.Spec.HolderIdentity, renewed.Spec.LeaseDurationSeconds, renewed.Spec.RenewTime = &k.Name, &seconds, &now
	made, err := client.Update(ctx, k.Client, renewed)
	if err != nil {
		k.leaseHave = nil // read it anew next time
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	k.leaseHave = made
	return nil
}
