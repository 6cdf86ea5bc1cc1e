package engine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The names under which our program is something else than the caller's.
const (
	initName    = "weft-kind-init"
	runtimeName = "weft-kind-runc"
)

// Main does the work of the engine's first process or of its containers' runtime, and
// does not return, if this process was started as one. Call it before all else.
func Main() {
	var err error
	switch filepath.Base(os.Args[0]) {
	case initName:
		err = initMain(os.Args[1])
	case runtimeName:
		err = runtimeMain(os.Args[1:])
	default:
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
	os.Exit(0)
}

// initMain is the first process in the namespaces. It ends with the engine, or when it
// gets SIGTERM, and then the kernel ends all others.
func initMain(dir string) error {
	if err := mountAll(); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/"+name, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("set sysctl: %w", err)
		}
	}
	if err := os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:"+os.Getenv("PATH")); err != nil {
		return fmt.Errorf("set PATH: %w", err)
	}
	dockerd, err := exec.LookPath("dockerd")
	if err != nil {
		return fmt.Errorf("find the engine: %w", err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	child, err := os.StartProcess(dockerd, []string{dockerd, "--config-file", filepath.Join(dir, "daemon.json")},
		&os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
	if err != nil {
		return fmt.Errorf("start the engine: %w", err)
	}
	go func() {
		for range stop {
			_ = syscall.Kill(child.Pid, syscall.SIGTERM)
		}
	}()
	for { // the first process inherits all orphans
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return fmt.Errorf("wait for the engine: %w", err)
		case pid == child.Pid && (!status.Exited() || status.ExitStatus() != 0):
			return fmt.Errorf("the engine ended: exit status %d, signal %d", status.ExitStatus(), status.Signal())
		case pid == child.Pid:
			return nil
		}
	}
}

// mountAll gives the mount namespace its own /proc and /sys, which show the other
// namespaces, an empty /run, and an empty configuration of Docker.
func mountAll() error {
	cgroups, err := cgroupMounts()
	if err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	type mount struct {
		kind, path, options string
	}
	mounts := []mount{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"tmpfs", "/run", "mode=0755"},
		{"tmpfs", "/etc/docker", "mode=0755"},
	}
	for i, m := range cgroups {
		if i == 0 && m.path != "/sys/fs/cgroup" { // version 1 or both: folders
			mounts = append(mounts, mount{"tmpfs", "/sys/fs/cgroup", "mode=0755"})
		}
		mounts = append(mounts, mount{m.kind, m.path, m.options})
	}
	mounts = append(mounts, mount{"", "/run/home", ""}, mount{"", "/run/lock", ""})
	for _, m := range mounts {
		if err := os.MkdirAll(m.path, 0o755); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
		if m.kind == "" {
			continue
		}
		if err := unix.Mount(m.kind, m.path, m.kind, 0, m.options); err != nil {
			return fmt.Errorf("mount %s on %s (%s): %w", m.kind, m.path, strings.TrimSpace(m.options), err)
		}
	}
	return nil
}
