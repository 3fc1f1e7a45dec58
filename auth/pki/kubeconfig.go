package pki

import (
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

// Kubeconfig is all that kubectl needs: one cluster, one user, one context.
type Kubeconfig struct {
	// Name is given to the cluster and the context: "keb".
	Name string
	// Server is the URL: "https://127.0.0.1:6443".
	Server string
	// CA is the PEM of Authority.CA.
	CA []byte
	// User names the user's entry: "admin".
	User   string
	Client Client
}

type (
	named map[string]any
	entry []named
)

// Encode returns the file's content: YAML of kind Config.
func (k Kubeconfig) Encode() ([]byte, error) {
	data, err := yaml.Marshal(named{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": k.Name,
		"clusters": entry{{
			"name":    k.Name,
			"cluster": named{"server": k.Server, "certificate-authority-data": k.CA},
		}},
		"users": entry{{
			"name": k.User,
			"user": named{"client-certificate-data": k.Client.Cert, "client-key-data": k.Client.Key},
		}},
		"contexts": entry{{
			"name":    k.Name,
			"context": named{"cluster": k.Name, "user": k.User},
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("encode kubeconfig: %w", err)
	}
	return data, nil
}

// Write puts the file in place at once with mode 0600, as it holds a key. Missing directories are made with mode 0700.
func (k Kubeconfig) Write(file string) error {
	data, err := k.Encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return WriteFile(file, data, 0o600)
}
