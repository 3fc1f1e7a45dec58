package daemon

import (
	"log/slog"
	"net/http"
)

// RotateKeyPath is the API path that `keb secrets rotate-key` posts to. Only system:masters may, unless a role with this
// path as a non-resource URL says otherwise.
const RotateKeyPath = "/keb/secrets/rotate-key"

// rotateKey answers a POST by having all secrets encrypted with a new key.
func rotateKey(store interface{ RotateKey() error }, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "only POST rotates the key", http.StatusMethodNotAllowed)
			return
		}
		if err := store.RotateKey(); err != nil {
			log.Error("rotate encryption key", "error", err)
			http.Error(w, "the key was not rotated: "+err.Error(), http.StatusInternalServerError)
			return
		}
		log.Info("secrets are encrypted with a new key")
		w.WriteHeader(http.StatusNoContent)
	})
}
