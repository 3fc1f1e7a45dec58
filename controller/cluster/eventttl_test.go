package cluster

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An event lives for an hour after it was last seen; a time that has not come yet does not count.
func TestEventExpiry(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	event := func(created, last time.Time) *corev1.Event {
		return &corev1.Event{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(created)}, LastTimestamp: metav1.NewTime(last)}
	}
	repeats := event(ago(3*time.Hour), ago(2*time.Hour))
	repeats.Series = &corev1.EventSeries{LastObservedTime: metav1.NewMicroTime(ago(10 * time.Minute))}
	for name, c := range map[string]struct {
		event *corev1.Event
		left  time.Duration // 0 means expired
	}{
		"new":             {event(now, now), time.Hour},
		"seen again":      {event(ago(2*time.Hour), ago(15*time.Minute)), 45 * time.Minute},
		"a series":        {repeats, 50 * time.Minute},
		"old":             {event(ago(2*time.Hour), ago(time.Hour)), 0},
		"from the future": {event(ago(2*time.Hour), now.Add(1000*time.Hour)), 0},
		"ends soon":       {event(ago(time.Hour-time.Second), time.Time{}), expiryPause},
	} {
		expired, again := planExpiry([]*corev1.Event{c.event}, now)
		if (len(expired) == 1) != (c.left == 0) || again != c.left {
			t.Errorf("%s: expired %d, again in %v, want %v", name, len(expired), again, c.left)
		}
	}
}
