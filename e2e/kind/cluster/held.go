package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/weftnet/weft/e2e/kind/engine"
	"github.com/weftnet/weft/e2e/kind/progress"
)

// heldFile, in a cluster's folder, tells another run how to reach it.
const heldFile = "held.json"

type held struct {
	Spec   Spec     `json:"spec"`
	Nodes  []string `json:"nodes"`
	Engine int      `json:"engine"` // the first process of its namespaces
	Tools  Tools    `json:"tools"`
}

// Hold lets other runs use the cluster, by its folder, until ctx is done.
func (c *Cluster) Hold(ctx context.Context) error {
	b, err := json.Marshal(held{c.Spec, c.Nodes, c.engine.Pid(), c.tools})
	if err != nil {
		return fmt.Errorf("hold cluster: %w", err)
	}
	path := filepath.Join(c.dir, heldFile)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return fmt.Errorf("hold cluster: %w", err)
	}
	<-ctx.Done()
	return os.Remove(path)
}

// Held is the cluster that another run holds, whose files are in dir.
func Held(dir string, log *progress.Log) (*Cluster, error) {
	b, err := os.ReadFile(filepath.Join(dir, heldFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("find held cluster: no run with -hold has its cluster in %s (one folder for each family)", dir)
	}
	var h held
	if err == nil {
		err = json.Unmarshal(b, &h)
	}
	if err != nil {
		return nil, fmt.Errorf("find held cluster: %w", err)
	}
	return &Cluster{Spec: h.Spec, Nodes: h.Nodes, engine: engine.Of(h.Engine), tools: h.Tools, log: log, dir: dir}, nil
}
