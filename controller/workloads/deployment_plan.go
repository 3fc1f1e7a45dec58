package workloads

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// Annotations that Deployments and their ReplicaSets carry; kubectl reads the first two.
const (
	revisionAnnotation        = "deployment.kubernetes.io/revision"
	revisionHistoryAnnotation = "deployment.kubernetes.io/revision-history"
	desiredReplicasAnnotation = "deployment.kubernetes.io/desired-replicas"
	maxReplicasAnnotation     = "deployment.kubernetes.io/max-replicas"
	rollbackToAnnotation      = "deprecated.deployment.rollback.to"
)

// rollout is a plan for one Deployment, and the workbench on which it is made.
type rollout struct {
	deployment *appsv1.Deployment
	now        time.Time
	// hasPods says whether pods of a ReplicaSet exist that have not run to their end.
	hasPods func(*appsv1.ReplicaSet) bool

	sets   []*replicas // all that exist, oldest first
	newest *replicas   // the one of the current template, nil when it does not exist
	older  []*replicas // the others, oldest first

	// What to do, beside updating the sets that changed.
	create   *appsv1.ReplicaSet
	remove   []*appsv1.ReplicaSet
	revision string // of the Deployment's annotation; "" leaves it
	status   appsv1.DeploymentStatus
	again    time.Duration
}

// replicas is a ReplicaSet on the workbench: was is what is stored; the embedded one is it too until edit makes a copy.
type replicas struct {
	*appsv1.ReplicaSet
	was     *appsv1.ReplicaSet
	changed bool
}

func (s *replicas) edit() *appsv1.ReplicaSet {
	if !s.changed {
		s.ReplicaSet, s.changed = s.was.DeepCopy(), true
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
	}
	return s.ReplicaSet
}

func (s *replicas) size() int32 { return count32(s.Spec.Replicas) }

// annotate sets an annotation, if it is not so already.
func (s *replicas) annotate(key, value string) {
	if s.Annotations[key] != value {
		s.edit().Annotations[key] = value
	}
}

// planDeployment decides the next step of a Deployment from its ReplicaSets.
func planDeployment(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, hasPods func(*appsv1.ReplicaSet) bool, now time.Time) *rollout {
	p := &rollout{deployment: d, now: now, hasPods: hasPods, status: *d.Status.DeepCopy()}
	slices.SortFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, rs := range sets {
		set := &replicas{ReplicaSet: rs, was: rs}
		p.sets = append(p.sets, set)
		if p.newest == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			p.newest = set
		} else {
			p.older = append(p.older, set)
		}
	}
	if d.DeletionTimestamp != nil {
		p.count()
		return p
	}
	p.markPaused()
	switch {
	case d.Spec.Paused:
		p.syncNewest(false)
		p.scale()
		p.prune()
		p.count()
	case p.resized():
		p.syncNewest(false)
		p.scale()
		p.count()
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		p.recreate()
		p.progress()
	default:
		p.roll()
		p.progress()
	}
	return p
}

// resized says whether the wanted size has changed since the sets were last scaled. Scaling goes before rolling, so that
// a scale in the middle of a rolling update is shared among the sets.
func (p *rollout) resized() bool {
	if p.deployment.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return false
	}
	return slices.ContainsFunc(p.sets, func(s *replicas) bool {
		desired, err := strconv.ParseInt(s.Annotations[desiredReplicasAnnotation], 10, 32)
		return s.size() > 0 && err == nil && int32(desired) != p.wanted()
	})
}

// recreate takes all old pods down before it makes the first new one.
func (p *rollout) recreate() {
	p.syncNewest(false)
	stopped := false
	for _, s := range p.older {
		if s.size() > 0 {
			p.resize(s, 0)
			stopped = true
		}
	}
	if stopped || slices.ContainsFunc(p.older, func(s *replicas) bool { return p.hasPods(s.was) }) {
		return
	}
	p.syncNewest(true)
	if p.newest != nil {
		p.resize(p.newest, p.wanted())
		if p.complete() {
			p.prune()
		}
	}
}

// roll takes one step of a rolling update: the newest up, or else the older ones down.
func (p *rollout) roll() {
	p.syncNewest(true)
	if p.newest == nil {
		p.shrink(p.createdSize())
		return
	}
	p.noteSizes(p.newest)
	if size := p.newestSize(); size != p.newest.size() {
		p.resize(p.newest, size)
		return
	}
	if p.shrink(0) {
		return
	}
	if p.complete() {
		p.prune()
	}
}

func (p *rollout) createdSize() int32 {
	if p.create == nil {
		return 0
	}
	return count32(p.create.Spec.Replicas)
}

// wanted is how many replicas the Deployment asks for.
func (p *rollout) wanted() int32 { return count32(p.deployment.Spec.Replicas) }

