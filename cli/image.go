package cli

import (
	"context"
	"errors"
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
	cmd := &cobra.Command{Use: "image", Short: "Import, list, pull and remove container images of this node, or of all nodes of a cluster of `keb up`"}
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
		file, err := openArchive(cmd.InOrStdin(), args[0], *dir)
		if err != nil {
			return err
		}
		defer file.Close()
		return onNodes(cmd.Context(), *dir, func(n runtimeNode, r cri.Runtime) error {
			if _, err := file.Seek(0, io.SeekStart); err != nil && n.cluster {
				return fmt.Errorf("read %s once more: %w", args[0], err)
			}
			names, err := archive.Import(cmd.Context(), daemon.RuntimeEndpoint(n.dir), daemon.Snapshotter(n.dir), file)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			for _, name := range names {
				if err := awaitImage(cmd.Context(), r, name); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "imported %s%s\n", name, n.suffix())
			}
			return nil
		})
	}
	return cmd
}

// openArchive opens an archive. One from a pipe is kept in a file without a name where several nodes are to read it.
func openArchive(stdin io.Reader, name, dir string) (*os.File, error) {
	if name != "-" {
		return os.Open(name)
	}
	nodes, err := daemon.LocalNodes(dir)
	if err != nil {
		return nil, err
	}
	if in, ok := stdin.(*os.File); ok && len(nodes) == 0 {
		return in, nil
	}
	f, err := os.CreateTemp("", "keb-image-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := io.Copy(f, stdin); err != nil {
		return nil, errors.Join(fmt.Errorf("read the archive: %w", err), f.Close())
	}
	return f, nil
}

func newImageList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the images of this node", Args: cobra.NoArgs}
	dir := dataDirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
		nodes, err := daemon.LocalNodes(*dir)
		if err != nil {
			return err
		}
		header := "IMAGE\tID\tSIZE"
		if len(nodes) > 0 {
			header = "NODE\t" + header
		}
		fmt.Fprintln(t, header)
		err = onNodes(cmd.Context(), *dir, func(n runtimeNode, r cri.Runtime) error {
			images, err := r.ListImages(cmd.Context())
			for _, i := range images {
				printImage(t, n, i)
			}
			return err
		})
		return errors.Join(err, t.Flush())
	}
	return cmd
}

func printImage(out io.Writer, n runtimeNode, i *rt.Image) {
	names := i.RepoTags
	if len(names) == 0 {
		names = append(i.RepoDigests, "<none>")[:1]
	}
	for _, name := range names {
		if n.cluster {
			fmt.Fprintf(out, "%s\t", n.name)
		}
		fmt.Fprintf(out, "%s\t%.12s\t%.1f MB\n", name, strings.TrimPrefix(i.Id, "sha256:"), float64(i.Size)/1e6)
	}
}

func newImagePull() *cobra.Command {
	cmd := &cobra.Command{Use: "pull IMAGE", Short: "Fetch an image from its registry", Args: oneArg}
	dir := dataDirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return onNodes(cmd.Context(), *dir, func(n runtimeNode, r cri.Runtime) error {
			ref, err := r.PullImage(cmd.Context(), &rt.ImageSpec{Image: args[0]}, nil, nil)
			if err != nil {
				return fmt.Errorf("pull %s: %w", args[0], err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "pulled %s%s\n", ref, n.suffix())
			return err
		})
	}
	return cmd
}

func newImageRemove() *cobra.Command {
	cmd := &cobra.Command{Use: "remove IMAGE", Short: "Remove an image from this node", Args: oneArg}
	dir := dataDirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		spec, found := &rt.ImageSpec{Image: args[0]}, false
		err := onNodes(cmd.Context(), *dir, func(_ runtimeNode, r cri.Runtime) error {
			image, err := r.ImageStatus(cmd.Context(), spec)
			if err != nil {
				return fmt.Errorf("find %s: %w", args[0], err)
			}
			if image == nil {
				return nil
			}
			found = true
			if err := r.RemoveImage(cmd.Context(), spec); err != nil {
				return fmt.Errorf("remove %s: %w", args[0], err)
			}
			return nil
		})
		if err == nil && !found {
			err = fmt.Errorf("image %s is not here (see `keb image list`)", args[0])
		}
		return err
	}
	return cmd
}

// runtimeNode is a node whose container runtime a verb calls: the one of a data directory, or one of a cluster of `keb up`.
type runtimeNode struct {
	name, dir string
	cluster   bool
}

// suffix says which node a line is about, where there are several.
func (n runtimeNode) suffix() string {
	if !n.cluster {
		return ""
	}
	return " on " + n.name
}

// onNodes calls f for every node of this machine's cluster, one after the other, until one fails.
func onNodes(ctx context.Context, dir string, f func(runtimeNode, cri.Runtime) error) error {
	cluster, err := daemon.LocalNodes(dir)
	if err != nil {
		return err
	}
	nodes := []runtimeNode{{dir: dir}}
	if len(cluster) > 0 {
		nodes = nil
	}
	for _, n := range cluster {
		nodes = append(nodes, runtimeNode{n.Name, n.DataDir, true})
	}
	for _, n := range nodes {
		if err := withRuntime(ctx, n, func(r cri.Runtime) error { return f(n, r) }); err != nil {
			return err
		}
	}
	return nil
}

// runtimeWait is how long a verb waits for the runtime's answer before it says that there is none.
const runtimeWait = 5 * time.Second

// withRuntime calls f with a node's container runtime.
func withRuntime(ctx context.Context, n runtimeNode, f func(cri.Runtime) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	endpoint := daemon.RuntimeEndpoint(n.dir)
	r, err := cri.Connect(ctx, endpoint)
	if err != nil {
		return err
	}
	answer, done := context.WithTimeout(ctx, runtimeWait)
	defer done()
	if _, err := r.Version(answer); err != nil && n.cluster {
		return fmt.Errorf("%s has no container runtime that answers; `keb up` starts it", n.name)
	} else if err != nil {
		return fmt.Errorf("no container runtime answers at %s: is `keb server` running with this --data-dir?", endpoint)
	}
	return f(r)
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
