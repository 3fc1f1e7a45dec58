package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/kebernetes/kebernetes/daemon"
)

func newSecrets() *cobra.Command {
	cmd := &cobra.Command{Use: "secrets", Short: "Work with the encryption of Secrets on disk"}
	cmd.AddCommand(newRotateKey())
	return cmd
}

func newRotateKey() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate-key",
		Short: "Encrypt all Secrets on disk with a new key",
		Long: "Makes a new key, encrypts all Secrets with it and forgets older keys as soon as the log's history, which they\n" +
			"still open, has passed. The server keeps running; backups that were made before keep their own keys.",
		Args: cobra.NoArgs,
	}
	dir := dataDirFlag(cmd)
	kubeconfig := cmd.Flags().String("kubeconfig", "", "cluster to work on (default: that of --data-dir)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := restConfig(*kubeconfig, *dir)
		if err != nil {
			return err
		}
		if err := post(cmd.Context(), c, daemon.RotateKeyPath); err != nil {
			return fmt.Errorf("rotate key: %w", err)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "secrets are encrypted with a new key")
		return err
	}
	return cmd
}

// answerLimit bounds what is read of an answer that tells of an error.
const answerLimit = 64 << 10

// post asks the API server for one of keb's own actions.
func post(ctx context.Context, c *rest.Config, path string) error {
	h, err := rest.HTTPClientFor(c)
	if err != nil {
		return err
	}
	rq, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Host+path, nil)
	if err != nil {
		return err
	}
	answer, err := h.Do(rq)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusNoContent {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerLimit))
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(text)))
}
