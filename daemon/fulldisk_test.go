package daemon

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	return func() { t.Helper(); fillDisk(t, dir) }
}

// fillDisk writes until there is no more room.
func fillDisk(t *testing.T, dir string) {
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
	if err := askOnce(p.NS, q.addrs...); err != nil {
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
	l.reach(converge, p.NS, m.attach())
	m.until("two pods", func(s api.Status) bool { return s.Pods == 2 })
}

// After a reboot the first container of the DaemonSet's pod has to make again what was in
// memory; it has noted it all before.
func TestPrepareOnAFullDiskAfterAReboot(t *testing.T) {
	n := newFakeNode(t)
	cfg := DefaultConfig()
	n.do(func() error { // as on nearly every node
		return errors.Join(unix.Mount("bpf", bpfMount, "bpf", 0, ""),
			unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""))
	})
	n.must(Prepare(cfg, n.proc))
	want := n.files()
	n.do(func() error {
		return errors.Join(os.RemoveAll("/run/weft"), os.RemoveAll("/run/netns"), os.Remove(xtablesLock),
			unix.Mount("none", "/var/lib", "", unix.MS_REMOUNT, "size=64k"))
	})
	fillDisk(t, n.root+cfg.StateDir)
	n.must(os.Remove(filepath.Join(n.proc, "sys")))
	n.must(os.MkdirAll(filepath.Join(n.proc, "sys/kernel/random"), 0o755))
	n.must(os.WriteFile(filepath.Join(n.proc, "sys/kernel/random/boot_id"), []byte("another\n"), 0o644))
	n.must(Prepare(cfg, n.proc))
	n.must(os.Remove(filepath.Join(n.root+cfg.StateDir, "foreign")))
	if diff := cmp.Diff(want, n.files()); diff != "" {
		t.Errorf("-before +after the reboot:\n%s", diff)
	}
}
