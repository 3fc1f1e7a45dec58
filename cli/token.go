package cli

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/rest"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/auth/pki"
	"github.com/kebernetes/kebernetes/client"
)

// tokenTTL is kubeadm's.
const tokenTTL = 24 * time.Hour

func newToken() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Make, list and revoke the tokens that machines join with"}
	cmd.AddCommand(newTokenCreate(), newTokenList(), newTokenDelete())
	return cmd
}

// clusterFlags are the flags of verbs that work on a cluster.
type clusterFlags struct{ dir, kubeconfig *string }

func addClusterFlags(cmd *cobra.Command) clusterFlags {
	return clusterFlags{dataDirFlag(cmd), cmd.Flags().String("kubeconfig", "", "cluster to work on (default: that of --data-dir)")}
}

func (f clusterFlags) connect(mirror ...client.MirrorSpec) (*client.Remote, error) {
	return connect(*f.kubeconfig, *f.dir, "keb", slog.New(slog.DiscardHandler), mirror...)
}

func newTokenCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a join token and print it",
		Long: "Makes a token that machines join the cluster with (see `keb agent`). The cluster keeps only its hash: it is printed now and\n" +
			"never again. It says which server it is for, so that a machine shows it to no other.",
		Args: cobra.NoArgs,
	}
	flags := addClusterFlags(cmd)
	ttl := cmd.Flags().Duration("ttl", tokenTTL, "how long it is good; 0 for ever")
	description := cmd.Flags().String("description", "", "what it is for")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *ttl < 0 {
			return errUsage(cmd, fmt.Sprintf("--ttl is %s, want a time to come", *ttl))
		}
		config, err := restConfig(*flags.kubeconfig, *flags.dir)
		if err != nil {
			return err
		}
		hash, err := caHash(config)
		if err != nil {
			return err
		}
		remote, err := flags.connect()
		if err != nil {
			return err
		}
		c := client.New(remote, remote.Table())
		token := auth.NewJoinToken(hash)
		var expires time.Time
		if *ttl > 0 {
			expires = time.Now().Add(*ttl)
		}
		if _, err := client.Create(cmd.Context(), c, token.Secret(expires, *description)); err != nil {
			return fmt.Errorf("create token: %w", err)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "on the machine that joins: keb agent --server %s --token TOKEN\n", serverURL(cmd.Context(), c, config.Host))
		_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
		return err
	}
	return cmd
}

// caHash is the hash of the certificate authority of a kubeconfig, the first where it has more.
func caHash(c *rest.Config) (string, error) {
	if err := rest.LoadTLSFiles(c); err != nil {
		return "", fmt.Errorf("read the cluster's certificate authority: %w", err)
	}
	block, _ := pem.Decode(c.CAData)
	if block == nil {
		return "", errors.New("the kubeconfig has no certificate authority, by which machines could know the server")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("read the cluster's certificate authority: %w", err)
	}
	return pki.Hash(cert), nil
}

// serverURL is where other machines reach the API: what the Service kubernetes leads to, or else what the kubeconfig says.
func serverURL(ctx context.Context, c *client.Client, host string) string {
	slice, err := client.Get[*discoveryv1.EndpointSlice](ctx, c, metav1.NamespaceDefault, "kubernetes")
	if err != nil || len(slice.Endpoints) == 0 || len(slice.Endpoints[0].Addresses) == 0 || len(slice.Ports) == 0 || slice.Ports[0].Port == nil {
		return host
	}
	return "https://" + net.JoinHostPort(slice.Endpoints[0].Addresses[0], strconv.Itoa(int(*slice.Ports[0].Port)))
}

func newTokenList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the join tokens", Args: cobra.NoArgs}
	flags := addClusterFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		secrets, err := readAll[*corev1.Secret](cmd.Context(), flags, client.MirrorSpec{
			Resource: schema.GroupResource{Resource: "secrets"}, FieldSelector: "type=" + string(auth.JoinTokenType),
		})
		if err != nil {
			return fmt.Errorf("list tokens: %w", err)
		}
		t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
		fmt.Fprintln(t, "ID\tEXPIRES\tDESCRIPTION")
		for _, s := range secrets {
			if id := auth.JoinTokenID(s); id != "" && s.Namespace == metav1.NamespaceSystem {
				fmt.Fprintf(t, "%s\t%s\t%s\n", id, expiry(auth.JoinTokenExpiry(s), time.Now()), s.Data["description"])
			}
		}
		return t.Flush()
	}
	return cmd
}

func expiry(at, now time.Time) string {
	switch {
	case at.IsZero():
		return "never"
	case at.After(now):
		return "in " + duration.HumanDuration(at.Sub(now))
	}
	return duration.HumanDuration(now.Sub(at)) + " ago"
}

// readAll reads the objects that a mirror picks.
func readAll[T client.Object](ctx context.Context, flags clusterFlags, spec client.MirrorSpec) ([]T, error) {
	remote, err := flags.connect(spec)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- remote.Run(ctx) }()
	err = remote.WaitSynced(ctx)
	c := client.New(remote, remote.Table())
	all := client.List[T](c, c.Snapshot(), "", nil)
	cancel()
	return all, errors.Join(err, <-done)
}

// readTimeout bounds how long a verb waits for the server.
const readTimeout = 10 * time.Second

func newTokenDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete ID",
		Short: "Revoke a join token; machines that have joined with it stay",
		Args:  oneArg,
	}
	flags := addClusterFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id := args[0]
		if token, err := auth.ParseJoinToken(id); err == nil {
			id = token.ID // whoever has the whole token means its own
		}
		remote, err := flags.connect()
		if err != nil {
			return err
		}
		c := client.New(remote, remote.Table())
		err = client.Remove[*corev1.Secret](cmd.Context(), c, metav1.NamespaceSystem, auth.JoinTokenSecretName(id), metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("there is no token %s (see `keb token list`)", id)
		}
		if err != nil {
			return fmt.Errorf("delete token %s: %w", id, err)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "token %s is revoked\n", id)
		return err
	}
	return cmd
}
