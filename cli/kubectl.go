package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kebernetes/kebernetes/bundle"
	"github.com/kebernetes/kebernetes/config"
	"github.com/kebernetes/kebernetes/daemon"
)

func newKubectl() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [ARGS]",
		Short: "Run the bundled kubectl against this machine's cluster",
		Long: "Runs upstream's kubectl. It is pointed at the cluster of this machine unless --kubeconfig or $KUBECONFIG says\n" +
			"otherwise. A cluster in another data directory is found by $KEB_DATA_DIR.",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			return execKubectl(args)
		},
	}
}

// execKubectl replaces this process by kubectl.
func execKubectl(args []string) error {
	dir, err := kubectlDir()
	if err != nil {
		return err
	}
	if err := bundle.Unpack(dir, bundle.Kubectl); err != nil {
		return err
	}
	if os.Getenv("KUBECONFIG") == "" && !hasFlag(args, "--kubeconfig") {
		file := daemon.AdminKubeconfig(dataDir())
		if _, err := os.Stat(file); err == nil {
			if err := os.Setenv("KUBECONFIG", file); err != nil {
				return err
			}
		}
	}
	path := filepath.Join(dir, bundle.Kubectl)
	return fmt.Errorf("run %s: %w", path, syscall.Exec(path, append([]string{"kubectl"}, args...), os.Environ()))
}

// dataDir is the data directory of verbs that are told of none.
func dataDir() string {
	if dir := os.Getenv("KEB_DATA_DIR"); dir != "" {
		if absolute, err := filepath.Abs(dir); err == nil {
			dir = absolute
		}
		return dir
	}
	return config.DefaultDataDir
}

// kubectlDir is where kubectl is unpacked: beside the other executables for root, in the user's cache for others.
func kubectlDir() (string, error) {
	if os.Geteuid() == 0 {
		return filepath.Join(dataDir(), "bin"), nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a place for kubectl: %w", err)
	}
	return filepath.Join(cache, "keb", "bin"), nil
}

func hasFlag(args []string, name string) bool {
	return slices.ContainsFunc(args, func(a string) bool { return a == name || strings.HasPrefix(a, name+"=") })
}
