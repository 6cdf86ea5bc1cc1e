package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// answer says who answered whom.
type answer struct {
	Service string  `json:"service"`
	Pod     string  `json:"pod"`
	Node    string  `json:"node"`
	Client  string  `json:"client"`          // the address that the connection came from
	User    *answer `json:"user,omitempty"`  // what user-service answered order-service
	Error   string  `json:"error,omitempty"` // why it did not
}

const (
	// askFor is how long order-service waits for user-service.
	askFor = 3 * time.Second
	// endFor is how long requests under way have when the service ends.
	endFor = 10 * time.Second
)

// service is one of the two.
type service struct {
	name, pod, node string
	user            string                  // where user-service is; empty: this is user-service
	drain           func() <-chan time.Time // begins the drain, and says when it is over; see serve

	draining atomic.Bool
}

// serve answers until ctx is done. Then it is no longer ready, but serves on for the time
// of drain, in which the nodes take it from the Service; each answer closes its
// connection, so that clients with lasting ones come to another replica. At last it lets
// what is under way finish.
func (s *service) serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: askFor}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	s.draining.Store(true)
	select {
	case err := <-ended:
		return err
	case <-s.drain():
	}
	last, cancel := context.WithTimeout(context.Background(), endFor)
	defer cancel()
	err := server.Shutdown(last)
	if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

func (s *service) handler() http.Handler {
	// One connection for each question: connections are what a Service spreads.
	client := &http.Client{Timeout: askFor, Transport: &http.Transport{DisableKeepAlives: true}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s.draining.Load() {
			http.Error(w, "ending", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		a, status := answer{Service: s.name, Pod: s.pod, Node: s.node, Client: host}, http.StatusOK
		if s.user != "" {
			if a.User, err = ask(r.Context(), client, s.user); err != nil {
				a.Error, status = err.Error(), http.StatusBadGateway
			}
		}
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(a) // a client that went away is no news
	})
	return mux
}

// ask asks user-service.
func ask(ctx context.Context, client *http.Client, url string) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("ask user-service: %w", err)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask user-service: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("ask user-service: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask user-service: it answers %s", res.Status)
	}
	var r answer
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("ask user-service: %w", err)
	}
	return &r, nil
}
