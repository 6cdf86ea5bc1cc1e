package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

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
	b, err := os.ReadFile(m.tombstonePath(o))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read tombstone: %w", err)
	}
	var t tombstone
	if err := json.Unmarshal(b, &t); err == nil && t.ContainerID == o.ContainerID && t.IfName == o.IfName {
		if l, ok := m.IPAM.Get(o); ok && (t.Network == "" || l.Network == t.Network) {
			if err := m.remove(o); err != nil {
				return err
			}
		}
	}
	return m.dropTombstone(o)
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
		if !strings.HasSuffix(e.Name(), ".json") {
			continue // being written
		}
		path := filepath.Join(dir, e.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, fmt.Errorf("read tombstone: %w", err))
			}
			continue
		}
		var t tombstone
		if err := json.Unmarshal(b, &t); err != nil {
			errs = append(errs, fmt.Errorf("read tombstone %s: %w", path, err))
			continue
		}
		if err := m.bury(ctx, t); err != nil {
			errs = append(errs, err)
			continue
		}
		// One under another name than ours would come back for ever.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove tombstone: %w", err))
		}
	}
	return errors.Join(errs...)
}

// bury does what the DEL of a tombstone would have done.
func (m *Manager) bury(ctx context.Context, t tombstone) error {
	return m.Del(ctx, api.Attach{ContainerID: t.ContainerID, IfName: t.IfName, Network: t.Network})
}
