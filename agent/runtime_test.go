package agent

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/cri"
	"github.com/kebernetes/kebernetes/cri/fake"
)

// moody is a runtime that may be slow to list and may not answer.
type moody struct {
	cri.Runtime
	listed func() // called between a list and its return
	away   atomic.Bool
	asked  atomic.Int64 // for its status
}

func (m *moody) ListContainers(ctx context.Context, filter *rt.ContainerFilter) ([]*rt.Container, error) {
	out, err := m.Runtime.ListContainers(ctx, filter)
	if m.listed != nil {
		m.listed()
	}
	return out, err
}

func (m *moody) Status(ctx context.Context) (*rt.StatusResponse, error) {
	m.asked.Add(1)
	if m.away.Load() {
		return nil, errors.New("connection refused")
	}
	return m.Runtime.Status(ctx)
}

func TestPodStartedWhileTheRuntimeListsIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &moody{Runtime: fake.New(fake.Options{})}
		c := newCluster(t, m, nil)
		synctest.Wait()
		m.listed = func() {
			m.listed = nil
			c.create(pod("late", "run"))
			c.want("late", "Running ready main:running*0")
		}
		after(relistEvery + time.Second)
		if m.listed != nil {
			t.Fatal("the runtime was not listed")
		}
		c.want("late", "Running ready main:running*0")
		c.stop()
	})
}

func TestRuntimeIsAskedRarelyAndMayBeAwayForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &moody{Runtime: fake.New(fake.Options{})}
		c := newCluster(t, m, nil)
		after(time.Second)
		before := m.asked.Load()
		after(10 * time.Minute)
		if n := m.asked.Load() - before; n > 11 {
			t.Errorf("asked %d times in ten minutes", n)
		}
		ready := func() bool {
			n, _ := client.From[*corev1.Node](c.client, c.client.Snapshot(), "", "n1")
			for _, k := range n.Status.Conditions {
				if k.Type == corev1.NodeReady {
					return k.Status == corev1.ConditionTrue
				}
			}
			return false
		}
		m.away.Store(true)
		after(80 * time.Second) // asked within a minute, and again
		if !ready() {
			t.Error("a runtime that was away for a moment made the node unready")
		}
		after(time.Minute)
		if ready() {
			t.Error("a runtime that is down left the node ready")
		}
		m.away.Store(false)
		after(11 * time.Second)
		if !ready() {
			t.Error("the node stays unready")
		}
		c.stop()
	})
}
