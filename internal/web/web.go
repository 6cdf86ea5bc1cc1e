// Package web is a page that shows what daemons of Weft know: nodes, Services and their
// backends, addresses, drops, problems. It only reads. Whoever reaches it sees all that:
// there is no login, so it is to be served on loopback.
//
// The page is in the folder page: HTML, CSS and JavaScript as they are written, without
// anything from elsewhere. It asks for what is on the screen, every half second; lists
// are cut into pages here, never in the browser.
package web

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/weftnet/weft/internal/api"
)

// DefaultAddress is where the page is, if it is not said where.
const DefaultAddress = "127.0.0.1:8087"

const (
	askTimeout = 5 * time.Second
	endTimeout = time.Second // for answers under way at the end
	// maxPage is how many rows the browser gets at once.
	maxPage = 100
)

//go:embed page
var files embed.FS

// Serve serves the page on l until ctx is done. It shows what the daemons at these
// sockets know, of which there is at least one.
func Serve(ctx context.Context, l net.Listener, sockets ...string) error {
	s := &http.Server{
		Handler: Handler(sockets...), ReadTimeout: askTimeout, WriteTimeout: 2 * askTimeout,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // a browser that went away is no news
	}
	ended := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		soon, cancel := context.WithTimeout(context.Background(), endTimeout)
		defer cancel()
		err := s.Shutdown(soon)
		if err != nil {
			err = s.Close()
		}
		ended <- err
	})
	err := s.Serve(l)
	if !stop() {
		err = <-ended
	}
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the page on %s: %w", l.Addr(), err)
	}
	return nil
}

// Handler is the page, and what it asks for.
func Handler(sockets ...string) http.Handler {
	p := &page{}
	for _, s := range sockets {
		p.daemons = append(p.daemons, &daemon{socket: s, client: api.NewClient(s)})
	}
	static, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // the folder is embedded
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(static))
	mux.HandleFunc("GET /api/state", p.answer(p.state))
	mux.HandleFunc("GET /api/nodes", p.answer(p.nodes))
	mux.HandleFunc("GET /api/services", p.answer(p.services))
	mux.HandleFunc("GET /api/service", p.answer(p.service))
	mux.HandleFunc("GET /api/drops", p.answer(p.drops))
	return guard(mux)
}

// page is the daemons that are shown.
type page struct{ daemons []*daemon }

// answer serves what a call returns as JSON. The daemon is chosen by its number.
func (p *page) answer(call func(context.Context, *daemon, url.Values) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
		defer cancel()
		q := r.URL.Query()
		n, err := number(q, "daemon", 0, len(p.daemons)-1)
		var out any
		if err == nil {
			out, err = call(ctx, p.daemons[n], q)
		}
		status := http.StatusOK
		if err != nil {
			status, out = statusOf(err), map[string]string{"error": err.Error()}
		}
		b, err := json.Marshal(out)
		if err != nil {
			status, b = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded"}`)
		}
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(b)))
		w.WriteHeader(status)
		_, _ = w.Write(b) // nobody is left to tell
	}
}

// statusOf is the HTTP status (RFC 9110, section 15) of an error.
func statusOf(err error) int {
	var refused *api.Error
	switch {
	case errors.Is(err, errBadQuery):
		return http.StatusBadRequest
	case errors.As(err, &refused) && refused.Code == api.CodeUnknown:
		return http.StatusNotFound
	case errors.As(err, &refused) && refused.Code == api.CodeBadConfig:
		return http.StatusBadRequest
	}
	return http.StatusBadGateway
}

// errBadQuery is a question that the page does not ask.
var errBadQuery = errors.New("bad query")

// number is a number of the query in 0…most; fallback if it is not there.
func number(q url.Values, name string, fallback, most int) (int, error) {
	text := q.Get(name)
	if text == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("%w: %s is not in 0…%d", errBadQuery, name, most)
	}
	return n, nil
}
