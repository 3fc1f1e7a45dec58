package lifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Restarts wait 10 s, doubling up to 5 minutes; a container that ran long enough starts afresh: upstream's numbers.
const (
	initialBackoff = 10 * time.Second
	maxBackoff     = 5 * time.Minute
	backoffReset   = 2 * maxBackoff
)

// restarts says what the end of a container asks for: another run of it, or of all.
func restarts(pod *corev1.Pod, c *corev1.Container, ended *Container) (again, all bool) {
	for _, rule := range c.RestartPolicyRules {
		if rule.ExitCodes == nil {
			continue
		}
		in := slices.Contains(rule.ExitCodes.Values, ended.ExitCode)
		if in != (rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			continue
		}
		return rule.Action == corev1.ContainerRestartRuleActionRestart, rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers
	}
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false, false
	case corev1.RestartPolicyOnFailure:
		return ended.ExitCode != 0, false
	}
	return true, false
}

// initRestarts is restarts for an init container, for which Always means OnFailure.
func initRestarts(pod *corev1.Pod, c *corev1.Container, ended *Container) bool {
	if !Sidecar(c) && ended.ExitCode == 0 && ended.Phase == Exited {
		return false
	}
	again, _ := restarts(pod, c, ended)
	return again
}

// delay is how long a container has to wait after its end at the given time.
func (b Backoff) delay(now time.Time) time.Duration {
	if now.Sub(b.Since) > backoffReset {
		return 0
	}
	return b.Delay
}

// Next is the back-off after a start at now.
func (b Backoff) Next(now time.Time) Backoff {
	d := b.delay(now)
	if d == 0 {
		return Backoff{initialBackoff, now}
	}
	return Backoff{min(2*d, maxBackoff), now}
}
