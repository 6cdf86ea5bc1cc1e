package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/api/server"
	"github.com/weftnet/weft/internal/testnet"
)

// output is what a command that goes on has written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func TestWebServesThePageUntilItIsEnded(t *testing.T) {
	socket := serve(t, server.Handler(noCNI{}, node{true}, nil))
	gone := filepath.Join(t.TempDir(), "gone")
	var out, errs output
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"web", "--listen", "127.0.0.1:0", "--socket", gone, "--socket", socket}, &out, &errs)
	}()
	var address string
	testnet.Until(t, 10*time.Second, func() error {
		address = regexp.MustCompile(`http://127\.0\.0\.1:\d+/`).FindString(out.String())
		if address == "" {
			return io.ErrNoProgress
		}
		return nil
	})
	for path, want := range map[string]string{"": "<title>Weft</title>", "api/state?daemon=1": `"node":"n1"`, "api/nodes?daemon=0": "no answer from the daemon"} {
		resp, err := http.Get(address + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("/%s: %.200q, %v; want %q in it", path, b, err, want)
		}
	}
	cancel()
	if code := <-ended; code != 0 || errs.String() != "" {
		t.Errorf("exit code %d, stderr %q", code, errs.String())
	}
}

func TestWebSaysWhyItCannotServe(t *testing.T) {
	socket := serve(t, server.Handler(noCNI{}, node{true}, nil))
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no daemon":     {[]string{"--socket", filepath.Join(t.TempDir(), "none")}, 3, "there is no socket"},
		"no address":    {[]string{"--socket", socket, "--listen", "nine"}, 1, "--listen: "},
		"other machine": {[]string{"--socket", socket, "--listen", "203.0.113.9:8087"}, 1, "choose an address of this machine"},
		"argument":      {[]string{"x"}, 2, "--help"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, errs := weft(append([]string{"web"}, tc.args...)...)
			if code != tc.code || !strings.Contains(errs, tc.want) {
				t.Errorf("exit code %d, stderr %q, want %d and %q", code, errs, tc.code, tc.want)
			}
		})
	}
}
