package auth

import (
	"crypto/subtle"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/store"
)

// Bootstrap tokens let a node join: "id.secret", kept in a Secret of kube-system named bootstrap-token-<id>
// (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/).
const (
	BootstrapTokenType         = "bootstrap.kubernetes.io/token"
	BootstrapTokenSecretPrefix = "bootstrap-token-"
	BootstrapUserPrefix        = "system:bootstrap:"
	BootstrapGroup             = "system:bootstrappers"
)

// bootstrapToken and bootstrapGroup are read only.
var (
	bootstrapToken = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	bootstrapGroup = regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$`)
)

// bootstrapUser returns the user of a bootstrap token that is known, not expired, and meant for authentication.
func bootstrapUser(s store.Snapshot, token string, now time.Time) (*User, bool) {
	parts := bootstrapToken.FindStringSubmatch(token)
	if parts == nil {
		return nil, false
	}
	item := s.Get(store.Key{Resource: "secrets", Namespace: ControllerNamespace, Name: BootstrapTokenSecretPrefix + parts[1]})
	if item == nil {
		return nil, false
	}
	secret := item.Object.(*corev1.Secret)
	data := secret.Data
	if secret.DeletionTimestamp != nil || secret.Type != BootstrapTokenType || string(data["token-id"]) != parts[1] ||
		subtle.ConstantTimeCompare(data["token-secret"], []byte(parts[2])) != 1 ||
		string(data["usage-bootstrap-authentication"]) != "true" || bootstrapExpired(data["expiration"], now) {
		return nil, false
	}
	groups := []string{BootstrapGroup}
	if extra := string(data["auth-extra-groups"]); extra != "" {
		for group := range strings.SplitSeq(extra, ",") {
			if !bootstrapGroup.MatchString(group) {
				return nil, false
			}
			groups = append(groups, group)
		}
	}
	slices.Sort(groups)
	return &User{Name: BootstrapUserPrefix + parts[1], Groups: withAuthenticated(slices.Compact(groups))}, true
}

// bootstrapExpired takes a time that cannot be read for one that is over.
func bootstrapExpired(expiration []byte, now time.Time) bool {
	if len(expiration) == 0 {
		return false
	}
	at, err := time.Parse(time.RFC3339, string(expiration))
	return err != nil || !now.Before(at)
}
