package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"os"
)

//go:embed page.html
var page string

// product is what the shop sells.
type product struct {
	Name  string `json:"name"`
	Cents int    `json:"cents"`
}

// readCatalog reads what is for sale: a file of the ConfigMap.
func readCatalog(path string) ([]product, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read catalog: %w", err)
	}
	var out []product
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, fmt.Errorf("read catalog %s: %w", path, err)
	}
	return out, nil
}

// front serves the page, which asks the API for the orders by itself.
func front(goods []product) http.Handler {
	show := template.Must(template.New("page").Parse(page))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = show.Execute(w, map[string]any{"Name": env("SHOP_NAME", "Shop"), "Version": env("VERSION", "1"), "Goods": goods}) // an error means that the client went away
	})
	return mux
}
