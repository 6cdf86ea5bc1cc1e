package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSecondDaemonIsRefusedWithThePIDOfTheFirst(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	first, err := acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = acquire(dir)
	if !errors.Is(err, errRunning) || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", os.Getpid())) {
		t.Errorf("second: got %v, want %v with PID %d", err, errRunning, os.Getpid())
	}
	first.release()
	again, err := acquire(dir)
	if err != nil {
		t.Fatalf("after the first ended: %v", err)
	}
	again.release()
}

func TestSocketIsRootsAndReplacesAStaleOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "s.sock")
	stale, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listen(path); !errors.Is(err, errRunning) {
		t.Errorf("while it is served: got %v, want %v", err, errRunning)
	}
	stale.Close() // leaves the file, as a killed daemon does
	l, err := listen(path)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	defer l.Close()
	i, err := os.Stat(path)
	if err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", i.Mode(), err)
	}
	if _, err := net.Dial("unix", path); err != nil {
		t.Errorf("dial: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(file); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("in the place of a file: %v", err)
	}
	if b, _ := os.ReadFile(file); string(b) != "x" {
		t.Errorf("the file is now %q", b)
	}
}

// A daemon that is told to end answers the calls that it has begun.
func TestServerFinishesWhatItBegan(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- serveOn(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(begun)
			<-ctx.Done()
			fmt.Fprint(w, "done")
		}))
	}()
	client := http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) },
	}}
	answer := make(chan string, 1)
	go func() {
		r, err := client.Get("http://weftd/")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		answer <- string(b)
	}()
	<-begun
	cancel()
	if got := <-answer; got != "done" {
		t.Errorf("answer: %q", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("serve: %v", err)
	}
}

func TestLockIsTakenWhenTheOtherEnds(t *testing.T) {
	dir := t.TempDir()
	first, err := acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	tries := 0
	take := func(dir string) (*lock, error) {
		if tries++; tries == 3 {
			first.release()
		}
		return acquire(dir)
	}
	log := slog.New(slog.DiscardHandler)
	second, err := patient(t.Context(), time.Minute, log, take, dir)
	if err != nil || tries != 3 {
		t.Fatalf("after %d tries: %v", tries, err)
	}
	if l, err := patient(t.Context(), time.Millisecond, log, take, dir); l != nil || !errors.Is(err, errRunning) {
		t.Errorf("when the time is up: got %v, %v, want errRunning", l, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if l, err := patient(ended, time.Minute, log, take, dir); l != nil || !errors.Is(err, errRunning) {
		t.Errorf("of a daemon that shall end: got %v, %v, want errRunning", l, err)
	}
	second.release()
}

func TestPinsOfAnotherDaemonAreRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pins")
	first, err := acquireDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := acquireDir(dir); !errors.Is(err, errRunning) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second: got %v, want errRunning with the folder", err)
	}
	first.release()
	again, err := acquireDir(dir)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	again.release()
}
