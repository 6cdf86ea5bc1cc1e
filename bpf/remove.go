package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cilium/ebpf/link"

	"github.com/weftnet/weft/internal/crash"
)

// Remove is for uninstalling: it detaches all our links and removes all layouts, and
// then dir itself, unless it is a mount point or holds something that is not ours.
func Remove(dir string) error {
	linkDir := filepath.Join(dir, "links")
	entries, err := os.ReadDir(linkDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read pinned links: %w", err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, detach(filepath.Join(linkDir, e.Name())))
	}
	_, err = removeLayouts(dir, "")
	errs = append(errs, err)
	for _, d := range []string{linkDir, dir} {
		err := os.Remove(d)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EBUSY) {
			errs = append(errs, fmt.Errorf("remove folder of pins: %w", err))
		}
	}
	return errors.Join(errs...)
}

// detach ends a pinned link at once, whoever else holds it, and removes its pin.
func detach(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		// The link of a device that is gone cannot be detached, and need not be.
		_ = l.Detach()
		l.Close()
		crash.Point("bpf detach link")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pin: %w", err)
	}
	crash.Point("bpf unpin link")
	return nil
}

// removeLayouts removes all layouts but one, and returns how many.
func removeLayouts(dir, keep string) (int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, fmt.Errorf("read layouts: %w", err)
	}
	n := 0
	var errs []error
	for _, e := range entries {
		if e.Name() == keep || !layoutName.MatchString(e.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			errs = append(errs, fmt.Errorf("remove layout: %w", err))
			continue
		}
		crash.Point("bpf remove layout")
		n++
	}
	return n, errors.Join(errs...)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func mkdir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make folder for pins: %w", err)
	}
	return nil
}
