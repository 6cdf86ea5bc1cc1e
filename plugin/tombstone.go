package plugin

import (
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/weftnet/weft/internal/api"
)

// tombstone notes a DEL that found no daemon. The daemon reads these files when it
// starts and now and then, does the DEL, and removes them.
type tombstone struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
	Network     string `json:"network"`
}

// writeTombstone is done when the note will survive a power failure. Writing it again
// is harmless.
func writeTombstone(stateDir string, a api.Attach) error {
	b, err := json.Marshal(tombstone{a.ContainerID, a.IfName, a.Network})
	if err != nil {
		return fmt.Errorf("encode tombstone: %w", err)
	}
	dir := filepath.Join(stateDir, api.TombstoneDir)
	err = os.MkdirAll(dir, 0o700)
	if err == nil {
		name := fmt.Sprintf("%x.json", sha1.Sum([]byte(a.ContainerID+"/"+a.IfName)))
		err = writeFile("tombstone", filepath.Join(dir, name), b, 0o600)
	}
	if err != nil {
		return &api.Error{Code: api.CodeIO, Msg: "neither the Weft daemon nor the disk could take this DEL", Details: err.Error()}
	}
	return nil
}
