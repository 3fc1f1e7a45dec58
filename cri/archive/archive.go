// Package archive puts image archives (OCI layout or docker save) into containerd's image store. The CRI has no call for
// that, so this speaks containerd's own transfer API, of which it links only the generated messages.
// daemon and cli may import it.
package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

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
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	id := fmt.Sprintf("keb-import-%d", time.Now().UnixNano())
	stream, err := open(ctx, conn, id)
	if err != nil {
		return nil, fmt.Errorf("open import stream: %w", err)
	}
	progress, err := open(ctx, conn, id+"-progress")
	if err != nil {
		return nil, fmt.Errorf("open import stream: %w", err)
	}
	sent := make(chan error, 1)
	go func() { sent <- send(stream, tar) }()
	saved := make(chan []string, 1)
	go func() { saved <- savedNames(progress) }()
	platform := &types.Platform{OS: "linux", Architecture: runtime.GOARCH}
	source, err := pack(&transfer.ImageImportStream{Stream: id})
	if err != nil {
		return nil, err
	}
	target, err := pack(&transfer.ImageStore{
		Platforms: []*types.Platform{platform},
		// Images take the full names that the archive's annotations give; the prefix is for bare tags.
		ExtraReferences: []*transfer.ImageReference{{Name: "localhost/import", IsPrefix: true, AllowOverwrite: true}},
		Unpacks:         []*transfer.UnpackConfiguration{{Platform: platform, Snapshotter: snapshotter}},
	})
	if err != nil {
		return nil, err
	}
	_, err = transferapi.NewTransferClient(conn).Transfer(ctx, &transferapi.TransferRequest{Source: source, Destination: target,
		Options: &transferapi.TransferOptions{ProgressStream: id + "-progress"}})
	if err != nil {
		select {
		case sendErr := <-sent:
			err = cmp.Or(sendErr, err) // an archive that could not be read is why containerd could not use it
		default: // it may wait for more of an archive that nobody wants any more
		}
		return nil, fmt.Errorf("import image archive: %w", err)
	}
	return <-saved, nil // containerd ends the stream with the transfer
}

// savedNames collects the names of the images that containerd reports as stored, until the stream ends.
func savedNames(stream grpc.BidiStreamingClient[anypb.Any, anypb.Any]) []string {
	var names []string
	for {
		msg, err := stream.Recv()
		if err != nil {
			return names
		}
		var p transfer.Progress
		if proto.Unmarshal(msg.Value, &p) == nil && p.Event == "saved" {
			names = append(names, p.Name)
		}
	}
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
