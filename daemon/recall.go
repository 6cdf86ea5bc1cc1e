package daemon

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/weftnet/weft/overlay"
)

// recallAfter is how long a daemon that starts waits for its source before it goes by
// what a former one knew.
const recallAfter = 5 * time.Second

// rememberedNodes reads which nodes there were when the daemon last ran. A file that is
// not there, or cannot be read, is none.
func rememberedNodes(stateDir string) []overlay.Node {
	var nodes []overlay.Node
	if !readJSON(filepath.Join(stateDir, nodesFile), &nodes) {
		return nil
	}
	return nodes
}

// rememberNodes writes them, if they are others than were written last.
func (n *node) rememberNodes(nodes []overlay.Node) error {
	if n.written != nil && sameNodes(nodes, n.written) {
		return nil
	}
	if err := writeJSON(filepath.Join(n.cfg.StateDir, nodesFile), nodes); err != nil {
		return fmt.Errorf("remember nodes: %w", err)
	}
	n.written = nodes
	return nil
}

func sameNodes(a, b []overlay.Node) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !sameNode(a[i], b[i]) {
			return false
		}
	}
	return true
}

// recall takes up the nodes that a former daemon knew, so that pods are served and looked
// after although the source does not speak: the Kubernetes API may be away for long. It
// says whether it can. Nothing is pruned by it, and Services are not remembered: those in
// the kernel stay as they are.
func (n *node) recall() bool {
	nodes := rememberedNodes(n.cfg.StateDir)
	c := survey(n.cfg.NodeName, nodes, n.holds)
	if _, err := usable(n.cfg.NodeName, c.self); err != nil || !n.known() {
		return false
	}
	n.mu.Lock()
	n.cluster, n.written = c, nodes
	n.mu.Unlock()
	n.services.begin()
	if err := n.services.recallExposed(); err != nil {
		n.log.Warn("ports of Services are not known, masquerade may take them", "err", err)
	}
	n.log.Warn("the source does not speak, going by what was known last", "nodes", len(nodes))
	return true
}

// serveRecalled puts in force what was recalled.
func (n *node) serveRecalled(selfTest func() error) error {
	if err := n.pass(work{full: true}); err != nil {
		n.log.Warn("synchronisation is not complete, will retry", "err", err)
	}
	if err := selfTest(); err != nil {
		return err
	}
	n.mu.Lock()
	n.recalled = true
	n.mu.Unlock()
	n.publish()
	return nil
}

// errRecalled is that there is no state of the source but that of a former daemon.
var errRecalled = errors.New("the source does not speak")

// errStarting is why pods are not served yet.
var errStarting = errors.New("weftd is starting: its first synchronisation is under way")
