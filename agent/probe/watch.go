package probe

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Kind of a probe, spelled as in events.
type Kind string

// The kinds.
const (
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
	Startup   Kind = "Startup"
)

// Counter turns answers into a verdict: it changes when enough equal answers came in a row. The zero Counter has no verdict.
type Counter struct {
	ok    bool
	known bool
	run   int32
	last  bool
}

// Add counts an answer and returns the verdict and whether this answer made or changed it.
func (c *Counter) Add(ok bool, p *corev1.Probe) (verdict, changed bool) {
	if c.run > 0 && c.last == ok {
		c.run++
	} else {
		c.last, c.run = ok, 1
	}
	threshold := max(p.FailureThreshold, 1)
	if ok {
		threshold = max(p.SuccessThreshold, 1)
	}
	if c.run < threshold || c.known && c.ok == ok {
		return c.ok, false
	}
	c.ok, c.known = ok, true
	return ok, true
}

// retries is how often a check that could not be made is made again at once.
const retries = 3

// Watch probes a container until ctx ends, or a liveness or startup probe has decided against it, or a startup probe for it.
// started is when the container started. verdict is called whenever the verdict changes, told with every answer that
// is worth an event: the reason ("Unhealthy", "ProbeWarning") and the message.
func (c *Checker) Watch(ctx context.Context, kind Kind, p *corev1.Probe, t Target, started time.Time, verdict func(ok bool, message string), told func(reason, message string)) {
	timer := time.NewTimer(time.Until(started.Add(time.Duration(p.InitialDelaySeconds) * time.Second)))
	defer timer.Stop()
	period := time.Duration(max(p.PeriodSeconds, 1)) * time.Second
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	var count Counter
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		result, output, err := c.ask(ctx, &p.ProbeHandler, t, timeout)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil:
			told("Unhealthy", string(kind)+" probe errored and resulted in unknown state: "+err.Error())
		case result == Warning:
			told("ProbeWarning", string(kind)+" probe warning: "+output)
		case result == Failure:
			told("Unhealthy", string(kind)+" probe failed: "+output)
		}
		if err == nil {
			ok, changed := count.Add(result != Failure, p)
			if changed {
				verdict(ok, output)
				if kind == Startup || kind == Liveness && !ok {
					return
				}
			}
		}
		timer.Reset(max(period-time.Since(began), 0))
	}
}

func (c *Checker) ask(ctx context.Context, h *corev1.ProbeHandler, t Target, timeout time.Duration) (result Result, output string, err error) {
	for range retries {
		if result, output, err = c.Check(ctx, h, t, timeout); err == nil || ctx.Err() != nil {
			return result, output, err
		}
	}
	return result, output, err
}
