// Package csi is the node's side of the Container Storage Interface: drivers that register over a socket, the volumes that they
// stage and publish for pods, and the relay by which the control plane reaches their controller service. daemon imports it.
package csi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// RelayPath is where a node's API serves a Relay.
const RelayPath = "/csi/"

// relayMost bounds a message, as gRPC does by default.
const relayMost = 4 << 20

// relayed are the services that the control plane may call; the node's own service is the agent's.
var relayed = map[protoreflect.FullName]bool{"csi.v1.Controller": true, "csi.v1.Identity": true}

// Relay lets the control plane call the drivers of this node: POST /csi/<driver>/<service>/<method>, with the request in
// protobuf. An error is answered as 500 with a google.rpc.Status.
type Relay struct {
	// Driver returns a connection to a driver, or an error when none of that name is registered.
	Driver func(name string) (grpc.ClientConnInterface, error)
}

// ServeHTTP implements http.Handler.
func (r *Relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	answer, err := r.call(req)
	w.Header().Set("Content-Type", "application/protobuf")
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		answer = status.Convert(err).Proto()
	}
	data, err := proto.Marshal(answer)
	if err != nil {
		return // a message that was just decoded
	}
	_, _ = w.Write(data) // whoever asked is gone, or reads it
}

func (r *Relay) call(req *http.Request) (proto.Message, error) {
	// The name of a provisioner may hold a slash.
	name := strings.TrimPrefix(req.URL.Path, RelayPath)
	at := strings.LastIndex(name, "/")
	at = strings.LastIndex(name[:max(at, 0)], "/")
	if at < 0 || req.Method != http.MethodPost {
		return nil, status.Error(codes.Unimplemented, "POST "+RelayPath+"<driver>/<service>/<method>")
	}
	driver, method := name[:at], name[at+1:]
	in, out, err := messages(method)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(req.Body, relayMost+1))
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	if len(body) > relayMost {
		return nil, status.Errorf(codes.ResourceExhausted, "message larger than %d bytes", relayMost)
	}
	if err := proto.Unmarshal(body, in); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	conn, err := r.Driver(driver)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return out, conn.Invoke(req.Context(), "/"+method, in, out)
}

// messages returns new messages of a method that may be relayed.
func messages(method string) (in, out proto.Message, err error) {
	service, name, _ := strings.Cut(method, "/")
	unknown := status.Errorf(codes.Unimplemented, "unknown method %s", method)
	if !relayed[protoreflect.FullName(service)] {
		return nil, nil, unknown
	}
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil, nil, unknown
	}
	m := found.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name))
	if m == nil || m.IsStreamingClient() || m.IsStreamingServer() {
		return nil, nil, unknown
	}
	made := func(d protoreflect.MessageDescriptor) proto.Message {
		t, findErr := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
		if findErr != nil {
			err = unknown
			return nil
		}
		return t.New().Interface()
	}
	in, out = made(m.Input()), made(m.Output())
	return in, out, err
}

// Dial returns a connection to a driver behind the Relay of a node's API. node is asked at each call.
func Dial(node func() (http.Handler, error), driver string) grpc.ClientConnInterface {
	return &remote{node: node, driver: driver}
}

type remote struct {
	node   func() (http.Handler, error)
	driver string
}

// Invoke implements grpc.ClientConnInterface.
func (r *remote) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	node, err := r.node()
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	body, err := proto.Marshal(args.(proto.Message))
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, RelayPath+r.driver+method, bytes.NewReader(body))
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	w := &answer{code: http.StatusOK}
	node.ServeHTTP(w, req)
	switch {
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case w.over:
		return status.Errorf(codes.ResourceExhausted, "answer larger than %d bytes", relayMost)
	case w.code == http.StatusOK:
		return proto.Unmarshal(w.body.Bytes(), reply.(proto.Message))
	case w.code == http.StatusNotFound:
		return status.Error(codes.Unimplemented, "the node has no volume drivers")
	case w.code == http.StatusInternalServerError:
		said := status.New(codes.Unknown, "").Proto()
		if err := proto.Unmarshal(w.body.Bytes(), said); err == nil && said.Code != 0 {
			return status.ErrorProto(said)
		}
	}
	return status.Errorf(codes.Unavailable, "node answers with %d: %.200s", w.code, w.body.String())
}

// NewStream implements grpc.ClientConnInterface. No method of CSI that is relayed streams.
func (r *remote) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.ErrUnsupported
}

// answer keeps what a handler writes, up to a bound.
type answer struct {
	code   int
	header http.Header
	body   bytes.Buffer
	over   bool
}

func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = http.Header{}
	}
	return a.header
}

func (a *answer) WriteHeader(code int) { a.code = code }

func (a *answer) Write(p []byte) (int, error) {
	if a.body.Len()+len(p) > relayMost {
		a.over = true
		return 0, fmt.Errorf("more than %d bytes", relayMost)
	}
	return a.body.Write(p)
}

// InProcess returns a connection to a driver that lives in this process.
func InProcess(service *grpc.ServiceDesc, server any) grpc.ClientConnInterface {
	return &inProcess{service, server}
}

type inProcess struct {
	service *grpc.ServiceDesc
	server  any
}

// Invoke implements grpc.ClientConnInterface.
func (p *inProcess) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	for _, m := range p.service.Methods {
		if method != "/"+p.service.ServiceName+"/"+m.MethodName {
			continue
		}
		out, err := m.Handler(p.server, ctx, func(in any) error {
			proto.Merge(in.(proto.Message), args.(proto.Message))
			return nil
		}, nil)
		if err != nil {
			return err
		}
		proto.Merge(reply.(proto.Message), out.(proto.Message))
		return nil
	}
	return status.Errorf(codes.Unimplemented, "unknown method %s", method)
}

// NewStream implements grpc.ClientConnInterface.
func (p *inProcess) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.ErrUnsupported
}
