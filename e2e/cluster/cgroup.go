package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/weftnet/weft/bpf"
)

// cgroup makes a cgroup for a node's processes; it ends with the cluster. Nodes share a
// kernel, as in kind: each serves the sockets of its own cgroup.
func (c *Cluster) cgroup() (string, error) {
	root, err := bpf.FindCgroup()
	if errors.Is(err, bpf.ErrNoCgroup) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(root, "weft-test-")
	if err != nil {
		return "", fmt.Errorf("make cgroup: %w", err)
	}
	c.later(func() error { return RemoveCgroup(dir) })
	return dir, nil
}

// RemoveCgroup removes a node's cgroup. It waits a moment for processes that are about to end.
func RemoveCgroup(dir string) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
}

// Join makes a command that is not yet started one of the node's processes: its sockets
// reach Services as those of the node's pods do. The result is to be called when it has
// been started.
func (n *Node) Join(cmd *exec.Cmd) (func(), error) {
	if n.Cgroup == "" {
		return func() {}, nil
	}
	dir, err := os.Open(n.Cgroup)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	return func() { dir.Close() }, nil
}
