package config

const (
	// Version is keb's own version.
	Version = "0.1.0"
	// KubernetesVersion is the version of the Kubernetes API that keb serves.
	KubernetesVersion = "v1.37.2"
)
