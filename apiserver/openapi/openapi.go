// Package openapi describes the API in OpenAPI v2 and v3: what kubectl explains, validates and compares with. The schemas of
// the built-in types come from their own comments (internal/gen, at build time) and lie compressed in the binary; the
// paths follow from the kinds table. A document is made when somebody asks for it and kept only until the next garbage collection, so
// an idle server holds none. apiserver and daemon may import it; it imports kinds.
package openapi

import (
	"compress/gzip"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/munnerz/goautoneg"

	"github.com/kebernetes/kebernetes/kinds"
)

//go:generate ./internal/gen/generate.sh

// Media types of the documents.
const (
	mediaJSON  = "application/json"
	mediaV2    = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	mediaV2At  = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
	mediaV3    = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
	mediaV3At  = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"
	title      = "Kubernetes"
	version    = "v1.37.2" // of the API that is described
	compressed = 128 << 10 // answers from here on are compressed, as upstream's are
)

type server struct {
	table *kinds.Table

	// mu lets one document be made at a time: each takes some megabytes while it is.
	mu   sync.Mutex
	made map[string]weak.Pointer[document]
}

// document is one finished answer.
type document struct {
	body []byte
}

// Handler answers /openapi/v2, /openapi/v3 and below for the kinds of the table, as they are at the time of the request.
func Handler(table *kinds.Table) http.Handler {
	return &server{table: table, made: map[string]weak.Pointer[document]{}}
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "405 method not allowed", http.StatusMethodNotAllowed)
		return
	}
	rows := s.table.All()
	switch path := strings.TrimSuffix(r.URL.Path, "/"); {
	case path == "/openapi/v2":
		s.serveV2(w, r, rows)
	case path == "/openapi/v3":
		s.serveIndex(w, r, rows)
	case strings.HasPrefix(path, "/openapi/v3/"):
		s.serveV3(w, r, rows, strings.TrimPrefix(path, "/openapi/v3/"))
	default:
		http.NotFound(w, r)
	}
}

func (s *server) serveV2(w http.ResponseWriter, r *http.Request, rows []*kinds.Kind) {
	media, ok := negotiate(r, mediaV2, mediaV2At)
	if !ok {
		notAcceptable(w, mediaV2At)
		return
	}
	hash := s.hash("v2", rows)
	encode := encodeJSON
	if media == mediaV2 {
		encode = encodeProtoV2
	}
	s.serve(w, r, media, hash, func() ([]byte, error) { return s.buildV2(rows, encode) })
}

func (s *server) serveV3(w http.ResponseWriter, r *http.Request, rows []*kinds.Kind, name string) {
	part, ok := partsOf(rows)[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	media, ok := negotiate(r, mediaV3, mediaV3At)
	if !ok {
		notAcceptable(w, mediaV3At)
		return
	}
	hash := s.hash("v3/"+name, part.rows)
	if asked := r.URL.Query().Get("hash"); asked != "" {
		if asked != hash {
			http.Redirect(w, r, locationOf(name, hash), http.StatusMovedPermanently)
			return
		}
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	encode := encodeJSON
	if media == mediaV3 {
		encode = encodeProtoV3
	}
	s.serve(w, r, media, hash, func() ([]byte, error) { return s.buildV3(part, encode) })
}

// serve answers with the document, made if need be. The hash names the content in each of its encodings.
func (s *server) serve(w http.ResponseWriter, r *http.Request, media, hash string, build func() ([]byte, error)) {
	h := w.Header()
	etag := `"` + hash + `"`
	h.Set("Etag", etag)
	h.Set("Vary", "Accept, Accept-Encoding")
	if known := r.Header.Get("If-None-Match"); known != "" && (known == "*" || strings.Contains(known, etag)) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	doc, err := s.document(media+hash, build)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h.Set("Content-Type", media)
	if len(doc.body) < compressed || !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Length", fmt.Sprint(len(doc.body)))
		if r.Method == http.MethodGet {
			w.Write(doc.body)
		}
		return
	}
	h.Set("Content-Encoding", "gzip")
	if r.Method == http.MethodGet {
		z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
		z.Write(doc.body)
		z.Close()
	}
}

// document returns the document under key, from memory if the garbage collector has not taken it yet.
func (s *server) document(key string, build func() ([]byte, error)) (*document, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if doc := s.made[key].Value(); doc != nil {
		return doc, nil
	}
	body, err := build()
	if err != nil {
		return nil, err
	}
	for old, pointer := range s.made {
		if pointer.Value() == nil {
			delete(s.made, old)
		}
	}
	doc := &document{body: body}
	s.made[key] = weak.Make(doc)
	return doc, nil
}

// negotiate picks JSON or, under either of its names, protobuf, which it returns under the first.
func negotiate(r *http.Request, proto, protoAt string) (string, bool) {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	if accept == "" {
		return mediaJSON, true
	}
	switch got := goautoneg.Negotiate(accept, []string{mediaJSON, proto, protoAt}); got {
	case "":
		return "", false
	case protoAt:
		return proto, true
	default:
		return got, true
	}
}

func notAcceptable(w http.ResponseWriter, proto string) {
	http.Error(w, "only "+mediaJSON+" and "+proto+" are served", http.StatusNotAcceptable)
}

// serveIndex lists the documents of v3. Their hashes are made from what the documents are made from, so that none of them has
// to be built for it.
func (s *server) serveIndex(w http.ResponseWriter, r *http.Request, rows []*kinds.Kind) {
	type entry struct {
		URL string `json:"serverRelativeURL"`
	}
	index := struct {
		Paths map[string]entry `json:"paths"`
	}{map[string]entry{}}
	for name, part := range partsOf(rows) {
		index.Paths[name] = entry{locationOf(name, s.hash("v3/"+name, part.rows))}
	}
	body, err := json.Marshal(index)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	sum := sha512.Sum512(body)
	etag := `"` + strings.ToUpper(hex.EncodeToString(sum[:])) + `"`
	w.Header().Set("Etag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	// Upstream names no JSON type here, and clients know.
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write(body)
}

func locationOf(name, hash string) string {
	return "/openapi/v3/" + name + "?hash=" + url.QueryEscape(hash)
}

// hash names the content of a document by all that it is made from.
func (s *server) hash(name string, rows []*kinds.Kind) string {
	h := sha512.New()
	fmt.Fprintln(h, name, version, len(schemaData))
	h.Write(schemaData[len(schemaData)-8:]) // the checksum of the whole, by gzip
	for _, k := range rows {
		fmt.Fprintln(h, k.Group, k.Kind, k.Resource, k.Namespaced, k.Verbs)
		for _, v := range k.Versions {
			fmt.Fprintln(h, v.Name)
		}
		for _, sub := range k.Subresources {
			fmt.Fprintln(h, sub.Name, sub.Body, sub.Verbs)
		}
	}
	return strings.ToUpper(hex.EncodeToString(h.Sum(nil)))
}
