// Package join is a machine's way into a cluster. The agent's side shows a join token to the server that the token promises and to no
// other, and gets a client certificate for the key that it made; from then on it renews the certificate with the certificate
// itself. The server's side grants a name to one key. Only daemon imports it; it imports auth,
// client and controller.
package join

import "time"

// Path is where the server takes requests to join and to renew.
const Path = "/keb/v1/join"

const (
	// maxMessage bounds a request or an answer; both hold one certificate or two.
	maxMessage = 64 << 10
	// maxSkew is how far the clocks of a joining machine and the server may lie apart: certificates are backdated by as much.
	maxSkew = 5 * time.Minute
)

// Request is what a machine asks of the server, by POST as JSON: the certificate of a node.
type Request struct {
	// Node is the machine's name in the cluster.
	Node string `json:"node"`
	// CSR is the certificate request, PEM, signed by the machine's key.
	CSR string `json:"csr"`
	// Time is the machine's clock.
	Time time.Time `json:"time"`
}

// Answer is what a machine gets when it may be that node.
type Answer struct {
	// Certificate is PEM, good for the key of the request.
	Certificate string `json:"certificate"`
	// CA is the PEM of all certificates that servers are verified with from now on.
	CA string `json:"ca"`
	// Cluster is what a node's parts must know.
	Cluster Cluster `json:"cluster"`
}

// Cluster is what every node of a cluster knows of it.
type Cluster struct {
	// ClusterCIDR and ServiceCIDR are the ranges of pods and Services.
	ClusterCIDR string `json:"clusterCIDR"`
	ServiceCIDR string `json:"serviceCIDR"`
	// Domain is the cluster's DNS suffix.
	Domain string `json:"domain"`
}
