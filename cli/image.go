package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/cri"
	"github.com/kebernetes/kebernetes/cri/archive"
	"github.com/kebernetes/kebernetes/daemon"
)

func newImage() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Import, list, pull and remove container images of this node"}
	cmd.AddCommand(newImageImport(), newImageList(), newImagePull(), newImageRemove())
	return cmd
}

func newImageImport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import FILE.tar",
		Short: "Store the images of an archive (OCI layout or docker save; - reads standard input)",
		Args:  oneArg,
	}
	dir := dataDirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var in io.Reader = cmd.InOrStdin()
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		return withRuntime(cmd.Context(), *dir, func(r cri.Runtime) error {
			names, err := archive.Import(cmd.Context(), daemon.RuntimeEndpoint(*dir), daemon.Snapshotter(*dir), in)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			for _, name := range names {
				if err := awaitImage(cmd.Context(), r, name); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), "imported", name)
			}
			return nil
		})
	}
	return cmd
}

func newImageList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the images of this node", Args: cobra.NoArgs}
	dir := dataDirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		images, err := listImages(cmd.Context(), *dir)
		if err != nil {
			return err
		}
		t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
		fmt.Fprintln(t, "IMAGE\tID\tSIZE")
		for _, i := range images {
			id := strings.TrimPrefix(i.Id, "sha256:")
			names := i.RepoTags
			if len(names) == 0 {
				names = append(i.RepoDigests, "<none>")[:1]
			}
			for _, name := range names {
				fmt.Fprintf(t, "%s\t%.12s\t%.1f MB\n", name, id, float64(i.Size)/1e6)
			}
		}
		return t.Flush()
	}
	return cmd
}

func newImagePull() *cobra.Command {
	cmd := &cobra.Command{Use: "pull IMAGE", Short: "Fetch an image from its registry", Args: oneArg}
	dir := dataDirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withRuntime(cmd.Context(), *dir, func(r cri.Runtime) error {
			ref, err := r.PullImage(cmd.Context(), &rt.ImageSpec{Image: args[0]}, nil, nil)
			if err != nil {
				return fmt.Errorf("pull %s: %w", args[0], err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "pulled", ref)
			return err
		})
	}
	return cmd
}

func newImageRemove() *cobra.Command {
	cmd := &cobra.Command{Use: "remove IMAGE", Short: "Remove an image from this node", Args: oneArg}
	dir := dataDirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withRuntime(cmd.Context(), *dir, func(r cri.Runtime) error {
			spec := &rt.ImageSpec{Image: args[0]}
			image, err := r.ImageStatus(cmd.Context(), spec)
			if err != nil {
				return fmt.Errorf("find %s: %w", args[0], err)
			}
			if image == nil {
				return fmt.Errorf("image %s is not on this node (see `keb image list`)", args[0])
			}
			if err := r.RemoveImage(cmd.Context(), spec); err != nil {
				return fmt.Errorf("remove %s: %w", args[0], err)
			}
			return nil
		})
	}
	return cmd
}

// runtimeWait is how long a verb waits for the runtime's answer before it says that there is none.
const runtimeWait = 5 * time.Second

// withRuntime calls f with the container runtime of the node in dir.
func withRuntime(ctx context.Context, dir string, f func(cri.Runtime) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	endpoint := daemon.RuntimeEndpoint(dir)
	r, err := cri.Connect(ctx, endpoint)
	if err != nil {
		return err
	}
	answer, done := context.WithTimeout(ctx, runtimeWait)
	defer done()
	if _, err := r.Version(answer); err != nil {
		return fmt.Errorf("no container runtime answers at %s: is `keb server` running with this --data-dir?", endpoint)
	}
	return f(r)
}

func listImages(ctx context.Context, dir string) (images []*rt.Image, err error) {
	err = withRuntime(ctx, dir, func(r cri.Runtime) error {
		images, err = r.ListImages(ctx)
		return err
	})
	return images, err
}

// awaitImage waits until pods can use an imported image: the CRI side of the runtime learns of it by an event.
func awaitImage(ctx context.Context, r cri.Runtime, name string) error {
	ctx, cancel := context.WithTimeout(ctx, runtimeWait)
	defer cancel()
	for {
		image, err := r.ImageStatus(ctx, &rt.ImageSpec{Image: name})
		if err != nil {
			return fmt.Errorf("find imported image %s: %w", name, err)
		}
		if image != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("image %s was imported, but the runtime does not show it to pods", name)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
