package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/weftnet/weft/internal/crash"
	"github.com/weftnet/weft/overlay"
)

// remembered reads who this node was when the daemon last ran, so that its pods are
// looked after before, or although, the source does not tell. A file that is not
// there, or cannot be read, is a node without a past.
func remembered(stateDir string) overlay.Node {
	var n overlay.Node
	if !readJSON(filepath.Join(stateDir, nodeFile), &n) {
		return overlay.Node{}
	}
	return n
}

// remember writes it.
func remember(stateDir string, n overlay.Node) error {
	if err := writeJSON(filepath.Join(stateDir, nodeFile), n); err != nil {
		return fmt.Errorf("remember node: %w", err)
	}
	return nil
}

func readJSON(path string, v any) bool {
	b, err := os.ReadFile(path)
	return err == nil && json.Unmarshal(b, v) == nil
}

// writeJSON replaces a file. It is not synced to the disk: after a crash of the machine
// no pod lives.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	crash.Point("node file")
	return nil
}
