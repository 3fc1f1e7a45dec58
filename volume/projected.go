package volume

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// projected computes the files of a projected volume: later sources win where paths collide.
func (m *Mounter) projected(ctx context.Context, pod *corev1.Pod, volume string, s *corev1.ProjectedVolumeSource) (*content, error) {
	c := &content{files: map[string]file{}}
	mode := modeOf(s.DefaultMode)
	for i, source := range s.Sources {
		var err error
		switch {
		case source.ConfigMap != nil:
			p := source.ConfigMap
			err = m.configMapFiles(ctx, pod.Namespace, p.Name, p.Items, isTrue(p.Optional), mode, c.files)
		case source.Secret != nil:
			p := source.Secret
			err = m.secretFiles(ctx, pod.Namespace, p.Name, p.Items, isTrue(p.Optional), mode, c.files)
		case source.DownwardAPI != nil:
			err = m.downwardFiles(pod, source.DownwardAPI.Items, mode, c.files)
		case source.ServiceAccountToken != nil:
			err = m.tokenFile(ctx, pod, tokenKey{pod.UID, volume, i}, source.ServiceAccountToken, mode, c)
		default:
			err = fmt.Errorf("projected source %d is not supported by this node", i)
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// tokenKey names one token source of one volume of one pod.
type tokenKey struct {
	pod    types.UID
	volume string
	source int
}

// token is what was issued, kept so that refreshes for other reasons do not issue another.
type token struct {
	text    string
	refresh time.Time
	expires time.Time
}

// maxTokenAge is how long upstream's kubelet uses a token, however long it lives, before it asks for another.
const maxTokenAge = 24 * time.Hour

// tokenFile writes a service account token, asking for a new one when 80 % of its life, or a day, has gone. When that fails,
// a token that still lives is used on, and asked for again in a minute.
func (m *Mounter) tokenFile(ctx context.Context, pod *corev1.Pod, key tokenKey, p *corev1.ServiceAccountTokenProjection, mode int32, c *content) error {
	m.mu.Lock()
	t := m.tokens[key]
	m.mu.Unlock()
	now := time.Now()
	if t == nil || !now.Before(t.refresh) {
		var audiences []string
		if p.Audience != "" {
			audiences = []string{p.Audience}
		}
		seconds := int64(3600)
		if p.ExpirationSeconds != nil {
			seconds = *p.ExpirationSeconds
		}
		issued, err := m.Objects.Token(ctx, pod, audiences, seconds)
		switch {
		case err == nil:
			life := issued.ExpirationTimestamp.Sub(now)
			t = &token{text: issued.Token, refresh: now.Add(min(life*8/10, maxTokenAge)), expires: issued.ExpirationTimestamp.Time}
		case t != nil && now.Before(t.expires):
			t = &token{text: t.text, refresh: now.Add(time.Minute), expires: t.expires}
		default:
			return fmt.Errorf("failed to fetch token: %w", err)
		}
		m.mu.Lock()
		m.tokens[key] = t
		m.mu.Unlock()
	}
	user := soleUser(pod)
	if fsGroup(pod) != nil || user != nil {
		mode = 0o600
	}
	c.files[p.Path] = file{data: []byte(t.text), mode: mode, user: user}
	if c.refresh.IsZero() || t.refresh.Before(c.refresh) {
		c.refresh = t.refresh
	}
	return nil
}

// soleUser is the user that all containers run as, when the pod says so: it may then own its token.
func soleUser(pod *corev1.Pod) *int64 {
	var base, user *int64
	if sc := pod.Spec.SecurityContext; sc != nil {
		base = sc.RunAsUser
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			one := base
			if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
				one = c.SecurityContext.RunAsUser
			}
			if one == nil || user != nil && *user != *one {
				return nil
			}
			user = one
		}
	}
	return user
}
