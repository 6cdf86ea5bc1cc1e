package endpoint

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// conf is the folder of all devices' sysctls of one family, as the host's namespace has it.
// It stays open: the kernel keeps the names of all namespaces in the same hash chains
// (fs/proc/proc_sysctl.c, proc_sys_compare), so that to find the folders on the way takes
// the longer the more pods there are.
type conf struct {
	name string // below /proc/sys

	once sync.Once
	file *os.File // nil: it cannot be opened
}

// of is the folder of a device. The first call must be of a thread in the host's namespace.
func (c *conf) of(ifname string) sysctlDir {
	c.once.Do(func() {
		c.file, _ = os.OpenFile("/proc/sys/"+c.name, unix.O_PATH|unix.O_DIRECTORY, 0) // then it is found anew
	})
	return sysctlDir{name: c.name + "/" + ifname, base: c.file, path: ifname}
}

const (
	conf4 = "net/ipv4/conf"
	conf6 = "net/ipv6/conf"
)

// sysctlDir is a folder of sysctls.
type sysctlDir struct {
	name string   // below /proc/sys
	base *os.File // an open folder, which path is below; nil: it is found by name
	path string
}

// open returns the folder; -1, if the kernel does not have it (without IPv6 there is none
// of it).
func (d sysctlDir) open() (int, error) {
	at, path := unix.AT_FDCWD, "/proc/sys/"+d.name
	if d.base != nil {
		at, path = int(d.base.Fd()), d.path
	}
	fd, err := unix.Openat(at, path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("open sysctls %s: %w", d.name, err)
	}
	return fd, nil
}

// set writes values by their names, unless they are there already. What the kernel does not
// have has nothing to switch off, and is no error. Unless the folder is below an open one, it
// is that of the calling thread's namespace.
func (d sysctlDir) set(values map[string]string) error {
	at, err := d.open()
	if at < 0 {
		return err
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

// inspect says what is not as wanted; a key that the kernel does not have is right.
func (d sysctlDir) inspect(want map[string]string, found *look) error {
	at, err := d.open()
	if at < 0 {
		return err
	}
	defer unix.Close(at)
	for name, value := range want {
		fd, have, err := openSysctl(at, name, unix.O_RDONLY)
		if err != nil {
			return err
		}
		if fd < 0 {
			continue
		}
		unix.Close(fd)
		if have != "" && have != value {
			found.addf("sysctl %s/%s is %s, not %s", d.name, name, have, value)
		}
	}
	return nil
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
