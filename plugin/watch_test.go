package plugin

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/weftnet/weft/internal/testnet"
)

// On a node with many watchers of files the kernel refuses one more.
func TestFilesAreKeptWithoutNotifications(t *testing.T) {
	root := t.TempDir()
	o := InstallOptions{
		Binary: filepath.Join(root, "weft-cni"), BinDir: filepath.Join(root, "bin"),
		ConfDir: filepath.Join(root, "net.d"), StateDir: filepath.Join(root, "state"),
	}
	if err := os.WriteFile(o.Binary, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	var refused atomic.Int32
	k := keeper{InstallOptions: o, log: slog.New(slog.DiscardHandler)}
	go func() {
		defer close(done)
		k.run(ctx, func() (*fsnotify.Watcher, error) {
			if refused.Add(1) < 3 {
				return nil, syscall.EMFILE
			}
			return fsnotify.NewWatcher()
		})
	}()
	defer func() { cancel(); <-done }()
	for range 3 { // at the start, without notifications, and when there are some
		testnet.Until(t, 10*time.Second, func() error {
			_, err := os.Stat(o.conflist())
			return err
		})
		// What is put back meanwhile hinders a removal.
		testnet.Until(t, 20*time.Second, func() error { return os.RemoveAll(o.ConfDir) })
	}
}
