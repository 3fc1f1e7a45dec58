// Command load sends GET requests to a URL at a steady rate and says how many failed; exit code 1 when any did:
//
//	load -rate 500 -for 10s -at 10.44.0.11:443 -ca shop.crt https://shop.example/
//
// Each request is sent at its time, whether or not those before it were answered.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	rate     int
	length   time.Duration
	at, ca   string
	reuse    bool
	deadline time.Duration
}

func main() {
	var o options
	flag.IntVar(&o.rate, "rate", 100, "requests per second")
	flag.DurationVar(&o.length, "for", 10*time.Second, "how long; a signal ends it earlier")
	flag.StringVar(&o.at, "at", "", "HOST:PORT to connect to, whatever the URL says")
	flag.StringVar(&o.ca, "ca", "", "file with the certificate that the server's is checked with")
	flag.BoolVar(&o.reuse, "reuse", true, "send many requests over one connection")
	flag.DurationVar(&o.deadline, "deadline", 5*time.Second, "how long an answer may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, url string) error {
	client, err := newClient(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.length)
	defer cancel()
	var (
		mu     sync.Mutex
		failed = map[string]int{}
		slow   time.Duration
		wait   sync.WaitGroup
	)
	began, sent := time.Now(), 0
	for ; ctx.Err() == nil; sent++ {
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(began.Add(time.Duration(sent) * time.Second / time.Duration(o.rate)))):
		}
		wait.Go(func() {
			start := time.Now()
			err := get(client, url)
			mu.Lock()
			defer mu.Unlock()
			slow = max(slow, time.Since(start))
			if err != nil {
				failed[err.Error()]++
			}
		})
	}
	wait.Wait()
	fails := 0
	for _, what := range slices.Sorted(maps.Keys(failed)) {
		fails += failed[what]
		fmt.Printf("%6d × %s\n", failed[what], what)
	}
	fmt.Printf("%d requests in %.1f s, %d failed; the slowest took %d ms\n", sent, time.Since(began).Seconds(), fails, slow.Milliseconds())
	if fails > 0 {
		return errors.New("requests failed")
	}
	return nil
}

func newClient(o options) (*http.Client, error) {
	// As many as a stall makes: were they closed after it, new handshakes would make the next one.
	transport := &http.Transport{MaxIdleConnsPerHost: 4096, ForceAttemptHTTP2: true, DisableKeepAlives: !o.reuse, TLSClientConfig: &tls.Config{}}
	if o.at != "" {
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, o.at)
		}
	}
	if o.ca != "" {
		text, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate", o.ca)
		}
	}
	return &http.Client{Transport: transport, Timeout: o.deadline}, nil
}

// get fails unless the whole answer comes and says 200.
func get(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
