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

// setSysctls writes values below /proc/sys of the calling thread's namespace, by their
// names in dir, unless they are there already. What the kernel does not have (without
// IPv6 there are none of it) has nothing to switch off, and is no error.
//
// The folder is opened once: the kernel keeps the names of all namespaces in the same
// hash chains (fs/proc/proc_sysctl.c, proc_sys_compare), so that to find each folder on
// the way takes the longer the more pods there are.
func setSysctls(dir string, values map[string]string) error {
	at, err := unix.Open("/proc/sys/"+dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open sysctls %s: %w", dir, err)
	}
	defer unix.Close(at)
	var errs []error
	for name, value := range values {
		errs = append(errs, setSysctl(at, name, value))
	}
	return errors.Join(errs...)
}

func setSysctl(at int, name, value string) error {
	fd, have, err := openSysctl(at, name, unix.O_RDWR)
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	if have == value {
		return nil
	}
	if _, err := unix.Pwrite(fd, []byte(value), 0); err != nil {
		return fmt.Errorf("write sysctl %s: %w", name, err)
	}
	return nil
}

// sysctl reads a value; "" if the kernel does not have the key.
func sysctl(key string) (string, error) {
	fd, value, err := openSysctl(unix.AT_FDCWD, "/proc/sys/"+key, unix.O_RDONLY)
	if fd >= 0 {
		unix.Close(fd)
	}
	return value, err
}

// openSysctl opens and reads a key. fd is negative if there is none.
func openSysctl(at int, path string, mode int) (fd int, value string, err error) {
	fd, err = unix.Openat(at, path, mode|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return -1, "", nil
	}
	if err != nil {
		return -1, "", fmt.Errorf("open sysctl %s: %w", path, err)
	}
	var b [64]byte
	n, err := unix.Read(fd, b[:])
	if err != nil {
		unix.Close(fd)
		return -1, "", fmt.Errorf("read sysctl %s: %w", path, err)
	}
	return fd, strings.TrimSpace(string(b[:n])), nil
}
