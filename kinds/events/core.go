package events

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// Core is the row of events in the core group, under which events are stored.
func Core() *kinds.Kind {
	return &kinds.Kind{
		Kind:                "Event",
		Resource:            "events",
		ShortNames:          []string{"ev"},
		Namespaced:          true,
		Volatile:            true,
		Versions:            []kinds.Version{kinds.V[corev1.Event, corev1.EventList]("v1")},
		Validate:            kinds.Check(func(e *corev1.Event) field.ErrorList { return validate(e, "reportingComponent") }),
		ValidateUpdate:      kinds.CheckUpdate(func(e, _ *corev1.Event) field.ErrorList { return validate(e, "reportingComponent") }),
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		FieldLabels: []string{
			"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid", "involvedObject.apiVersion",
			"involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "reportingComponent", "source", "type",
		},
		Fields:  kinds.Select(eventFields),
		Columns: columns(),
		Cells:   kinds.Print(cells),
	}
}

func eventFields(e *corev1.Event) fields.Set {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return fields.Set{
		"metadata.name":                  e.Name,
		"metadata.namespace":             e.Namespace,
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	}
}

// Longest values of an event that has an eventTime, in bytes.
const (
	maxEventField   = 128
	maxEventMessage = 1024
)

// validate checks what both groups ask of an event; reporter is the name under which the group's JSON has the
// reporting controller. Events without eventTime come from older clients, of which little is asked.
func validate(e *corev1.Event, reporter string) field.ErrorList {
	var r check.Report
	object := field.NewPath("involvedObject", "namespace")
	const mismatch = "does not match event.namespace"
	// Events about cluster-scoped objects live in the default namespace, in kube-system too when they are of the new form.
	ns := e.InvolvedObject.Namespace
	clusterScoped := ns == "" && e.Namespace == metav1.NamespaceDefault
	if e.EventTime.IsZero() {
		if ns != e.Namespace && !clusterScoped {
			r.Invalid(object, ns, mismatch)
		}
	} else {
		if ns == "" && !clusterScoped && e.Namespace != metav1.NamespaceSystem {
			r.Invalid(object, ns, mismatch)
		}
		r.Present(field.NewPath(reporter), e.ReportingController)
		r.Invalid(field.NewPath(reporter), e.ReportingController, validation.IsQualifiedName(e.ReportingController)...)
		boundedField(&r, "reportingInstance", e.ReportingInstance)
		boundedField(&r, "action", e.Action)
		boundedField(&r, "reason", e.Reason)
		if len(e.Message) > maxEventMessage {
			r.Invalid(field.NewPath("message"), "", "can have at most 1024 characters")
		}
	}
	r.Invalid(field.NewPath("namespace"), e.Namespace, validation.IsDNS1123Subdomain(e.Namespace)...)
	return r.Errs
}

func boundedField(r *check.Report, name, value string) {
	r.Present(field.NewPath(name), value)
	if len(value) > maxEventField {
		r.Invalid(field.NewPath(name), "", "can have at most 128 characters")
	}
}

// columns is the table of events in both groups.
func columns() []metav1.TableColumnDefinition {
	doc := corev1.Event{}.SwaggerDoc()
	name := kinds.NameColumn()
	name.Priority = 1
	return []metav1.TableColumnDefinition{
		kinds.Column("Last Seen", "string", doc["lastTimestamp"]),
		kinds.Column("Type", "string", doc["type"]),
		kinds.Column("Reason", "string", doc["reason"]),
		kinds.Column("Object", "string", doc["involvedObject"]),
		kinds.WideColumn("Subobject", "string", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"]),
		kinds.WideColumn("Source", "string", doc["source"]),
		kinds.Column("Message", "string", doc["message"]),
		kinds.WideColumn("First Seen", "string", doc["firstTimestamp"]),
		kinds.WideColumn("Count", "string", doc["count"]),
		name,
	}
}

// cells fills columns.
func cells(e *corev1.Event, now metav1.Time) []any {
	first, count := kinds.Age(e.FirstTimestamp, now), e.Count
	if e.FirstTimestamp.IsZero() {
		first = microAge(e.EventTime, now)
	}
	last := first
	if !e.LastTimestamp.IsZero() {
		last = kinds.Age(e.LastTimestamp, now)
	}
	if e.Series != nil {
		last, count = microAge(e.Series.LastObservedTime, now), e.Series.Count
	} else if count == 0 {
		count = 1
	}
	object := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		object += "/" + e.InvolvedObject.Name
	}
	return []any{
		last, e.Type, e.Reason, object, e.InvolvedObject.FieldPath, eventSource(e), strings.TrimSpace(e.Message), first,
		int64(count), e.Name,
	}
}

func eventSource(e *corev1.Event) string {
	component, host := e.Source.Component, e.Source.Host
	check.Default(&component, e.ReportingController)
	check.Default(&host, e.ReportingInstance)
	if host == "" {
		return component
	}
	return component + ", " + host
}

func microAge(t metav1.MicroTime, now metav1.Time) string {
	if t.IsZero() {
		return kinds.Unknown
	}
	return duration.HumanDuration(now.Sub(t.Time))
}
