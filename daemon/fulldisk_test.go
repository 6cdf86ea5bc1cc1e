package daemon

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// smallDisk mounts a file system of its own at a folder, and answers what fills it up.
func smallDisk(t *testing.T, dir string) (fill func()) {
	t.Helper()
	testnet.Require(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return func() {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(dir, "foreign"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, io.ErrShortWrite) {
			t.Fatal(err)
		}
	}
}

func TestLockNeedsNoRoomOnTheDisk(t *testing.T) {
	dir := t.TempDir()
	smallDisk(t, dir)()
	l, err := acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	if _, err := acquire(dir); !errors.Is(err, errRunning) {
		t.Errorf("second: got %v, want %v", err, errRunning)
	}
}

// Whoever clears up a full disk deletes pods.
func TestFullDiskStopsOnlyNewPods(t *testing.T) {
	l := newLab(t)
	m := l.add()
	fill := smallDisk(t, m.cfg.StateDir)
	m.usual()
	m.start()
	m.ready()
	p, q := m.attach(), m.attach()
	fill()
	m.stop(syscall.SIGKILL)
	fill()
	m.start()
	m.until("ready", func(s api.Status) bool { return s.Ready })
	if err := ask(p.NS, q.addrs...); err != nil {
		t.Error(err)
	}
	ctx := context.Background()
	fill()
	late := &pod{NS: testnet.New(t, "pod"), id: "late"}
	var refused *api.Error
	if _, err := m.client().Add(ctx, late.request()); !errors.As(err, &refused) || refused.Code != api.CodeIO {
		t.Errorf("add on a full disk: got %v, want an error of code %d", err, api.CodeIO)
	}
	fill()
	for range 2 {
		if err := m.client().Del(ctx, q.request()); err != nil {
			t.Errorf("del on a full disk: %v", err)
		}
	}
	if err := os.Remove(filepath.Join(m.cfg.StateDir, "foreign")); err != nil {
		t.Fatal(err)
	}
	l.reach(5*time.Second, p.NS, m.attach())
	m.until("two pods", func(s api.Status) bool { return s.Pods == 2 })
}
