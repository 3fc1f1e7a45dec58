package join

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	// lookAgain bounds how long a wait is not checked against the clock, which goes on while the machine sleeps.
	lookAgain = 12 * time.Hour
	// The waits after a failed renewal, doubling.
	firstRetry = time.Minute
	lastRetry  = time.Hour
)

// Renewer keeps the certificate of an identity from expiring.
type Renewer struct {
	Identity *Identity
	// Renewed is called after each renewal: connections that were made with the old certificate end with it.
	Renewed func()
	Logger  *slog.Logger
}

// Name is the component's name.
func (r *Renewer) Name() string { return "certificate" }

// Run renews the certificate when a third of its life is left, and earlier by a chance that spreads the nodes' requests, until
// ctx is done. It tries on when the server does not grant it: the certificate is good for a while yet.
func (r *Renewer) Run(ctx context.Context) error {
	retry := firstRetry
	at := renewAt(r.Identity.Certificate().Leaf, rand.Float64())
	for {
		timer := time.NewTimer(min(time.Until(at), lookAgain))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if time.Now().Before(at) {
			continue
		}
		if err := r.renew(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			level := slog.LevelWarn
			if time.Now().After(r.Identity.NotAfter()) {
				level = slog.LevelError
				err = fmt.Errorf("%w; the certificate has expired: start the agent again with --token", err)
			}
			r.Logger.Log(ctx, level, "certificate not renewed", "until", r.Identity.NotAfter().Format(time.RFC3339), "again in", retry, "err", err)
			at, retry = time.Now().Add(retry), min(2*retry, lastRetry)
			continue
		}
		r.Logger.Info("certificate renewed", "until", r.Identity.NotAfter().Format(time.RFC3339))
		retry = firstRetry
		at = renewAt(r.Identity.Certificate().Leaf, rand.Float64())
		r.Renewed()
	}
}

func (r *Renewer) renew(ctx context.Context) error {
	answer, err := r.Identity.ask(ctx, r.Identity.TLS(), "")
	if err != nil {
		return err
	}
	return r.Identity.save(answer)
}

// renewAt is between 60 and 66 hundredths of a certificate's life, by chance (0 to 1).
func renewAt(cert *x509.Certificate, chance float64) time.Time {
	life := cert.NotAfter.Sub(cert.NotBefore)
	return cert.NotBefore.Add(time.Duration(float64(life) * (0.60 + 0.06*chance)))
}
