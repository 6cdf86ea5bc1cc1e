package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/weftnet/weft/internal/crash"
)

// Remove is for uninstalling: it detaches all our links, removes our filters from the
// devices of the calling thread's network namespace, and all layouts, and then dir
// itself, unless it is a mount point or holds something that is not ours.
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
	errs = append(errs, removeFilters())
	_, err = removeLayouts(dir, "")
	errs = append(errs, err, removeLasting(dir, nil))
	for _, d := range []string{linkDir, lastingDir(dir), servingDir(dir), dir} {
		err := os.Remove(d)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EBUSY) {
			errs = append(errs, fmt.Errorf("remove folder of pins: %w", err))
		}
	}
	return errors.Join(errs...)
}

func removeFilters() error {
	c, err := openTC()
	if err != nil {
		return err
	}
	defer c.close()
	filters, err := c.allFilters()
	errs := []error{err}
	for h := range filters {
		errs = append(errs, c.deleteFilter(h))
	}
	return errors.Join(errs...)
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

// Former says whether a former daemon's layout is there, which [Datapath.Commit] will
// remove: its programs may be in force, with its maps.
func (d *Datapath) Former() (bool, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return false, fmt.Errorf("read layouts: %w", err)
	}
	for _, e := range entries {
		if e.Name() != d.layout && layoutName.MatchString(e.Name()) {
			return true, nil
		}
	}
	return false, nil
}

func lastingDir(dir string) string { return filepath.Join(dir, "lasting") }

// removeLasting removes the lasting maps whose pins are not among those to keep.
func removeLasting(dir string, keep map[string]string) error {
	entries, err := os.ReadDir(lastingDir(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read lasting maps: %w", err)
	}
	kept := map[string]bool{}
	for _, path := range keep {
		kept[path] = true
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(lastingDir(dir), e.Name())
		if kept[path] {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			errs = append(errs, fmt.Errorf("remove lasting map: %w", err))
		}
		crash.Point("bpf remove lasting map")
	}
	return errors.Join(errs...)
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
