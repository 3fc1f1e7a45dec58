package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

const (
	protobufType = "application/vnd.kubernetes.protobuf"
	jsonType     = "application/json"
	// callTimeout bounds one request that is no watch.
	callTimeout = 30 * time.Second
	// maxAnswer bounds what is read of one answer, far above the largest object that the API takes.
	maxAnswer = 16 << 20
)

// openingMost is how many watches are opened at a time. A connection takes a hundred of them; when it is full, each of those that wait
// for the next one would make a connection of its own.
const openingMost = 4

// RemoteOptions say which server a Remote speaks to and as whom. Server, TLS and Table are required.
type RemoteOptions struct {
	Server string      // "https://host:port"
	TLS    *tls.Config // the server's CA, and the client certificate where there is one
	Token  string      // bearer token; empty with a client certificate
	Agent  string      // User-Agent: names the component in managed fields
	Table  *kinds.Table
	Mirror []MirrorSpec
	// Dial opens connections; nil means net.Dialer's.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Logger *slog.Logger
}

// Remote is a Transport over HTTPS to a server in another process. Reads of the resources that it mirrors come from memory;
// Run keeps them fresh, each by one watch, and single objects that are followed, each by one watch, too.
type Remote struct {
	o       RemoteOptions
	http    *http.Client
	codec   *protobuf.Serializer
	memory  *store.Memory
	mirrors map[string]*mirror
	follows follows
	reached signal        // that a watch was answered
	opening chan struct{} // holds a token for each watch that is being opened
	newest  atomic.Int64  // the newest revision of the server that the copies, or the answer to a write, have shown
}

var _ Transport = (*Remote)(nil)

// How long until a server that does not answer is given up: to shake hands, and, while a watch is quiet, to return a ping,
// which is sent as often as client-go does.
const (
	handshakeTimeout = 10 * time.Second
	pingAfter        = 30 * time.Second
	pingTimeout      = 15 * time.Second
)

// NewRemote returns a transport; it connects when first used. It panics when a mirrored resource is not in the table, or its
// selector is none: a programmer's mistake.
func NewRemote(o RemoteOptions) *Remote {
	r := &Remote{
		o: o,
		http: &http.Client{Transport: &http.Transport{
			TLSClientConfig: o.TLS, DialContext: o.Dial, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64, TLSHandshakeTimeout: handshakeTimeout,
			HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		}},
		codec:   protobuf.NewSerializer(o.Table.Scheme(), o.Table.Scheme()),
		memory:  store.NewMemory(0),
		mirrors: map[string]*mirror{},
		opening: make(chan struct{}, openingMost),
		follows: follows{slots: make(chan struct{}, followMost), entries: map[followKey]*follow{}},
	}
	for _, spec := range o.Mirror {
		r.mirrors[spec.Resource.String()] = newMirror(r, spec)
	}
	return r
}

// Table is the set of kinds that the transport can carry.
func (r *Remote) Table() *kinds.Table { return r.o.Table }

// Name is the component's name.
func (r *Remote) Name() string { return "mirror" }

// Run keeps the mirrored resources fresh until ctx is done.
func (r *Remote) Run(ctx context.Context) error {
	defer r.memory.Close()
	defer r.http.CloseIdleConnections()
	var g errgroup.Group
	for _, m := range r.mirrors {
		g.Go(func() error { m.run(ctx); return nil })
	}
	r.follows.follow(ctx)
	return g.Wait()
}

// WaitSynced waits until every mirrored resource has been read once.
func (r *Remote) WaitSynced(ctx context.Context) error {
	for resource, m := range r.mirrors {
		select {
		case <-m.synced:
		case <-ctx.Done():
			return fmt.Errorf("read %s from %s: %w", resource, r.o.Server, ctx.Err())
		}
	}
	return nil
}

// Snapshot is the mirrored state.
func (r *Remote) Snapshot() store.Snapshot { return r.memory.Snapshot() }

// Watch is a cursor over the mirrored events. Its revisions are this process's own count.
func (r *Remote) Watch(resource string, after int64) (*store.Watch, error) {
	return r.memory.Watch(resource, after)
}

// Mirrors says whether the resource is mirrored.
func (r *Remote) Mirrors(resource string) bool { return r.mirrors[resource] != nil }

// path is the URL of a resource, object or subresource.
func (r *Remote) path(k *kinds.Kind, namespace, name, subresource string) string {
	var b strings.Builder
	b.WriteString(r.o.Server)
	if k.Group == "" {
		b.WriteString("/api/")
	} else {
		b.WriteString("/apis/" + k.Group + "/")
	}
	b.WriteString(k.Storage().Name)
	if k.Namespaced && namespace != "" {
		b.WriteString("/namespaces/" + url.PathEscape(namespace))
	}
	b.WriteString("/" + k.Resource)
	for _, part := range []string{name, subresource} {
		if part != "" {
			b.WriteString("/" + url.PathEscape(part))
		}
	}
	return b.String()
}

func (r *Remote) request(ctx context.Context, method, target, contentType string, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", r.o.Agent)
	req.Header.Set("Accept", protobufType+","+jsonType)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if r.o.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.o.Token)
	}
	return req, nil
}

// call sends a request and decodes the answer.
func (r *Remote) call(ctx context.Context, method, target, contentType string, body []byte) (Object, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := r.request(ctx, method, target, contentType, body)
	if err != nil {
		return nil, err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusMultipleChoices {
		return nil, readStatus(resp)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, req.URL.Path, err)
	}
	out, _, err := r.codec.Decode(data, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("%s %s: decode answer: %w", method, req.URL.Path, err)
	}
	obj, _ := out.(Object) // nil for a Status, the answer of a deletion
	return obj, nil
}

