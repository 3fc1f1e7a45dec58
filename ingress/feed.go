package ingress

import (
	"context"
	"maps"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
)

const (
	// compileShare bounds what compiling may take of one processor: after each time it rests so many times as long as it took,
	// up to compileRest. A single change among few is taken at once, a flood in portions.
	compileShare = 4
	compileRest  = 500 * time.Millisecond
)

// await waits until there are events, or until something comes from due, and returns what there is.
func await(ctx context.Context, f *client.Feed, due <-chan time.Time) (events []client.Event, expired bool, err error) {
	select {
	case <-ctx.Done():
		return nil, false, ctx.Err()
	case <-due:
		expired = true
	case <-f.Pending(0):
	case <-f.Pending(1):
	case <-f.Pending(2):
	case <-f.Pending(3):
	case <-f.Pending(4):
	}
	_, err = f.Drain(func(e client.Event) { events = append(events, e) })
	return events, expired, err
}

// pace spaces out what is costly.
type pace struct {
	timer *time.Timer
	until time.Time
}

// wait returns a channel that fires when the next turn may begin.
func (p *pace) wait() <-chan time.Time {
	rest := time.Until(p.until)
	if p.timer == nil {
		p.timer = time.NewTimer(rest)
	} else {
		p.timer.Reset(rest)
	}
	return p.timer.C
}

// took says that a turn that began at start is over.
func (p *pace) took(start time.Time) {
	now := time.Now()
	p.until = now.Add(min(compileShare*now.Sub(start), compileRest))
}

// specChanged says whether an event changes more than an Ingress's status.
func specChanged(e client.Event) bool {
	if e.Type == client.Delete || e.Prev == nil {
		return true
	}
	now, before := e.Item.Object, e.Prev.Object
	return now.GetUID() != before.GetUID() || now.GetGeneration() != before.GetGeneration() ||
		!maps.Equal(now.GetAnnotations(), before.GetAnnotations())
}

func nameOf(item *client.Item) types.NamespacedName {
	return types.NamespacedName{Namespace: item.Key.Namespace, Name: item.Key.Name}
}

// sliceIndex holds the EndpointSlices of each Service by their names.
type sliceIndex map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice

func serviceOf(obj client.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetLabels()[discoveryv1.LabelServiceName]}
}

func (x sliceIndex) add(slice *discoveryv1.EndpointSlice) {
	service := serviceOf(slice)
	if x[service] == nil {
		x[service] = map[string]*discoveryv1.EndpointSlice{}
	}
	x[service][slice.Name] = slice
}

// note takes in an event, and hands the Services that it concerns to changed.
func (x sliceIndex) note(e client.Event, changed func(types.NamespacedName)) {
	if e.Prev != nil {
		service := serviceOf(e.Prev.Object)
		delete(x[service], e.Prev.Object.GetName())
		if len(x[service]) == 0 {
			delete(x, service)
		}
		changed(service)
	}
	if e.Type == client.Put {
		x.add(e.Item.Object.(*discoveryv1.EndpointSlice))
		changed(serviceOf(e.Item.Object))
	}
}
