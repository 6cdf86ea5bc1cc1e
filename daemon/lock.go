package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// errRunning is what acquire returns while another daemon lives.
var errRunning = errors.New("another weftd runs on this node")

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
		return nil, fmt.Errorf("%w: process %s holds %s; stop it first", errRunning, strings.TrimSpace(string(b)), path)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
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

// release lets the lock go. The file stays: removing it would let two have it.
func (l *lock) release() { l.f.Close() }
