package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// onNode runs f on a thread that is in the mount and cgroup namespaces of the node's
// first process. proc is the node's /proc. f must start no goroutine. /proc/self is
// another thread's there: only /proc/thread-self is f's own.
func onNode(proc string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: no other goroutine gets the thread, which ends with this one.
		runtime.LockOSThread()
		done <- func() error {
			var fds []int
			for _, ns := range []string{"cgroup", "mnt"} {
				path := filepath.Join(proc, "1", "ns", ns)
				fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return fmt.Errorf("open the node's namespaces: %w (is the node's /proc mounted at %s, and the container privileged?)",
						&os.PathError{Op: "open", Path: path, Err: err}, proc)
				}
				defer unix.Close(fd)
				fds = append(fds, fd)
			}
			// Threads of Go share their root and working folder; this one leaves (setns(2)).
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("leave the shared working folder: %w", err)
			}
			for i, flag := range []int{unix.CLONE_NEWCGROUP, unix.CLONE_NEWNS} {
				if err := unix.Setns(fds[i], flag); err != nil {
					return fmt.Errorf("enter the node's namespaces: %w", err)
				}
			}
			return f()
		}()
	}()
	return <-done
}

// bootID is of this boot of the machine.
func bootID(proc string) (string, error) {
	b, err := os.ReadFile(filepath.Join(proc, "sys/kernel/random/boot_id"))
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// openSysctls makes /proc/sys writable where a container runtime has made it read-only
// (runc's default for a container that is not privileged, whatever its capabilities).
// The mount is the container's own: the node's stays as it is. Where /proc/sys is
// writable it does nothing.
func openSysctls(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if st.Flags&unix.ST_RDONLY == 0 {
		return nil
	}
	err := unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil {
		return fmt.Errorf("make %s writable: %w: the container needs CAP_SYS_ADMIN, and no AppArmor profile", path, err)
	}
	return nil
}
