package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/weftnet/weft/e2e/kind/proc"
)

// cloneFlags are the namespaces that the engine has for itself.
const cloneFlags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC

// Able is nil if this machine lets us do what an engine needs: else it says what is missing.
func Able(ctx context.Context) error {
	cmd := proc.Command(ctx, "true")
	cmd.SysProcAttr.Cloneflags = cloneFlags
	if err := proc.Run(cmd); err != nil {
		return fmt.Errorf("make namespaces, which root needs CAP_SYS_ADMIN for: %w", err)
	}
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	return writable(mounts)
}

// writable is nil if cgroups can be made in all hierarchies.
func writable(mounts []cgroupMount) error {
	if len(mounts) == 0 {
		return errors.New("no cgroup hierarchy is mounted in /sys/fs/cgroup")
	}
	for _, m := range mounts {
		dir := filepath.Join(m.path, fmt.Sprintf("weft-kind-able-%d", os.Getpid()))
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			err = os.Remove(dir)
		}
		if err != nil {
			return fmt.Errorf("make a cgroup: %w: %s must be mounted for writing (in a container: a privileged one)", err, m.path)
		}
	}
	return nil
}
