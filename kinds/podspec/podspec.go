// Package podspec holds what all kinds with pods in them share: defaults, validation, the rules of updates and the
// warnings of PodSpec and PodTemplateSpec. Its texts, field paths and their order are upstream's. Only the group packages
// below kinds import it.
package podspec

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// report gathers what is wrong with a pod, in the order in which it is found; its methods are the checks of a pod's parts.
type report struct{ check.Report }

// eachContainer calls f for every container with the list that it stands in: "initContainers", "containers",
// "ephemeralContainers". What f changes in an ephemeral container is kept.
func eachContainer(spec *corev1.PodSpec, f func(list string, i int, c *corev1.Container)) {
	for i := range spec.InitContainers {
		f("initContainers", i, &spec.InitContainers[i])
	}
	for i := range spec.Containers {
		f("containers", i, &spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		f("ephemeralContainers", i, common(&spec.EphemeralContainers[i]))
	}
}

// common views an ephemeral container as a container: the two have the same fields.
func common(c *corev1.EphemeralContainer) *corev1.Container {
	return (*corev1.Container)(&c.EphemeralContainerCommon)
}
