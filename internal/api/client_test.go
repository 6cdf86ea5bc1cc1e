package api

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestReadAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		answer, body string
		code         int
		bad          bool
	}{
		"with a length":      {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab", 200, false},
		"until the end":      {"HTTP/1.1 404 Not Found\r\nX: y\r\n\r\nab", "ab", 404, false},
		"cut body":           {"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nab", "", 0, true},
		"surplus body":       {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nab", "", 0, true},
		"cut headers":        {"HTTP/1.0 200 OK\r\nContent-Le", "", 0, true},
		"bad length":         {"HTTP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n", "", 0, true},
		"no HTTP":            {"SSH-2.0-x\r\n", "", 0, true},
		"no status":          {"HTTP/1.0 abc\r\n\r\n", "", 0, true},
		"nothing":            {"", "", 0, true},
		"status without end": {"HTTP/1.0 2", "", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			code, body, err := readAnswer(strings.NewReader(tc.answer))
			if (err != nil) != tc.bad {
				t.Fatalf("error %v, want one: %v", err, tc.bad)
			}
			if err == nil && (code != tc.code || string(body) != tc.body) {
				t.Errorf("got %d %q, want %d %q", code, body, tc.code, tc.body)
			}
		})
	}
}

func FuzzReadAnswer(f *testing.F) {
	f.Add("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab")
	f.Add("HTTP/1.1 404")
	f.Fuzz(func(t *testing.T, s string) {
		if _, body, err := readAnswer(strings.NewReader(s)); err == nil && !strings.HasSuffix(s, string(body)) {
			t.Errorf("body %q is not the end of the answer", body)
		}
	})
}

func TestNoDaemonNamesTheCause(t *testing.T) {
	dir := t.TempDir()
	_, err := NewClient(filepath.Join(dir, "none")).Status(t.Context())
	if !errors.Is(err, ErrNoDaemon) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
	hung := filepath.Join(dir, "hung")
	l, err := net.Listen("unix", hung)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := NewClient(hung).CNIStatus(ctx); !errors.Is(err, ErrNoDaemon) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hung daemon: %v", err)
	}
}

// Who watches drops must not take a daemon that hangs for one that drops nothing.
func TestWatchingDropsEndsWhenTheDaemonIsSilent(t *testing.T) {
	for _, tc := range []struct {
		name, answer string
		begin        time.Duration
		lines        int
	}{
		{"from the beginning", "", 50 * time.Millisecond, 0},
		{"in the middle", "HTTP/1.0 200 OK\r\n\r\n\n{\"reason\":\"no-peer\"}\n", 10 * time.Second, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if tc.answer != "" {
				go func() {
					conn, err := l.Accept()
					if err != nil {
						return // the test has ended
					}
					defer conn.Close()
					_, _ = conn.Write([]byte(tc.answer))
					_, _ = conn.Read(make([]byte, 1<<10)) // the question
					_, _ = conn.Read(make([]byte, 1))     // until the client closes
				}()
			}
			lines := 0
			err = NewClient(l.Addr().String()).stream(t.Context(), PathWatchDrops, tc.begin, 50*time.Millisecond,
				func([]byte) error { lines++; return nil })
			if !errors.Is(err, ErrNoDaemon) || !errors.Is(err, context.DeadlineExceeded) || lines != tc.lines {
				t.Errorf("%d lines, %v; want %d and that there is no answer in time", lines, err, tc.lines)
			}
		})
	}
}
