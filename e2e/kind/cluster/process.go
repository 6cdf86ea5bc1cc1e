package cluster

import (
	"context"
	"os/exec"
	"path/filepath"
)

// Process is the first process of a node, as long as the node is not stopped.
type Process struct {
	Dir string // in this machine's /proc

	cluster *Cluster
}

// Process finds a node's.
func (c *Cluster) Process(ctx context.Context, node string) (Process, error) {
	root, err := c.Root(ctx, node)
	return Process{filepath.Dir(root), c}, err
}

// Command runs a program of this machine in the node's network namespace.
func (p Process) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	pid := filepath.Base(p.Dir) // in the engine's namespace, as the path shows
	return p.cluster.Command(ctx, "nsenter", append([]string{"--target", pid, "--net", "--", name}, args...)...)
}
