package spec

import (
	"context"
	"fmt"
	"net"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/volume/downward"
)

// Sources is where references are read; see volume.Objects.
type Sources interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Allocatable() corev1.ResourceList
}

// Environment returns the environment of a container. services are those of the pod's namespace and "kubernetes" of default; the
// pod's status holds its addresses. Errors are what the container waits for, in upstream's words.
func Environment(ctx context.Context, pod *corev1.Pod, c *corev1.Container, services []*corev1.Service, src Sources) ([]*rt.KeyValue, error) {
	values := map[string]string{}
	for _, from := range c.EnvFrom {
		if err := all(ctx, pod.Namespace, from, src, values); err != nil {
			return nil, err
		}
	}
	links := Services(pod, services)
	lookup := func(name string) (string, bool) {
		if v, ok := values[name]; ok {
			return v, true
		}
		v, ok := links[name]
		return v, ok
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			values[e.Name] = Expand(e.Value, lookup)
			continue
		}
		v, there, err := one(ctx, pod, c, e.ValueFrom, src)
		if err != nil {
			return nil, err
		}
		if there {
			values[e.Name] = v
		}
	}
	for k, v := range links {
		if _, ok := values[k]; !ok {
			values[k] = v
		}
	}
	names := make([]string, 0, len(values))
	for k := range values {
		names = append(names, k)
	}
	sort.Strings(names)
	out := make([]*rt.KeyValue, len(names))
	for i, k := range names {
		out[i] = &rt.KeyValue{Key: k, Value: []byte(values[k])}
	}
	return out, nil
}

// all puts every key of a ConfigMap or Secret into values.
func all(ctx context.Context, namespace string, from corev1.EnvFromSource, src Sources, values map[string]string) error {
	switch {
	case from.ConfigMapRef != nil:
		cm, err := src.ConfigMap(ctx, namespace, from.ConfigMapRef.Name)
		if err != nil {
			return absent(err, "configmap", from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
		}
		for k, v := range cm.Data {
			values[from.Prefix+k] = v
		}
	case from.SecretRef != nil:
		s, err := src.Secret(ctx, namespace, from.SecretRef.Name)
		if err != nil {
			return absent(err, "secret", from.SecretRef.Name, from.SecretRef.Optional)
		}
		for k, v := range s.Data {
			values[from.Prefix+k] = string(v)
		}
	}
	return nil
}

// absent forgives a missing object that is optional.
func absent(err error, kind, name string, optional *bool) error {
	if !apierrors.IsNotFound(err) {
		return err
	}
	if optional != nil && *optional {
		return nil
	}
	return fmt.Errorf("%s %q not found", kind, name)
}

// one resolves a valueFrom; there is false for optional references to nothing.
func one(ctx context.Context, pod *corev1.Pod, c *corev1.Container, from *corev1.EnvVarSource, src Sources) (value string, there bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = downward.Field(pod, from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err = downward.Resource(pod, c.Name, from.ResourceFieldRef, src.Allocatable())
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		optional := ref.Optional != nil && *ref.Optional
		cm, err := src.ConfigMap(ctx, pod.Namespace, ref.Name)
		if err != nil {
			return "", false, absent(err, "configmap", ref.Name, ref.Optional)
		}
		if v, ok := cm.Data[ref.Key]; ok {
			return v, true, nil
		}
		if optional {
			return "", false, nil
		}
		return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		optional := ref.Optional != nil && *ref.Optional
		s, err := src.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			return "", false, absent(err, "secret", ref.Name, ref.Optional)
		}
		if v, ok := s.Data[ref.Key]; ok {
			return string(v), true, nil
		}
		if optional {
			return "", false, nil
		}
		return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
	}
	return "", false, fmt.Errorf("the source of this environment variable is not supported by this node")
}

// Expand replaces $(NAME) by the variable's value; what lookup does not know stays as it is, and $$ stands for $.
func Expand(s string, lookup func(string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				b.WriteString("$(")
				i++
				continue
			}
			name := s[i+2 : i+2+end]
			if v, ok := lookup(name); ok {
				b.WriteString(v)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += 2 + end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// Services returns the variables that point at services with an address: all of the namespace unless the pod does without
// links, and always those of "kubernetes" in default.
func Services(pod *corev1.Pod, services []*corev1.Service) map[string]string {
	out := map[string]string{}
	linked := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	// Services of the pod's own namespace win over default's.
	for _, own := range []bool{false, true} {
		for _, s := range services {
			master := s.Namespace == corev1.NamespaceDefault && s.Name == "kubernetes"
			if ip := s.Spec.ClusterIP; ip == "" || ip == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
				continue
			}
			if own && linked && s.Namespace == pod.Namespace || !own && master {
				service(s, out)
			}
		}
	}
	return out
}

// service adds the variables of one service: its own, and those of the old container links.
func service(s *corev1.Service, out map[string]string) {
	name := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
	ip := s.Spec.ClusterIP
	out[name+"_SERVICE_HOST"] = ip
	out[name+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, p := range s.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			out[name+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))] = port
		}
		protocol := string(p.Protocol)
		if protocol == "" {
			protocol = string(corev1.ProtocolTCP)
		}
		url := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			out[name+"_PORT"] = url
		}
		prefix := name + "_PORT_" + port + "_" + strings.ToUpper(protocol)
		out[prefix] = url
		out[prefix+"_PROTO"] = strings.ToLower(protocol)
		out[prefix+"_PORT"] = port
		out[prefix+"_ADDR"] = ip
	}
}
