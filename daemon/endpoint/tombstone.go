package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/crash"
	"github.com/weftnet/weft/ipam"
)

// tombstone is what the plugin leaves for a DEL that found no daemon. The file is
// named after the SHA-1 of "<containerID>/<ifname>".
type tombstone struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
	Network     string `json:"network"`
}

func (m *Manager) tombstonePath(o ipam.Owner) string {
	return filepath.Join(m.StateDir, api.TombstoneDir, fmt.Sprintf("%x.json", digest(o)))
}

// workOff finishes a DEL of this owner that found no daemon. The caller holds the
// owner's lock.
func (m *Manager) workOff(o ipam.Owner) error {
	path := m.tombstonePath(o)
	t, err := readTombstone(path)
	if err != nil { // its name says enough
		t = &tombstone{ContainerID: o.ContainerID, IfName: o.IfName}
	}
	if t == nil {
		return nil
	}
	return m.bury(*t, path)
}

// readTombstone answers nil if there is no such file (any more).
func readTombstone(path string) (*tombstone, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read tombstone: %w", err)
	}
	var t tombstone
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("read tombstone %s: %w", path, err)
	}
	return &t, nil
}

// bury does what the DEL of a tombstone would have done, and removes the file. The
// caller holds the owner's lock.
func (m *Manager) bury(t tombstone, path string) error {
	o := ipam.Owner{ContainerID: t.ContainerID, IfName: t.IfName}
	if l, ok := m.IPAM.Get(o); ok && (t.Network == "" || l.Network == t.Network) {
		if err := m.remove(o); err != nil {
			return err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove tombstone: %w", err)
	}
	crash.Point("endpoint: remove tombstone")
	return nil
}

func (m *Manager) dropTombstone(o ipam.Owner) error {
	err := os.Remove(m.tombstonePath(o))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove tombstone: %w", err)
	}
	crash.Point("endpoint: remove tombstone")
	return nil
}

// workOffAll finishes all DELs that found no daemon. A file that cannot be read is
// named in the error and left for a person; it holds nothing else up.
func (m *Manager) workOffAll(ctx context.Context) error {
	dir := filepath.Join(m.StateDir, api.TombstoneDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list tombstones: %w", err)
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(path, ".json") {
			errs = append(errs, m.workOffFile(ctx, path))
		} else {
			errs = append(errs, removeUnfinished(path))
		}
	}
	return errors.Join(errs...)
}

// unfinishedAfter is when a file is no longer being written: its plugin was killed.
// The runtime repeats that DEL.
const unfinishedAfter = time.Minute

func removeUnfinished(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && time.Since(info.ModTime()) < unfinishedAfter {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove unfinished tombstone: %w", err)
	}
	return nil
}

func (m *Manager) workOffFile(ctx context.Context, path string) error {
	t, err := readTombstone(path)
	if err != nil || t == nil {
		return err
	}
	unlock, err := m.locks.lock(ctx, ipam.Owner{ContainerID: t.ContainerID, IfName: t.IfName})
	if err != nil {
		return err
	}
	defer unlock()
	// An ADD may have done it meanwhile, and what is there now is the ADD's.
	if t, err = readTombstone(path); err != nil || t == nil {
		return err
	}
	return m.bury(*t, path)
}
