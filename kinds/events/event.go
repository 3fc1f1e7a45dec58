// Package events holds the two faces of events: core/v1, as which they are stored, and events.k8s.io/v1, which shows the
// same objects under newer names and stricter rules. Only kinds/builtin imports it.
package events

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// fieldLabels maps the group's selectable fields to those of core events.
func fieldLabels() [][2]string {
	return [][2]string{
		{"metadata.name", "metadata.name"},
		{"metadata.namespace", "metadata.namespace"},
		{"regarding.kind", "involvedObject.kind"},
		{"regarding.namespace", "involvedObject.namespace"},
		{"regarding.name", "involvedObject.name"},
		{"regarding.uid", "involvedObject.uid"},
		{"regarding.apiVersion", "involvedObject.apiVersion"},
		{"regarding.resourceVersion", "involvedObject.resourceVersion"},
		{"regarding.fieldPath", "involvedObject.fieldPath"},
		{"reason", "reason"},
		{"reportingController", "reportingComponent"},
		{"type", "type"},
	}
}

// Event is the row of events.k8s.io; core is the row of Core in the same table.
func Event(core *kinds.Kind) *kinds.Kind {
	k := &kinds.Kind{
		Group:      eventsv1.GroupName,
		Kind:       "Event",
		Resource:   "events",
		ShortNames: []string{"ev"},
		Namespaced: true,
		Volatile:   true,
		StoredAs:   core,
		Versions: []kinds.Version{{
			Name:        "v1",
			New:         func() kinds.Object { return new(eventsv1.Event) },
			NewList:     func() runtime.Object { return new(eventsv1.EventList) },
			ToStorage:   func(o kinds.Object) (kinds.Object, error) { return toCore(o.(*eventsv1.Event)), nil },
			FromStorage: func(o kinds.Object) (kinds.Object, error) { return fromCore(o.(*corev1.Event)), nil },
		}},
		Validate:            kinds.Check(validateNew),
		ValidateUpdate:      kinds.CheckUpdate(validateUpdate),
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		Fields: kinds.Select(func(e *corev1.Event) fields.Set {
			set, core := fields.Set{}, eventFields(e)
			for _, l := range fieldLabels() {
				set[l[0]] = core[l[1]]
			}
			return set
		}),
		Columns: columns(),
		Cells:   kinds.Print(cells),
	}
	for _, l := range fieldLabels()[2:] {
		k.FieldLabels = append(k.FieldLabels, l[0])
	}
	return k
}

func toCore(e *eventsv1.Event) *corev1.Event {
	out := &corev1.Event{
		ObjectMeta:          e.ObjectMeta,
		InvolvedObject:      e.Regarding,
		Reason:              e.Reason,
		Message:             e.Note,
		Source:              e.DeprecatedSource,
		FirstTimestamp:      e.DeprecatedFirstTimestamp,
		LastTimestamp:       e.DeprecatedLastTimestamp,
		Count:               e.DeprecatedCount,
		Type:                e.Type,
		EventTime:           e.EventTime,
		Action:              e.Action,
		Related:             e.Related,
		ReportingController: e.ReportingController,
		ReportingInstance:   e.ReportingInstance,
	}
	if e.Series != nil {
		out.Series = &corev1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	return out
}

func fromCore(e *corev1.Event) *eventsv1.Event {
	out := &eventsv1.Event{
		ObjectMeta:               e.ObjectMeta,
		EventTime:                e.EventTime,
		ReportingController:      e.ReportingController,
		ReportingInstance:        e.ReportingInstance,
		Action:                   e.Action,
		Reason:                   e.Reason,
		Regarding:                e.InvolvedObject,
		Related:                  e.Related,
		Note:                     e.Message,
		Type:                     e.Type,
		DeprecatedSource:         e.Source,
		DeprecatedFirstTimestamp: e.FirstTimestamp,
		DeprecatedLastTimestamp:  e.LastTimestamp,
		DeprecatedCount:          e.Count,
	}
	if e.Series != nil {
		out.Series = &eventsv1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	return out
}

// validateNew holds new events of this group to the new form: a time, a known type, and no field of the old one.
func validateNew(e *corev1.Event) field.ErrorList {
	r := check.Report{Errs: validate(e, "reportingController")}
	validateSeries(&r, e.Series)
	if e.EventTime.IsZero() {
		r.Required(field.NewPath("eventTime"), "")
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		r.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type))
	}
	const unset = "needs to be unset"
	if !e.FirstTimestamp.IsZero() {
		r.Invalid(field.NewPath("firstTimestamp"), "", unset)
	}
	if !e.LastTimestamp.IsZero() {
		r.Invalid(field.NewPath("lastTimestamp"), "", unset)
	}
	if e.Count != 0 {
		r.Invalid(field.NewPath("count"), "", unset)
	}
	if e.Source != (corev1.EventSource{}) {
		r.Invalid(field.NewPath("source"), "", unset)
	}
	return r.Errs
}

func validateSeries(r *check.Report, s *corev1.EventSeries) {
	if s == nil {
		return
	}
	if s.Count < 2 {
		r.Invalid(field.NewPath("series.count"), "", "should be at least 2")
	}
	if s.LastObservedTime.IsZero() {
		r.Required(field.NewPath("series.lastObservedTime"), "")
	}
}

// validateUpdate lets only the series of an event move on.
func validateUpdate(e, old *corev1.Event) field.ErrorList {
	r := check.Report{Errs: validate(e, "reportingController")}
	if !check.Same(e.Series, old.Series) {
		validateSeries(&r, e.Series)
	}
	r.Immutable(field.NewPath("involvedObject"), e.InvolvedObject, old.InvolvedObject)
	r.Immutable(field.NewPath("reason"), e.Reason, old.Reason)
	r.Immutable(field.NewPath("message"), e.Message, old.Message)
	r.Immutable(field.NewPath("source"), e.Source, old.Source)
	r.Immutable(field.NewPath("firstTimestamp"), e.FirstTimestamp, old.FirstTimestamp)
	r.Immutable(field.NewPath("lastTimestamp"), e.LastTimestamp, old.LastTimestamp)
	r.Immutable(field.NewPath("count"), e.Count, old.Count)
	// The wire carries microseconds: what lies below may get lost on the way through a client.
	if !e.EventTime.Truncate(time.Microsecond).Equal(old.EventTime.Truncate(time.Microsecond)) {
		r.Immutable(field.NewPath("eventTime"), e.EventTime, old.EventTime)
	}
	r.Immutable(field.NewPath("action"), e.Action, old.Action)
	r.Immutable(field.NewPath("related"), e.Related, old.Related)
	r.Immutable(field.NewPath("reportingController"), e.ReportingController, old.ReportingController)
	r.Immutable(field.NewPath("reportingInstance"), e.ReportingInstance, old.ReportingInstance)
	r.Immutable(field.NewPath("type"), e.Type, old.Type)
	return r.Errs
}
