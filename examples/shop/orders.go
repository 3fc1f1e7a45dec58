package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lib/pq"
	"golang.org/x/sys/unix"
)

const (
	// patience is how long a request waits for a database that is away, as while its pod moves.
	patience = 5 * time.Second
	// again is how long it rests between two tries.
	again = 100 * time.Millisecond
	// silence is how long a database may leave data unacknowledged until its connection is given up.
	silence = 3 * time.Second
)

// An order is what a customer wants.
type order struct {
	// ID is the client's choice. The same order sent twice is one order.
	ID       string    `json:"id"`
	Item     string    `json:"item"`
	Quantity int       `json:"quantity"`
	Placed   time.Time `json:"placed"`
}

// orders keeps them in the database.
type orders struct{ db *sql.DB }

// openOrders waits until the database is there and has its table.
func openOrders(ctx context.Context) (*orders, error) {
	password, err := os.ReadFile(env("PASSWORD_FILE", "/etc/shop/database/password"))
	if err != nil {
		return nil, fmt.Errorf("read the database's password: %w", err)
	}
	connector, err := pq.NewConnector(fmt.Sprintf("host=%s user=shop password='%s' dbname=postgres sslmode=disable connect_timeout=2",
		env("DATABASE", "database"), strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(strings.TrimSpace(string(password)))))
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	connector.Dialer(dialer{})
	o := &orders{sql.OpenDB(connector)}
	o.db.SetMaxOpenConns(8)
	for {
		// Replicas that begin at once make the table one after the other.
		_, err := o.db.ExecContext(ctx, `SELECT pg_advisory_lock(1); CREATE TABLE IF NOT EXISTS orders (
			id text PRIMARY KEY, item text NOT NULL, quantity int NOT NULL, placed timestamptz NOT NULL DEFAULT now()); SELECT pg_advisory_unlock(1)`)
		if err == nil {
			return o, nil
		}
		slog.Info("waiting for the database", "err", err)
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), o.db.Close())
		case <-time.After(time.Second):
		}
	}
}

// dialer gives up a connection whose other end is gone without a word, as that of a machine that lost its power.
type dialer struct{}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d dialer) DialTimeout(network, address string, limit time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// DialContext implements pq.DialerContext.
func (dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	d.Control = func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
		})
		return errors.Join(err, failed)
	}
	return d.DialContext(ctx, network, address)
}

// handler is the API.
func (o *orders) handler(goods []product) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("POST /api/orders", func(w http.ResponseWriter, r *http.Request) {
		var wanted order
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&wanted); err != nil {
			http.Error(w, "an order is JSON: "+err.Error(), http.StatusBadRequest)
			return
		}
		if wanted.ID == "" {
			wanted.ID = rand.Text()
		}
		if !slices.ContainsFunc(goods, func(p product) bool { return p.Name == wanted.Item }) || wanted.Quantity < 1 || wanted.Quantity > 99 || len(wanted.ID) > 64 {
			http.Error(w, fmt.Sprintf("%d × %q is not for sale", wanted.Quantity, wanted.Item), http.StatusUnprocessableEntity)
			return
		}
		placed, err := insist(r.Context(), func(ctx context.Context) (order, error) { return o.place(ctx, wanted) })
		answer(w, http.StatusCreated, placed, err)
	})
	mux.HandleFunc("GET /api/orders", func(w http.ResponseWriter, r *http.Request) {
		limit, err := strconv.Atoi(r.FormValue("limit"))
		if err != nil || limit < 1 {
			limit = 100
		}
		all, err := insist(r.Context(), func(ctx context.Context) (list, error) { return o.list(ctx, limit) })
		answer(w, http.StatusOK, all, err)
	})
	return mux
}

// insist does something with the database until it succeeds or patience ends. All that is done here may be done twice.
func insist[T any](ctx context.Context, do func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		out, err := do(ctx)
		if err == nil {
			return out, nil
		}
		select {
		case <-ctx.Done():
			return out, err
		case <-time.After(again):
		}
	}
}

// answer sends a result, or says that the customer may come again.
func answer(w http.ResponseWriter, status int, result any, err error) {
	if err != nil {
		slog.Error("database", "err", err)
		w.Header().Set("Retry-After", "1")
		http.Error(w, "the shop cannot take orders at the moment", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(result) // an error means that the client went away
}

// place keeps an order, and returns what is kept once that is on disk: PostgreSQL answers a commit no earlier.
func (o *orders) place(ctx context.Context, wanted order) (order, error) {
	if _, err := o.db.ExecContext(ctx, `INSERT INTO orders (id, item, quantity) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING`, wanted.ID, wanted.Item, wanted.Quantity); err != nil {
		return order{}, err
	}
	kept := order{ID: wanted.ID}
	err := o.db.QueryRowContext(ctx, `SELECT item, quantity, placed FROM orders WHERE id = $1`, wanted.ID).Scan(&kept.Item, &kept.Quantity, &kept.Placed)
	return kept, err
}

// list is the answer to who asks for the orders: how many there are, and the latest.
type list struct {
	Count  int     `json:"count"`
	Orders []order `json:"orders"`
}

func (o *orders) list(ctx context.Context, limit int) (list, error) {
	out := list{Orders: []order{}}
	if err := o.db.QueryRowContext(ctx, `SELECT count(*) FROM orders`).Scan(&out.Count); err != nil {
		return out, err
	}
	rows, err := o.db.QueryContext(ctx, `SELECT id, item, quantity, placed FROM orders ORDER BY placed DESC LIMIT $1`, limit)
	if err != nil {
		return out, err
	}
	defer rows.Close()
	for rows.Next() {
		var one order
		if err := rows.Scan(&one.ID, &one.Item, &one.Quantity, &one.Placed); err != nil {
			return out, err
		}
		out.Orders = append(out.Orders, one)
	}
	return out, rows.Err()
}
