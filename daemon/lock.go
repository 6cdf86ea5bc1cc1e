package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// errRunning is what acquire returns while another daemon lives.
var errRunning = errors.New("another weftd runs on this node")

const (
	// lockPatience is how long a daemon waits for one that is about to end: the API
	// server forgets a Pod whose deletion is forced, and its successor starts, while
	// its container still ends.
	lockPatience = 5 * time.Second
	// pinsPatience is for the moment between a process's locks as the kernel lets them go.
	pinsPatience = time.Second
)

// lock is held as long as the daemon lives; the kernel releases it with the process.
type lock struct{ f *os.File }

// acquire takes the lock of a state folder, which it makes if need be, and writes our
// PID into it. [errRunning], with the other's PID, if it is taken.
func acquire(stateDir string) (*lock, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make state-dir: %w", err)
	}
	path := filepath.Join(stateDir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		b, _ := io.ReadAll(io.LimitReader(f, 32)) // the PID is for the message only
		f.Close()
		return nil, fmt.Errorf("%w: process %s holds %s; stop it first", errRunning, cmp.Or(strings.TrimSpace(string(b)), "of unknown PID"), path)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil && !errors.Is(err, unix.ENOSPC) { // without a PID it is a lock as well
		f.Close()
		return nil, fmt.Errorf("write PID into %s: %w", path, err)
	}
	return &lock{f}, nil
}

// acquireDir takes the folder of pins, which it makes if need be: two daemons that
// have it in common by mistake would remove each other's rows. [errRunning] if it is
// taken.
func acquireDir(dir string) (*lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make bpf-dir: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open bpf-dir: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: bpf-dir %s is its; set another", errRunning, dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return &lock{f}, nil
}

// patient takes a folder's lock as soon as it can be had: it tries until ctx is done or the time
// is up, and then returns what take returned.
func patient(ctx context.Context, most time.Duration, log *slog.Logger, take func(dir string) (*lock, error), dir string) (*lock, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for said := false; ; said = true {
		l, err := take(dir)
		if !errors.Is(err, errRunning) {
			return l, err
		}
		if !said {
			log.Info("wait for another weftd to end", "err", err, "atMost", most)
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// release lets the lock go. The file stays: removing it would let two have it.
func (l *lock) release() { l.f.Close() }
