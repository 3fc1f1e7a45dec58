// Package archive puts image archives (OCI layout or docker save) into containerd's image store. The CRI has no call for
// that, so this speaks containerd's own transfer API, of which it links only the generated messages.
// daemon and cli may import it.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/transfer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	// namespace is containerd's, where its CRI plugin keeps the images that pods use.
	namespace = "k8s.io"
	// chunk is how much data one message carries; containerd's own clients send as much.
	chunk = 32 << 10
)

// Import reads an image archive, stores its images under the names that it carries, unpacked for snapshotter, and returns those names.
// endpoint is containerd's unix socket. It returns an error when the archive is damaged or names no image.
// The runtime's CRI side hears of them a moment later.
func Import(ctx context.Context, endpoint, snapshotter string, tar io.Reader) ([]string, error) {
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	defer conn.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, "containerd-namespace", namespace)
	start := time.Now()
	if err := transferIn(ctx, conn, snapshotter, tar); err != nil {
		return nil, err
	}
	return written(ctx, conn, start)
}

// written lists the names of the images that were stored, for the first time or anew, since a point in time.
func written(ctx context.Context, conn *grpc.ClientConn, since time.Time) ([]string, error) {
	list, err := imagesapi.NewImagesClient(conn).List(ctx, &imagesapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list imported images: %w", err)
	}
	var names []string
	for _, i := range list.Images {
		// The CRI side keeps an entry by digest beside each name.
		if !strings.HasPrefix(i.Name, "sha256:") && !i.UpdatedAt.AsTime().Before(since) {
			names = append(names, i.Name)
		}
	}
	return names, nil
}

// transferIn moves an archive into containerd's image store.
func transferIn(ctx context.Context, conn *grpc.ClientConn, snapshotter string, tar io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	id := fmt.Sprintf("keb-import-%d", time.Now().UnixNano())
	stream, err := open(ctx, conn, id)
	if err != nil {
		return fmt.Errorf("open import stream: %w", err)
	}
	sent := make(chan error, 1)
	go func() { sent <- send(stream, tar) }()
	platform := &types.Platform{OS: "linux", Architecture: runtime.GOARCH}
	source, err := pack(&transfer.ImageImportStream{Stream: id})
	if err != nil {
		return err
	}
	target, err := pack(&transfer.ImageStore{
		Platforms: []*types.Platform{platform},
		// Images take the full names that the archive's annotations give; the prefix is for bare tags.
		ExtraReferences: []*transfer.ImageReference{{Name: "localhost/import", IsPrefix: true, AllowOverwrite: true}},
		Unpacks:         []*transfer.UnpackConfiguration{{Platform: platform, Snapshotter: snapshotter}},
	})
	if err != nil {
		return err
	}
	_, err = transferapi.NewTransferClient(conn).Transfer(ctx, &transferapi.TransferRequest{Source: source, Destination: target})
	cancel()
	if sendErr := <-sent; err == nil && sendErr != nil && ctx.Err() == nil {
		err = sendErr
	}
	if err != nil {
		return fmt.Errorf("import image archive: %w", err)
	}
	return nil
}

// open makes a named stream on containerd's side and waits until it is there.
func open(ctx context.Context, conn *grpc.ClientConn, id string) (grpc.BidiStreamingClient[anypb.Any, anypb.Any], error) {
	stream, err := streamingapi.NewStreamingClient(conn).Stream(ctx)
	if err != nil {
		return nil, err
	}
	hello, err := pack(&streamingapi.StreamInit{ID: id})
	if err != nil {
		return nil, err
	}
	if err := stream.Send(hello); err != nil {
		return nil, err
	}
	_, err = stream.Recv()
	return stream, err
}

// send feeds the archive to containerd, no more at a time than it asked for by window updates.
func send(stream grpc.BidiStreamingClient[anypb.Any, anypb.Any], tar io.Reader) error {
	defer stream.CloseSend()
	var window int32
	buf := make([]byte, chunk)
	for {
		for window <= 0 {
			msg, err := stream.Recv()
			if err != nil {
				return ended(err)
			}
			var update transfer.WindowUpdate
			if err := proto.Unmarshal(msg.Value, &update); err != nil {
				return fmt.Errorf("read window update: %w", err)
			}
			window += update.Update
		}
		n, err := tar.Read(buf[:min(chunk, int(window))])
		if n > 0 {
			msg, packErr := pack(&transfer.Data{Data: buf[:n]})
			if packErr != nil {
				return packErr
			}
			if sendErr := stream.Send(msg); sendErr != nil {
				return ended(sendErr)
			}
			window -= int32(n)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
	}
}

// ended drops the error of a stream that the other side closed: the transfer's own answer says why.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// pack wraps a message as containerd expects it: with the bare type name, without the host part that anypb.New adds.
func pack(m proto.Message) (*anypb.Any, error) {
	value, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: value}, nil
}
