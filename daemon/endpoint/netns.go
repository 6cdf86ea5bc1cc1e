package endpoint

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// errNoNetns: the path names no network namespace (any more).
var errNoNetns = errors.New("no network namespace there")

// netns is an open network namespace and a netlink socket in it.
type netns struct {
	path   string
	fd     int
	cookie uint64
	*conn
}

// openNetns opens the namespace at path. It returns errNoNetns if there is none.
func openNetns(path string) (*netns, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ESRCH) {
			return nil, fmt.Errorf("open %s: %w", path, errNoNetns)
		}
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	// NS_GET_NSTYPE (ioctl_ns(2)) tells a namespace from the plain file that is
	// left where one was mounted.
	if typ, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || typ != unix.CLONE_NEWNET {
		unix.Close(fd)
		return nil, fmt.Errorf("open %s: %w", path, errNoNetns)
	}
	n := &netns{path: path, fd: fd}
	if err := n.do(func() error {
		n.conn, err = dial()
		return err
	}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if n.cookie, err = netnsCookie(n.conn.fd); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *netns) close() {
	n.conn.close()
	unix.Close(n.fd)
}

// do runs f on a thread that is in the namespace. f must start no goroutine. A
// thread that cannot go back ends with its goroutine.
func (n *netns) do(f func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own namespace: %w", err)
	}
	defer unix.Close(home)
	if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter %s: %w", n.path, err)
	}
	err = f()
	if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
		// The thread stays locked and is not used again.
		return errors.Join(err, fmt.Errorf("leave %s: %w", n.path, back))
	}
	runtime.UnlockOSThread()
	return err
}

// bootID is of this boot of the machine: namespace cookies start anew at the next.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