// readStatus turns an answer that is no success into the error that it carries.
func readStatus(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	var status metav1.Status
	if bytes.HasPrefix(data, []byte("k8s\x00")) {
		var unknown runtime.Unknown
		if unknown.Unmarshal(data[4:]) == nil && status.Unmarshal(unknown.Raw) == nil && status.Code != 0 {
			return &apierrors.StatusError{ErrStatus: status}
		}
	}
	if json.Unmarshal(data, &status) == nil && status.Status == metav1.StatusFailure {
		return &apierrors.StatusError{ErrStatus: status}
	}
	return fmt.Errorf("%s %s: %s", resp.Request.Method, resp.Request.URL.Path, resp.Status)
}

func (r *Remote) encode(k *kinds.Kind, obj Object) ([]byte, error) {
	obj.GetObjectKind().SetGroupVersionKind(r.gvk(k, obj))
	var b bytes.Buffer
	if err := r.codec.Encode(obj, &b); err != nil {
		return nil, fmt.Errorf("encode %s: %w", obj.GetName(), err)
	}
	return b.Bytes(), nil
}

// gvk names the object's type: the kind's own, or that of a body (Binding, Eviction).
func (r *Remote) gvk(k *kinds.Kind, obj Object) schema.GroupVersionKind {
	if gvks, _, err := r.o.Table.Scheme().ObjectKinds(obj); err == nil {
		return gvks[0]
	}
	return schema.GroupVersionKind{Group: k.Group, Version: k.Storage().Name, Kind: k.Kind}
}

// Get reads one object from the server, or, where it is followed, what is at least as new as all that this process was shown.
func (r *Remote) Get(ctx context.Context, k *kinds.Kind, namespace, name string) (Object, error) {
	if f := r.followed(k, namespace, name); f != nil {
		return f.get(ctx)
	}
	return r.read(ctx, k, namespace, name)
}

// Create creates an object.
func (r *Remote) Create(ctx context.Context, k *kinds.Kind, obj Object, opts metav1.CreateOptions) (Object, error) {
	body, err := r.encode(k, obj)
	if err != nil {
		return nil, err
	}
	q := query(opts.DryRun, opts.FieldManager, nil)
	return r.shown(ctx, k)(r.call(ctx, http.MethodPost, r.path(k, obj.GetNamespace(), "", "")+q, protobufType, body))
}

// Update replaces an object, or a subresource of it.
func (r *Remote) Update(ctx context.Context, k *kinds.Kind, subresource string, obj Object, opts metav1.UpdateOptions) (Object, error) {
	body, err := r.encode(k, obj)
	if err != nil {
		return nil, err
	}
	q := query(opts.DryRun, opts.FieldManager, nil)
	return r.shown(ctx, k)(r.call(ctx, http.MethodPut, r.path(k, obj.GetNamespace(), obj.GetName(), subresource)+q, protobufType, body))
}

// Patch patches an object, or a subresource of it.
func (r *Remote) Patch(ctx context.Context, k *kinds.Kind, namespace, name, subresource string, pt types.PatchType, patch []byte, opts metav1.PatchOptions) (Object, error) {
	q := query(opts.DryRun, opts.FieldManager, opts.Force)
	return r.shown(ctx, k)(r.call(ctx, http.MethodPatch, r.path(k, namespace, name, subresource)+q, string(pt), patch))
}

// Delete deletes an object.
func (r *Remote) Delete(ctx context.Context, k *kinds.Kind, namespace, name string, opts metav1.DeleteOptions) error {
	opts.APIVersion, opts.Kind = "v1", "DeleteOptions"
	body, err := json.Marshal(opts)
	if err != nil {
		return fmt.Errorf("encode delete options: %w", err)
	}
	ended := r.ended(ctx, k, namespace, name)
	_, err = r.shown(ctx, k)(r.call(ctx, http.MethodDelete, r.path(k, namespace, name, ""), jsonType, body))
	if err == nil && len(opts.DryRun) == 0 {
		ended()
	}
	return err
}

// Post sends a body to a subresource.
func (r *Remote) Post(ctx context.Context, k *kinds.Kind, namespace, name, subresource string, body Object) (Object, error) {
	data, err := r.encode(k, body)
	if err != nil {
		return nil, err
	}
	ended := r.ended(ctx, k, namespace, name)
	out, err := r.call(ctx, http.MethodPost, r.path(k, namespace, name, subresource), protobufType, data)
	if e, ok := body.(*policyv1.Eviction); ok && err == nil && (e.DeleteOptions == nil || len(e.DeleteOptions.DryRun) == 0) {
		ended()
	}
	return out, err
}

// bindAtOnce is how many bindings are under way at a time.
const bindAtOnce = 32

// Bind binds pods to nodes, each by a request of its own.
func (r *Remote) Bind(ctx context.Context, bindings []*corev1.Binding) []error {
	errs := make([]error, len(bindings))
	k := KindOf[*corev1.Pod](&Client{Transport: r, table: r.o.Table})
	var g errgroup.Group
	g.SetLimit(bindAtOnce)
	for i, b := range bindings {
		g.Go(func() error {
			if _, errs[i] = r.Post(ctx, k, b.Namespace, b.Name, "binding", b); errs[i] == nil {
				r.bound(ctx, k, b)
			}
			return nil
		})
	}
	return append(errs, g.Wait())[:len(bindings)]
}

func query(dryRun []string, manager string, force *bool) string {
	q := url.Values{}
	for _, d := range dryRun {
		q.Add("dryRun", d)
	}
	if manager != "" {
		q.Set("fieldManager", manager)
	}
	if force != nil && *force {
		q.Set("force", "true")
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// IsUnreachable says that the server could not be asked at all, in contrast to an answer that says no.
func IsUnreachable(err error) bool {
	var u *url.Error
	return errors.As(err, &u)
}
