// Command hello is a small web application: it greets with the words of a ConfigMap, proves that it knows a Secret without
// telling it, and says which pod answered.
package main

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%s from %s (secret %s)\n", os.Getenv("GREETING"), os.Getenv("POD_NAME"), fingerprint("/etc/hello/password"))
	})
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	if err := server.ListenAndServe(); err != nil {
		slog.Error("serve", "err", err)
		os.Exit(1)
	}
}

// fingerprint names a secret file's contents by the first bytes of their digest.
func fingerprint(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "missing"
	}
	sum := sha256.Sum256(data)
	return fmt.Sprintf("%x", sum[:4])
}