// fenceposts resolves maxSurge (rounded up) and maxUnavailable (rounded down). Both being zero would stop every rollout, so that
// one may then be unavailable. Validation keeps the values valid.
func (p *rollout) fenceposts() (surge, unavailable int32) {
	r := p.deployment.Spec.Strategy.RollingUpdate
	if p.deployment.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || r == nil {
		return 0, 0
	}
	total := int(p.wanted())
	s, _ := intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(r.MaxSurge, intstr.FromInt32(0))), total, true)
	u, _ := intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(r.MaxUnavailable, intstr.FromInt32(0))), total, false)
	if s == 0 && u == 0 {
		u = 1
	}
	return int32(s), int32(min(u, total))
}

// newestSize is how far the newest set may grow, or must shrink, now.
func (p *rollout) newestSize() int32 {
	size := int32(0)
	if p.newest != nil {
		size = p.newest.size()
	}
	if size >= p.wanted() || p.deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return p.wanted()
	}
	surge, _ := p.fenceposts()
	room := p.wanted() + surge - p.total()
	if room <= 0 {
		return size
	}
	return size + min(room, p.wanted()-size)
}

// total sums the sizes of all sets.
func (p *rollout) total() int32 {
	var n int32
	for _, s := range p.sets {
		n += s.size()
	}
	return n
}

// shrink takes older sets down as far as enough stay available: first what is not available anyway, then the oldest.
// created is the size of a newest set that does not exist yet. It reports whether anything changed.
func (p *rollout) shrink(created int32) bool {
	_, maxUnavailable := p.fenceposts()
	floor := p.wanted() - maxUnavailable
	waiting := created
	if p.newest != nil {
		waiting += p.newest.size() - p.newest.Status.AvailableReplicas
	}
	budget := p.total() + created - floor - waiting
	changed := false
	for _, s := range p.older {
		if n := min(budget, s.size()-s.Status.AvailableReplicas); n > 0 && s.size() > 0 {
			p.resize(s, s.size()-n)
			budget -= n
			changed = true
		}
	}
	var available int32
	for _, s := range p.sets {
		available += s.Status.AvailableReplicas
	}
	spare := available - floor
	for _, s := range p.older {
		if n := min(spare, budget, s.size()); n > 0 {
			p.resize(s, s.size()-n)
			spare -= n
			budget -= n
			changed = true
		}
	}
	return changed
}

// resize sets a set's size and notes beside it what it was sized for, which a later proportional scaling needs.
func (p *rollout) resize(s *replicas, size int32) {
	if s.size() != size {
		s.edit().Spec.Replicas = ptr.To(size)
	}
	p.noteSizes(s)
}

func (p *rollout) noteSizes(s *replicas) {
	surge, _ := p.fenceposts()
	s.annotate(desiredReplicasAnnotation, strconv.Itoa(int(p.wanted())))
	s.annotate(maxReplicasAnnotation, strconv.Itoa(int(p.wanted()+surge)))
}

// scale brings the sets to the wanted total without rolling: one set alone takes it all; in the middle of a rolling
// update every set gets its share.
func (p *rollout) scale() {
	var active []*replicas
	for _, s := range p.sets {
		if s.size() > 0 {
			active = append(active, s)
		}
	}
	switch {
	case len(active) == 1:
		p.resize(active[0], p.wanted())
		return
	case len(active) == 0 && p.newest != nil:
		p.resize(p.newest, p.wanted())
		return
	case len(active) == 0 && len(p.older) > 0:
		p.resize(p.older[len(p.older)-1], p.wanted())
		return
	}
	if p.saturated() {
		for _, s := range p.older {
			if s.size() > 0 {
				p.resize(s, 0)
			}
		}
		return
	}
	if p.deployment.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		p.share(active)
	}
}

// saturated says that the newest set alone is what the Deployment wants.
func (p *rollout) saturated() bool {
	if p.newest == nil {
		return false
	}
	desired, err := strconv.ParseInt(p.newest.Annotations[desiredReplicasAnnotation], 10, 32)
	return err == nil && int32(desired) == p.wanted() && p.newest.size() == p.wanted() &&
		p.newest.Status.AvailableReplicas == p.wanted()
}

// share spreads the difference between what the sets have and what they may have over them, in proportion to their size; what
// rounding leaves goes to the largest.
func (p *rollout) share(active []*replicas) {
	surge, _ := p.fenceposts()
	allowed := int32(0)
	if p.wanted() > 0 {
		allowed = p.wanted() + surge
	}
	diff := allowed - p.total()
	// The largest first; of equal ones the newer first when growing, the older first when shrinking.
	slices.SortStableFunc(active, func(a, b *replicas) int {
		age := a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
		if diff > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(b.size(), a.size()), age)
	})
	sizes := make([]int32, len(active))
	var added int32
	for i, s := range active {
		part := p.part(s, diff, added)
		sizes[i] = s.size() + part
		added += part
	}
	for i, s := range active {
		if i == 0 {
			sizes[0] = max(0, sizes[0]+diff-added)
		}
		p.resize(s, sizes[i])
	}
}

