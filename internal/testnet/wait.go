package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Wait calls f until it returns nil; if ctx ends first, it returns f's last error.
func Wait(ctx context.Context, f func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// BPFFS mounts a BPF file system on a folder below dir. unmount may be repeated.
func BPFFS(dir string) (path string, unmount func() error, err error) {
	path = filepath.Join(dir, "bpffs")
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", nil, fmt.Errorf("make mount point: %w", err)
	}
	if err := unix.Mount("bpf", path, "bpf", 0, "mode=0700"); err != nil {
		return "", nil, fmt.Errorf("mount BPF file system on %s: %w", path, err)
	}
	return path, func() error {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}, nil
}
