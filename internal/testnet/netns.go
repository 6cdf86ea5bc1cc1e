// Package testnet makes network namespaces for tests, the demo and benchmarks.
//
// All names are random, so that what uses it can run beside itself, and nothing
// touches the namespace of the machine.
package testnet

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// NS is a network namespace with a name below /run/netns.
type NS struct{ Name string }

// Create makes a namespace whose name begins with prefix, with lo up.
func Create(prefix string) (*NS, error) {
	var b [4]byte
	rand.Read(b[:])
	n := &NS{Name: prefix + "-" + hex.EncodeToString(b[:])}
	if out, err := exec.Command("ip", "netns", "add", n.Name).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("add network namespace %s: %w: %s (is this root?)", n.Name, err, bytes.TrimSpace(out))
	}
	if err := n.IP("link", "set", "lo", "up"); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Path is where the namespace can be opened.
func (n *NS) Path() string { return "/run/netns/" + n.Name }

// Close removes the name; the kernel removes the namespace when nobody is in it.
// A namespace that is gone is no error.
func (n *NS) Close() error {
	if _, err := os.Stat(n.Path()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if out, err := exec.Command("ip", "netns", "del", n.Name).CombinedOutput(); err != nil {
		return fmt.Errorf("delete network namespace %s: %w: %s", n.Name, err, bytes.TrimSpace(out))
	}
	return nil
}

// Do runs f with its thread in the namespace. f must start no goroutine.
func (n *NS) Do(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer home.Close()
	there, err := os.Open(n.Path())
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", n.Name, err)
	}
	ferr := f()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		// The thread stays locked: it ends with its goroutine, and nobody else gets it.
		return errors.Join(ferr, fmt.Errorf("leave network namespace %s: %w", n.Name, err))
	}
	runtime.UnlockOSThread()
	return ferr
}

// Start starts the command in the namespace. Unlike `ip netns exec` it leaves
// /sys as it is, with the BPF and cgroup file systems in it.
func (n *NS) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// Output runs a program in the namespace and returns what it wrote; an error has
// its standard error in it.
func (n *NS) Output(name string, args ...string) (string, error) {
	var out, stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := n.Start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s %s in %s: %w: %s", name, strings.Join(args, " "), n.Name, err,
			bytes.TrimSpace(append(stderr.Bytes(), out.Bytes()...)))
	}
	return out.String(), nil
}

// IP runs ip(8) in the namespace.
func (n *NS) IP(args ...string) error {
	_, err := n.Output("ip", args...)
	return err
}

// Sysctl sets net/... keys in the namespace.
func (n *NS) Sysctl(key, value string) error {
	return n.Do(func() error {
		return os.WriteFile("/proc/sys/"+key, []byte(value), 0o644)
	})
}

// Veth joins two namespaces by a pair of devices, which are up. They do not look for
// duplicates of their addresses, which would keep neighbour discovery from working
// for a second or two.
func Veth(a *NS, nameA string, b *NS, nameB string, mtu int) error {
	if err := a.IP("link", "add", nameA, "mtu", fmt.Sprint(mtu), "type", "veth",
		"peer", "name", nameB, "mtu", fmt.Sprint(mtu), "netns", b.Name); err != nil {
		return err
	}
	for _, end := range []struct {
		ns   *NS
		name string
	}{{a, nameA}, {b, nameB}} {
		if err := end.ns.Sysctl("net/ipv6/conf/"+end.name+"/accept_dad", "0"); err != nil {
			return err
		}
		if err := end.ns.IP("link", "set", end.name, "up"); err != nil {
			return err
		}
	}
	return nil
}
