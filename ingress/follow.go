package ingress

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/client"
)

// certificateWait bounds how long a start waits for certificates before it serves without those that are late.
const certificateWait = 5 * time.Second

// hold keeps the Secrets that the table is made from, and no others, in the copy. The selector is what lets a node read them.
func (s *Server) hold() {
	if s.opts.Follower == nil {
		return
	}
	for key, h := range s.held {
		if !s.secrets[key] {
			h.Release()
			delete(s.held, key)
		}
	}
	for key := range s.secrets {
		if s.held[key] == nil {
			s.held[key] = s.opts.Follower.Follow(client.ResourceOf[*corev1.Secret](s.opts.Client), key.Namespace, key.Name,
				"type="+string(corev1.SecretTypeTLS))
		}
	}
}

// awaitCertificates waits until the Secrets that are held were read, and says whether there are any. Clients that come before would
// be shown the default certificate.
func (s *Server) awaitCertificates(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, certificateWait)
	defer cancel()
	for _, h := range s.held {
		select {
		case <-h.Synced:
		case <-ctx.Done():
			return true
		}
	}
	return len(s.held) > 0
}
