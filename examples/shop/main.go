// Command shop is both programs of the example shop: `shop front` serves its page, `shop api` keeps its orders in PostgreSQL.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	goods, err := readCatalog(env("CATALOG", "/etc/shop/catalog/catalog.json"))
	if err != nil {
		return err
	}
	switch {
	case len(args) == 1 && args[0] == "front":
		return serve(ctx, front(goods))
	case len(args) == 1 && args[0] == "api":
		orders, err := openOrders(ctx)
		if err != nil {
			return err
		}
		defer orders.db.Close()
		return serve(ctx, orders.handler(goods))
	}
	return errors.New("want one argument: front or api")
}

// serve answers requests until ctx is done, and then those that have come already.
func serve(ctx context.Context, handler http.Handler) error {
	server := &http.Server{Addr: ":8080", Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return server.Shutdown(end)
}

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
