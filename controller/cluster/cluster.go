// Package cluster holds the controllers that keep the cluster itself in order: namespaces and what every one of them must
// have, nodes and the pods on them that are lost, address ranges, aggregated roles, old events, and the garbage collector; one
// file each. Only daemon and testcluster import it.
package cluster

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/kebernetes/kebernetes/controller"
	"github.com/kebernetes/kebernetes/kinds"
)

// Options are what these controllers must know of the cluster.
type Options struct {
	// RootCA is the PEM bundle that pods verify the API server with; every namespace gets it in a ConfigMap.
	RootCA []byte
	// ClusterCIDR lists the ranges that pod addresses come from, at most one of each family. Empty allocates none.
	ClusterCIDR []netip.Prefix
}

// Controllers returns the components of this package.
func Controllers(env controller.Env, opts Options) []*controller.Loop {
	loops := []*controller.Loop{
		Namespaces(env),
		ServiceAccounts(env),
		RootCA(env, opts.RootCA),
		ClusterRoles(env),
		GarbageCollector(env),
		Nodes(env),
		TaintEviction(env),
		PodGC(env),
		EventExpiry(env),
		ResourceQuotas(env),
	}
	if len(opts.ClusterCIDR) > 0 {
		loops = append(loops, NodeIPAM(env, opts.ClusterCIDR))
	}
	return loops
}

// deletable says whether objects of a kind are stored and can be deleted.
func deletable(k *kinds.Kind) bool {
	return !k.Virtual && (k.Verbs == nil || slices.Contains(k.Verbs, "delete"))
}

// parallel calls f for each item, a few at once, and returns the errors in the items' order. Writes at the same time share
// one sync of the disk.
func parallel[T any](items []T, f func(T) error) []error {
	errs := make([]error, len(items))
	slots := make(chan struct{}, 32)
	var wg sync.WaitGroup
	for i, item := range items {
		slots <- struct{}{}
		wg.Go(func() {
			errs[i] = f(item)
			<-slots
		})
	}
	wg.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}
