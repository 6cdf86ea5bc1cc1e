package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// asContainer makes the test's binary the process of a container, as a runtime would: its
// value is a container as JSON.
const asContainer = "WEFT_TEST_CONTAINER"

// container is what a runtime makes of a container of a Pod.
type container struct {
	Root         string
	Mounts       []mount
	Capabilities []int // nil: all, and /proc/sys can be written
	OpenSysctls  bool  // it can be written without
	Args         []string
	Env          []string
}

type mount struct {
	From, To string
	ReadOnly bool
	// Follow is mountPropagation: HostToContainer.
	Follow bool
}

// becomeContainer makes the mounts, drops the rights and executes the program. It returns
// only an error. It needs a mount and PID namespace of its own.
func becomeContainer(text string) error {
	var c container
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	runtime.LockOSThread()
	// What is mounted on the node later arrives; nothing goes the other way.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("slave mounts: %w", err)
	}
	if err := unix.Mount(c.Root, c.Root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind root: %w", err)
	}
	proc := filepath.Join(c.Root, "proc")
	if err := unix.Mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	if err := unix.Mount("sysfs", filepath.Join(c.Root, "sys"), "sysfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount sysfs: %w", err)
	}
	mounts := append([]mount{{From: "/dev", To: "/dev"}}, c.Mounts...)
	if c.Capabilities != nil && !c.OpenSysctls {
		mounts = append(mounts, mount{From: filepath.Join(proc, "sys"), To: "/proc/sys", ReadOnly: true})
	}
	for _, m := range mounts {
		to := filepath.Join(c.Root, m.To)
		if err := unix.Mount(m.From, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.From, to, err)
		}
		if !m.Follow {
			if err := unix.Mount("", to, "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("private %s: %w", to, err)
			}
		}
		if m.ReadOnly {
			if err := unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
				return fmt.Errorf("read-only %s: %w", to, err)
			}
		}
	}
	if err := unix.Mount("", c.Root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("read-only root: %w", err)
	}
	if err := unix.Chroot(c.Root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if c.Capabilities != nil {
		if err := keepCapabilities(c.Capabilities); err != nil {
			return err
		}
	}
	// The program's rights are the thread's; other threads end.
	return fmt.Errorf("execute %v: %w", c.Args, syscall.Exec(c.Args[0], c.Args, c.Env))
}

// keepCapabilities drops all but these from what root has after the next execve
// (capabilities(7): the bounding set).
func keepCapabilities(keep []int) error {
	kept := map[int]bool{}
	for _, c := range keep {
		kept[c] = true
	}
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if kept[c] {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}