// part is a set's share of diff, of which added has been given to others.
func (p *rollout) part(s *replicas, diff, added int32) int32 {
	if diff == 0 || diff == added || s.size() == 0 {
		return 0
	}
	left := diff - added
	if p.wanted() == 0 {
		return max(-s.size(), left)
	}
	surge, _ := p.fenceposts()
	before, err := strconv.ParseInt(s.Annotations[maxReplicasAnnotation], 10, 32)
	if err != nil || before == 0 {
		before = int64(p.deployment.Status.Replicas)
	}
	if before == 0 {
		return 0
	}
	size := math.Round(float64(s.size()) * float64(p.wanted()+surge) / float64(before))
	part := int32(size) - s.size()
	if diff > 0 {
		return min(part, left)
	}
	return max(part, left)
}

// prune removes the oldest revisions beyond the history limit, as far as they are empty.
func (p *rollout) prune() {
	limit := p.deployment.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return
	}
	var alive []*replicas
	for _, s := range p.older {
		if s.DeletionTimestamp == nil {
			alive = append(alive, s)
		}
	}
	surplus := len(alive) - int(*limit)
	slices.SortStableFunc(alive, func(a, b *replicas) int {
		return cmp.Compare(revisionOf(a.ReplicaSet), revisionOf(b.ReplicaSet))
	})
	for i := 0; i < surplus; i++ {
		s := alive[i]
		if s.changed || s.size() != 0 || s.Status.Replicas != 0 || s.Generation > s.Status.ObservedGeneration {
			continue
		}
		p.remove = append(p.remove, s.was)
	}
}

// revisionOf is the revision of a ReplicaSet, 0 when it has none.
func revisionOf(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// syncNewest brings annotations and revision of the newest set in step with the Deployment, and plans to create it when
// it is missing and create says so.
func (p *rollout) syncNewest(create bool) {
	var last int64
	for _, s := range p.older {
		last = max(last, revisionOf(s.ReplicaSet))
	}
	if p.newest == nil {
		if create {
			p.planCreate(strconv.FormatInt(last+1, 10))
		}
		return
	}
	p.copyAnnotations(p.newest)
	if own := revisionOf(p.newest.ReplicaSet); own <= last {
		if own > 0 {
			history := strconv.FormatInt(own, 10)
			if before := p.newest.Annotations[revisionHistoryAnnotation]; before != "" {
				history = addRevision(before, history)
			}
			p.newest.annotate(revisionHistoryAnnotation, history)
		}
		p.newest.annotate(revisionAnnotation, strconv.FormatInt(last+1, 10))
	}
	if p.newest.Spec.MinReadySeconds != p.deployment.Spec.MinReadySeconds {
		p.newest.edit().Spec.MinReadySeconds = p.deployment.Spec.MinReadySeconds
	}
	p.revision = p.newest.Annotations[revisionAnnotation]
	if hasDeadline(p.deployment) && condition(&p.status, appsv1.DeploymentProgressing) == nil {
		setCondition(&p.status, appsv1.DeploymentProgressing, corev1.ConditionTrue, "FoundNewReplicaSet",
			"Found new replica set "+strconv.Quote(p.newest.Name), p.now)
	}
}

// addRevision appends a revision to a comma-separated history, once, and drops the oldest entries when it grows beyond upstream's
// limit of 2000 bytes.
func addRevision(history, revision string) string {
	entries := strings.Split(history, ",")
	if slices.Contains(entries, revision) {
		return history
	}
	entries = append(entries, revision)
	for len(strings.Join(entries, ",")) > 2000 && len(entries) > 1 {
		entries = entries[1:]
	}
	return strings.Join(entries, ",")
}

func (p *rollout) planCreate(revision string) {
	rs := newReplicaSet(p.deployment)
	p.create = rs
	set := &replicas{ReplicaSet: rs, was: rs, changed: true}
	rs.Spec.Replicas = ptr.To(p.newestSize())
	p.copyAnnotations(set)
	p.noteSizes(set)
	set.annotate(revisionAnnotation, revision)
	p.revision = revision
	if hasDeadline(p.deployment) {
		setCondition(&p.status, appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated",
			"Created new replica set "+strconv.Quote(rs.Name), p.now)
	}
}

// copyAnnotations gives a set the Deployment's annotations, but for those that belong to one of the two alone.
func (p *rollout) copyAnnotations(s *replicas) {
	for k, v := range p.deployment.Annotations {
		switch k {
		case corev1.LastAppliedConfigAnnotation, revisionAnnotation, revisionHistoryAnnotation,
			desiredReplicasAnnotation, maxReplicasAnnotation, rollbackToAnnotation:
		default:
			s.annotate(k, v)
		}
	}
}
