package autoscale

import (
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// What limits an autoscaler without a behavior, upstream's numbers.
const (
	// stabilization is how long the highest recommendation holds: --horizontal-pod-autoscaler-downscale-stabilization.
	stabilization = 5 * time.Minute
	// At one look the replicas grow to twice what they were, or to upTo where that is more.
	upFactor, upTo = 2, 4
)

// The longest times that rules may look back, as validation has them.
const (
	longestWindow = time.Hour
	longestPeriod = 30 * time.Minute
)

// history is what an autoscaler recommended and did. A value: it is never changed, only replaced. It is lost with the process, as
// upstream's is: the first look after a start recommends what is there, so that nothing shrinks at once.
type history struct {
	recommendations []entry
	ups, downs      []entry // by how many replicas
}

type entry struct {
	replicas int32
	at       time.Time
}

// since drops what no rule looks back to any more, and begins a history with what is there.
func (h history) since(current int32, now time.Time) history {
	out := history{
		recommendations: after(h.recommendations, now.Add(-longestWindow)),
		ups:             after(h.ups, now.Add(-longestPeriod)),
		downs:           after(h.downs, now.Add(-longestPeriod)),
	}
	if len(h.recommendations) == 0 {
		out.recommendations = []entry{{current, now}}
	}
	return out
}

// changed adds a change of the replicas.
func (h history) changed(from, to int32, now time.Time) history {
	if to > from {
		h.ups = append(after(h.ups, time.Time{}), entry{to - from, now})
	} else {
		h.downs = append(after(h.downs, time.Time{}), entry{from - to, now})
	}
	return h
}

// after copies the entries later than a time.
func after(list []entry, t time.Time) []entry {
	var out []entry
	for _, e := range list {
		if e.at.After(t) {
			out = append(out, e)
		}
	}
	return out
}

// sum adds up the entries of the last seconds.
func sum(list []entry, seconds int32, now time.Time) int32 {
	total := int32(0)
	for _, e := range list {
		if e.at.After(now.Add(-time.Duration(seconds) * time.Second)) {
			total += e.replicas
		}
	}
	return total
}

const (
	matches    = "recommended size matches current size"
	higher     = "recent recommendations were higher than current one, applying the highest recent recommendation"
	lower      = "recent recommendations were lower than current one, applying the lowest recent recommendation"
	tooFast    = "the desired replica count is increasing faster than the maximum scale rate"
	tooSlow    = "the desired replica count is decreasing faster than the maximum scale rate"
	tooMany    = "the desired replica count is more than the maximum replica count"
	tooFew     = "the desired replica count is less than the minimum replica count"
	acceptable = "the desired count is within the acceptable range"
)

// bound is a limit with its reason.
type bound struct {
	replicas        int32
	reason, message string
}

// limit holds a recommendation within the bounds of an autoscaler without a behavior.
func (d *decision) limit(o *observed, wanted int32) int32 {
	stable := wanted
	for _, r := range d.history.recommendations {
		if r.at.After(o.now.Add(-stabilization)) {
			stable = max(stable, r.replicas)
		}
	}
	d.history.recommendations = append(d.history.recommendations, entry{wanted, o.now})
	d.able(o, stable != wanted, "ScaleDownStabilized", higher)
	most := bound{o.hpa.Spec.MaxReplicas, "TooManyReplicas", tooMany}
	if limit := max(upFactor*o.current(), upTo); limit < most.replicas {
		most = bound{limit, "ScaleUpLimit", tooFast}
	}
	return d.within(o, stable, bound{o.least(), "TooFewReplicas", tooFew}, most)
}

// behave holds a recommendation within the rules of the autoscaler's behavior.
func (d *decision) behave(o *observed, wanted int32) int32 {
	up, down := o.hpa.Spec.Behavior.ScaleUp, o.hpa.Spec.Behavior.ScaleDown
	stable := d.stabilize(o, wanted, window(up, 0), window(down, stabilization))
	d.history.recommendations = append(d.history.recommendations, entry{wanted, o.now})
	if wanted >= o.current() {
		d.able(o, stable != wanted, "ScaleUpStabilized", lower)
	} else {
		d.able(o, stable != wanted, "ScaleDownStabilized", higher)
	}
	least, most := bound{o.least(), "TooFewReplicas", tooFew}, bound{o.hpa.Spec.MaxReplicas, "TooManyReplicas", tooMany}
	switch {
	case stable > o.current():
		if limit := max(d.upLimit(o, up), o.current()); limit < most.replicas {
			most = bound{limit, "ScaleUpLimit", tooFast}
		}
	case stable < o.current():
		if limit := min(d.downLimit(o, down), o.current()); limit > least.replicas {
			least = bound{limit, "ScaleDownLimit", tooSlow}
		}
	}
	return d.within(o, stable, least, most)
}

// stabilize brings the present number as close to what is wanted as all recommendations of the windows allow: up to the
// lowest, down to the highest.
func (d *decision) stabilize(o *observed, wanted int32, up, down time.Duration) int32 {
	lowest, highest := wanted, wanted
	for _, r := range d.history.recommendations {
		if r.at.After(o.now.Add(-up)) {
			lowest = min(lowest, r.replicas)
		}
		if r.at.After(o.now.Add(-down)) {
			highest = max(highest, r.replicas)
		}
	}
	return min(max(o.current(), lowest), highest)
}

func window(rules *autoscalingv2.HPAScalingRules, otherwise time.Duration) time.Duration {
	if rules == nil || rules.StabilizationWindowSeconds == nil {
		return otherwise
	}
	return time.Duration(*rules.StabilizationWindowSeconds) * time.Second
}

// upLimit is how far the rules let the target grow now.
func (d *decision) upLimit(o *observed, rules *autoscalingv2.HPAScalingRules) int32 {
	if rules == nil {
		return math.MaxInt32
	}
	return choose(o, rules, func(p *autoscalingv2.HPAScalingPolicy) int32 {
		start := o.current() - sum(d.history.ups, p.PeriodSeconds, o.now) + sum(d.history.downs, p.PeriodSeconds, o.now)
		if p.Type == autoscalingv2.PodsScalingPolicy {
			return int32(min(int64(start)+int64(p.Value), math.MaxInt32))
		}
		return ceil(float64(start) * (1 + float64(p.Value)/100))
	}, false)
}

// downLimit is how far the rules let the target shrink now.
func (d *decision) downLimit(o *observed, rules *autoscalingv2.HPAScalingRules) int32 {
	if rules == nil {
		return 0
	}
	return choose(o, rules, func(p *autoscalingv2.HPAScalingPolicy) int32 {
		start := o.current() + sum(d.history.downs, p.PeriodSeconds, o.now) - sum(d.history.ups, p.PeriodSeconds, o.now)
		if p.Type == autoscalingv2.PodsScalingPolicy {
			return start - p.Value
		}
		return int32(float64(start) * (1 - float64(p.Value)/100))
	}, true)
}

// choose picks among what policies allow: by default that of the largest change.
func choose(o *observed, rules *autoscalingv2.HPAScalingRules, allowed func(*autoscalingv2.HPAScalingPolicy) int32, down bool) int32 {
	by := ptr.Deref(rules.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if by == autoscalingv2.DisabledPolicySelect || len(rules.Policies) == 0 {
		return o.current()
	}
	smallest := (by == autoscalingv2.MinChangePolicySelect) != down
	out := allowed(&rules.Policies[0])
	for i := range rules.Policies[1:] {
		n := allowed(&rules.Policies[i+1])
		if smallest {
			out = min(out, n)
		} else {
			out = max(out, n)
		}
	}
	return out
}

// able tells whether a recommendation waits for others to pass.
func (d *decision) able(o *observed, waits bool, reason, message string) {
	if !waits {
		reason, message = "ReadyForNewScale", matches
	}
	d.condition(o, autoscalingv2.AbleToScale, corev1.ConditionTrue, reason, message)
}

// within holds a number between bounds and tells whether one of them was met.
func (d *decision) within(o *observed, n int32, least, most bound) int32 {
	met := bound{n, "DesiredWithinRange", acceptable}
	switch {
	case n < least.replicas:
		met = least
	case n > most.replicas:
		met = most
	}
	limited := corev1.ConditionFalse
	if met.replicas != n {
		limited = corev1.ConditionTrue
	}
	d.condition(o, autoscalingv2.ScalingLimited, limited, met.reason, met.message)
	return met.replicas
}
