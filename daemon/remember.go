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
	b, err := os.ReadFile(filepath.Join(stateDir, nodeFile))
	var n overlay.Node
	if err != nil || json.Unmarshal(b, &n) != nil {
		return overlay.Node{}
	}
	return n
}

// remember writes it. It is not synced to the disk: after a crash of the machine no
// pod lives.
func remember(stateDir string, n overlay.Node) error {
	b, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("encode node: %w", err)
	}
	path := filepath.Join(stateDir, nodeFile)
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("remember node: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(fmt.Errorf("remember node: %w", err), os.Remove(tmp))
	}
	crash.Point("node file")
	return nil
}
