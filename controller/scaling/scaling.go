// Package scaling holds the controllers of how many pods there must be at least: disruption budgets. Only daemon and
// testcluster import it.
package scaling

import (
	"github.com/kebernetes/kebernetes/controller"
)

// Controllers returns the components of this package.
func Controllers(env controller.Env) []*controller.Loop {
	return []*controller.Loop{
		DisruptionBudgets(env),
	}
}
