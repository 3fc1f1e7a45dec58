package auth

import (
	"encoding/json"
	"net/http"
	"strings"
)

// The paths of service-account issuer discovery
// (https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#service-account-issuer-discovery).
const (
	OIDCConfigurationPath = "/.well-known/openid-configuration"
	JWKSPath              = "/openid/v1/jwks"
)

// Discovery answers OIDCConfigurationPath and JWKSPath, with which others verify the tokens of this cluster. address is where they reach the
// API server: "https://host:6443".
func (t *Tokens) Discovery(address string) (http.Handler, error) {
	configuration, err := json.Marshal(struct {
		Issuer        string   `json:"issuer"`
		JWKS          string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	}{t.issuer, strings.TrimSuffix(address, "/") + JWKSPath, []string{"id_token"}, []string{"public"}, []string{"ES256"}})
	if err != nil {
		return nil, err
	}
	keys, err := json.Marshal(t.jwks)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, contentType := configuration, "application/json"
		if r.URL.Path == JWKSPath {
			body, contentType = keys, "application/jwk-set+json"
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Write(body)
	}), nil
}
