package kinds

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// None is what kubectl's tables show for an empty list or name, Unknown for a time or state that is not known.
const (
	None    = "<none>"
	Unknown = "<unknown>"
)

// Column returns one column of kubectl's table. typ is string, integer, number, boolean or date. Descriptions mostly come
// from the API types' SwaggerDoc, as upstream's do.
func Column(name, typ, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: typ, Description: description}
}

// WideColumn returns a column that only kubectl's -o wide shows.
func WideColumn(name, typ, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: typ, Description: description, Priority: 1}
}

// NameColumn returns the Name column that nearly every table starts with.
func NameColumn() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}
}

// AgeColumn returns the Age column, filled by Age.
func AgeColumn() metav1.TableColumnDefinition {
	return Column("Age", "string", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"])
}

// Age prints the time from then to now as kubectl does ("5d3h"), Unknown for the zero time.
func Age(then, now metav1.Time) string {
	if then.IsZero() {
		return Unknown
	}
	return duration.HumanDuration(now.Sub(then.Time))
}

// ContainerColumns returns the wide columns Containers and Images of kinds with a pod template, filled by ContainerCells.
func ContainerColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		WideColumn("Containers", "string", "Names of each container in the template."),
		WideColumn("Images", "string", "Images referenced by each container in the template."),
	}
}

// ReplicaColumns returns the columns of the kinds that keep a number of equal pods, with the descriptions of their types' fields.
func ReplicaColumns(spec, status map[string]string) []metav1.TableColumnDefinition {
	columns := []metav1.TableColumnDefinition{
		NameColumn(),
		Column("Desired", "integer", spec["replicas"]),
		Column("Current", "integer", status["replicas"]),
		Column("Ready", "integer", status["readyReplicas"]),
		AgeColumn(),
	}
	columns = append(columns, ContainerColumns()...)
	return append(columns, WideColumn("Selector", "string", spec["selector"]))
}

// ContainerCells returns the names and the images of the containers, each joined by commas.
func ContainerCells(containers []corev1.Container) (names, images string) {
	var n, i []string
	for _, c := range containers {
		n = append(n, c.Name)
		i = append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

// LabelCell prints a set of labels as "a=b,c=d" in key order, None when there are none.
func LabelCell(labels map[string]string) string {
	if len(labels) == 0 {
		return None
	}
	pairs := make([]string, 0, len(labels))
	for k, v := range labels {
		pairs = append(pairs, k+"="+v)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

// FewCell joins the first values of a list, and tells how many more there are: "a,b + 3 more...".
func FewCell(values []string, shown int, separator string) string {
	if len(values) <= shown {
		return strings.Join(values, separator)
	}
	return fmt.Sprintf("%s + %d more...", strings.Join(values[:shown], separator), len(values)-shown)
}

// SelectorCell prints a label selector as kubectl does: None when absent or empty, "<error>" when invalid.
func SelectorCell(s *metav1.LabelSelector) string { return metav1.FormatLabelSelector(s) }
