package clienttest_test

import (
	"context"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/client/clienttest"
	"github.com/kebernetes/kebernetes/testcluster"
)

func TestInProcess(t *testing.T) {
	cluster := testcluster.Start(t, testcluster.Options{})
	cluster.AwaitReady(t.Context())
	clienttest.Run(t, clienttest.Harness{Admin: cluster.Client, As: func(_ *testing.T, account, _ string) *client.Client {
		return cluster.System.As(&auth.User{
			Name: auth.ServiceAccountPrefix + "default:" + account, Groups: append(auth.ServiceAccountGroups("default"), auth.GroupAuthenticated),
		})
	}})
}

func TestRemote(t *testing.T) {
	cluster := testcluster.Start(t, testcluster.Options{Listen: true})
	cluster.AwaitReady(t.Context())
	config, err := clientcmd.BuildConfigFromFlags("", cluster.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	remote := func(t *testing.T, config *rest.Config, mirror ...client.MirrorSpec) *client.Client {
		tls, err := rest.TLSConfigFor(config)
		if err != nil {
			t.Fatal(err)
		}
		r := client.NewRemote(client.RemoteOptions{
			Server: config.Host, TLS: tls, Token: config.BearerToken, Agent: "clienttest", Table: cluster.Table(), Mirror: mirror, Logger: slog.New(slog.DiscardHandler),
		})
		ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		if err := r.WaitSynced(t.Context()); err != nil {
			t.Fatal(err)
		}
		return client.New(r, cluster.Table())
	}
	mirrored := []client.MirrorSpec{{Resource: corev1.Resource("configmaps")}, {Resource: corev1.Resource("pods")}}
	clienttest.Run(t, clienttest.Harness{
		Admin: remote(t, config, mirrored...),
		As: func(t *testing.T, _, token string) *client.Client {
			as := rest.AnonymousClientConfig(config)
			as.BearerToken = token
			return remote(t, as)
		},
	})
}
