package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
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
	testnet.Until(t, 20*time.Second, func() error {
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

// The node's users would have the page for ever if it outlived a broken kubectl exec.
func TestWebEndsWithAStandardInputThatIsAPipe(t *testing.T) {
	socket := serve(t, server.Handler(noCNI{}, node{true}, nil))
	in, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var out output
	c := &cli{in: in, out: &out, timeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- c.web(t.Context(), "127.0.0.1:0", []string{socket}) }()
	if err := other.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// More than a pipe holds (64 KiB), so that it has been read when this returns.
	if _, err := other.WriteString(strings.Repeat("what is typed\n", 10_000)); err != nil {
		t.Fatal(err)
	}
	var address string
	testnet.Until(t, 20*time.Second, func() error {
		if address = regexp.MustCompile(`http://127\.0\.0\.1:\d+/`).FindString(out.String()); address == "" {
			return io.ErrNoProgress
		}
		return nil
	})
	resp, err := http.Get(address)
	if err != nil {
		t.Fatalf("the page has gone by what was typed: %v; it says %q", err, &out)
	}
	resp.Body.Close()
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil || !strings.Contains(out.String(), "standard input") {
			t.Errorf("it ended with %v and says %q, want it to say why", err, &out)
		}
	case <-time.After(20 * time.Second):
		t.Error("it goes on without a standard input")
	}
}

func TestWebNeedsNoStandardInput(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "empty"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, in := range []*os.File{null, file} {
		if needed(in) {
			t.Errorf("%s would end the page", in.Name())
		}
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
		"empty":         {[]string{"--socket", socket, "--listen", ""}, 2, "--listen is empty"},
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
