// Package builtin is the one list of all built-in kinds. The daemon and tests import it; only it imports the group packages.
package builtin

import (
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/apps"
	"github.com/kebernetes/kebernetes/kinds/authentication"
	"github.com/kebernetes/kebernetes/kinds/authorization"
	"github.com/kebernetes/kebernetes/kinds/autoscaling"
	"github.com/kebernetes/kebernetes/kinds/batch"
	"github.com/kebernetes/kebernetes/kinds/certificates"
	"github.com/kebernetes/kebernetes/kinds/coordination"
	"github.com/kebernetes/kebernetes/kinds/core"
	"github.com/kebernetes/kebernetes/kinds/discovery"
	"github.com/kebernetes/kebernetes/kinds/events"
	"github.com/kebernetes/kebernetes/kinds/metrics"
	"github.com/kebernetes/kebernetes/kinds/networking"
	"github.com/kebernetes/kebernetes/kinds/node"
	"github.com/kebernetes/kebernetes/kinds/policy"
	"github.com/kebernetes/kebernetes/kinds/rbac"
	"github.com/kebernetes/kebernetes/kinds/scheduling"
	"github.com/kebernetes/kebernetes/kinds/storage"
)

// Table returns a new table of all built-in kinds.
func Table() *kinds.Table { return kinds.NewTable(Kinds()...) }

// Kinds returns new rows of all built-in kinds: core first, then group by group.
func Kinds() []*kinds.Kind {
	event := events.Core()
	return []*kinds.Kind{
		core.Binding(),
		core.ConfigMap(),
		core.Endpoints(),
		event,
		core.LimitRange(),
		core.Namespace(),
		core.Node(),
		core.PersistentVolume(),
		core.PersistentVolumeClaim(),
		core.Pod(),
		core.PodTemplate(),
		core.ReplicationController(),
		core.ResourceQuota(),
		core.Secret(),
		core.Service(),
		core.ServiceAccount(),

		apps.ControllerRevision(),
		apps.DaemonSet(),
		apps.Deployment(),
		apps.ReplicaSet(),
		apps.StatefulSet(),

		authentication.SelfSubjectReview(),
		authentication.TokenReview(),

		authorization.LocalSubjectAccessReview(),
		authorization.SelfSubjectAccessReview(),
		authorization.SelfSubjectRulesReview(),
		authorization.SubjectAccessReview(),

		autoscaling.HorizontalPodAutoscaler(),

		batch.CronJob(),
		batch.Job(),

		certificates.CertificateSigningRequest(),
		coordination.Lease(),
		discovery.EndpointSlice(),
		events.Event(event),

		networking.Ingress(),
		networking.IngressClass(),
		networking.IPAddress(),
		networking.NetworkPolicy(),
		networking.ServiceCIDR(),

		node.RuntimeClass(),
		policy.PodDisruptionBudget(),

		rbac.ClusterRole(),
		rbac.ClusterRoleBinding(),
		rbac.Role(),
		rbac.RoleBinding(),

		scheduling.PriorityClass(),

		storage.CSIDriver(),
		storage.CSINode(),
		storage.CSIStorageCapacity(),
		storage.StorageClass(),
		storage.VolumeAttachment(),
		storage.VolumeAttributesClass(),
	}
}

// Metrics returns new rows of what nodes and pods use. They are apart because upstream's API server does not have them itself:
// a server adds them when it runs nodes, and something that answers for them.
func Metrics() []*kinds.Kind {
	return []*kinds.Kind{metrics.NodeMetrics(), metrics.PodMetrics()}
}
