// Package spec turns pods into what the runtime is asked for: sandbox and container configurations, environments, host names,
// hosts files, DNS and resources. Pure, but that environments read what they refer to. Only agent imports it.
package spec

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"github.com/kebernetes/kebernetes/agent/lifecycle"
)

// NodeLabel marks, in the runtime, what a node of ours runs: a node takes care of nothing that does not carry its name.
const NodeLabel = "kebernetes.io/node"

// Annotations of containers in the runtime, as tools that look at a kubelet's containers know them. They hold what must
// outlive the agent.
const (
	annotationHash          = "io.kubernetes.container.hash"
	annotationRestartCount  = "io.kubernetes.container.restartCount"
	annotationMessagePath   = "io.kubernetes.container.terminationMessagePath"
	annotationMessagePolicy = "io.kubernetes.container.terminationMessagePolicy"
	annotationPorts         = "io.kubernetes.container.ports"
	annotationGrace         = "io.kubernetes.pod.terminationGracePeriod"
)

// Input is what configurations depend on beside the pod.
type Input struct {
	NodeName     string
	CgroupParent string
	// LogDir is the pod's log directory; empty: no logs.
	LogDir string
	DNS    DNS
	// SeccompDir holds the profiles of type Localhost.
	SeccompDir string
	// Attempt counts sandboxes of the pod.
	Attempt uint32
	Now     time.Time
}

// Labels are on everything that belongs to a pod in the runtime.
func Labels(pod *corev1.Pod, node string) map[string]string {
	return map[string]string{
		kubelettypes.KubernetesPodNameLabel:      pod.Name,
		kubelettypes.KubernetesPodNamespaceLabel: pod.Namespace,
		kubelettypes.KubernetesPodUIDLabel:       string(pod.UID),
		NodeLabel:                                node,
	}
}

// LogDir is the name of a pod's log directory, as log collectors expect it.
func LogDir(namespace, name, uid string) string { return namespace + "_" + name + "_" + uid }

// Sandbox returns the configuration of the pod's sandbox. Host ports are not part of it: the node's own rules forward them.
func Sandbox(pod *corev1.Pod, in Input) (*rt.PodSandboxConfig, error) {
	if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers {
		return nil, fmt.Errorf("pod %s wants a user namespace (hostUsers: false), which this node does not offer", lifecycle.PodText(pod))
	}
	hostname, err := Hostname(pod, in)
	if err != nil {
		return nil, err
	}
	labels := maps.Clone(pod.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, Labels(pod, in.NodeName))
	annotations := maps.Clone(pod.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations["kubernetes.io/config.source"] = "api"
	annotations["kubernetes.io/config.seen"] = in.Now.Format(time.RFC3339Nano)
	config := &rt.PodSandboxConfig{
		Metadata:     &rt.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: in.Attempt},
		Hostname:     hostname,
		LogDirectory: in.LogDir,
		DnsConfig:    dnsConfig(pod, in.DNS),
		Labels:       labels,
		Annotations:  annotations,
		Linux: &rt.LinuxPodSandboxConfig{
			CgroupParent: in.CgroupParent,
			Sysctls:      sysctls(pod),
		},
	}
	config.Linux.SecurityContext = sandboxSecurity(pod)
	return config, nil
}

func sysctls(pod *corev1.Pod) map[string]string {
	out := map[string]string{}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			// The API takes both spellings; the kernel's files have dots.
			out[strings.ReplaceAll(s.Name, "/", ".")] = s.Value
		}
	}
	return out
}

// Container is what a container's configuration depends on beside the pod and its sandbox.
type Container struct {
	Spec    *corev1.Container
	Attempt uint32
	Image   string // reference that the runtime resolved
	Env     []*rt.KeyValue
	Mounts  []*rt.Mount
	Devices []*rt.Device
	// Lookup resolves $(VAR) in command and arguments.
	Lookup    func(string) (string, bool)
	Resources *rt.LinuxContainerResources
	// TargetID is the container whose process namespace an ephemeral container joins; "" for none.
	TargetID string
}

// Config returns a container's configuration. Errors are what it waits for (CreateContainerConfigError).
func Config(pod *corev1.Pod, c Container, in Input) (*rt.ContainerConfig, error) {
	security, err := containerSecurity(pod, c.Spec, in.SeccompDir)
	if err != nil {
		return nil, err
	}
	if c.TargetID != "" {
		security.NamespaceOptions.Pid, security.NamespaceOptions.TargetId = rt.NamespaceMode_TARGET, c.TargetID
	}
	labels := Labels(pod, in.NodeName)
	labels[kubelettypes.KubernetesContainerNameLabel] = c.Spec.Name
	config := &rt.ContainerConfig{
		Metadata:    &rt.ContainerMetadata{Name: c.Spec.Name, Attempt: c.Attempt},
		Image:       &rt.ImageSpec{Image: c.Image, UserSpecifiedImage: c.Spec.Image},
		Command:     expandAll(c.Spec.Command, c),
		Args:        expandAll(c.Spec.Args, c),
		WorkingDir:  c.Spec.WorkingDir,
		Envs:        c.Env,
		Mounts:      c.Mounts,
		Devices:     c.Devices,
		Labels:      labels,
		Annotations: annotations(pod, c),
		Stdin:       c.Spec.Stdin,
		StdinOnce:   c.Spec.StdinOnce,
		Tty:         c.Spec.TTY,
		Linux:       &rt.LinuxContainerConfig{Resources: c.Resources, SecurityContext: security},
	}
	if in.LogDir != "" {
		config.LogPath = path.Join(c.Spec.Name, strconv.Itoa(int(c.Attempt))+".log")
	}
	if l := c.Spec.Lifecycle; l != nil && l.StopSignal != nil {
		n, ok := rt.Signal_value["SIGNAL_"+strings.ReplaceAll(strings.ReplaceAll(string(*l.StopSignal), "+", "PLUS"), "-", "MINUS")]
		if !ok {
			return nil, fmt.Errorf("unknown stop signal %q", *l.StopSignal)
		}
		config.StopSignal = rt.Signal(n)
	}
	return config, nil
}

func expandAll(list []string, c Container) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = Expand(s, c.Lookup)
	}
	return out
}

func annotations(pod *corev1.Pod, c Container) map[string]string {
	out := map[string]string{
		annotationHash:          lifecycle.Hash(c.Spec),
		annotationRestartCount:  strconv.Itoa(int(c.Attempt)),
		annotationMessagePath:   c.Spec.TerminationMessagePath,
		annotationMessagePolicy: string(c.Spec.TerminationMessagePolicy),
	}
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		out[annotationGrace] = strconv.FormatInt(*g, 10)
	}
	if len(c.Spec.Ports) > 0 {
		// A slice of plain structs cannot fail to marshal.
		ports, _ := json.Marshal(c.Spec.Ports)
		out[annotationPorts] = string(ports)
	}
	return out
}

// Remembered is what a container's annotations say of it after a restart of the agent.
type Remembered struct {
	Hash          string
	RestartCount  int32
	MessagePath   string
	MessagePolicy corev1.TerminationMessagePolicy
}

// Remember reads the annotations that Config wrote.
func Remember(annotations map[string]string, attempt uint32) Remembered {
	n, err := strconv.ParseInt(annotations[annotationRestartCount], 10, 32)
	if err != nil {
		n = int64(attempt)
	}
	return Remembered{annotations[annotationHash], int32(n), annotations[annotationMessagePath],
		corev1.TerminationMessagePolicy(annotations[annotationMessagePolicy])}
}
