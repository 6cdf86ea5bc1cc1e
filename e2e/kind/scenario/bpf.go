package scenario

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/e2e/kind/cluster"
)

// deviceHooks and cgroupHooks are where programs can be attached to what a node has.
var (
	deviceHooks = map[string]ebpf.AttachType{"ingress": ebpf.AttachTCXIngress, "egress": ebpf.AttachTCXEgress}
	cgroupHooks = map[string]ebpf.AttachType{
		"ingress": ebpf.AttachCGroupInetIngress, "egress": ebpf.AttachCGroupInetEgress,
		"create": ebpf.AttachCGroupInetSockCreate, "release": ebpf.AttachCgroupInetSockRelease, "ops": ebpf.AttachCGroupSockOps,
		"connect4": ebpf.AttachCGroupInet4Connect, "connect6": ebpf.AttachCGroupInet6Connect,
		"bind4": ebpf.AttachCGroupInet4Bind, "bind6": ebpf.AttachCGroupInet6Bind,
		"sendmsg4": ebpf.AttachCGroupUDP4Sendmsg, "sendmsg6": ebpf.AttachCGroupUDP6Sendmsg,
		"recvmsg4": ebpf.AttachCGroupUDP4Recvmsg, "recvmsg6": ebpf.AttachCGroupUDP6Recvmsg,
		"getpeername4": ebpf.AttachCgroupInet4GetPeername, "getpeername6": ebpf.AttachCgroupInet6GetPeername,
		"getsockname4": ebpf.AttachCgroupInet4GetSockname, "getsockname6": ebpf.AttachCgroupInet6GetSockname,
	}
)

// attached are the BPF programs on a node's devices (TCX) and on its cgroup, one line each.
func attached(node cluster.Process) ([]string, error) {
	var found []string
	ask := func(where string, target int, hooks map[string]ebpf.AttachType) error {
		for name, hook := range hooks {
			r, err := link.QueryPrograms(link.QueryOptions{Target: target, Attach: hook})
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
				continue // it is gone
			}
			if err != nil {
				return fmt.Errorf("ask for the programs at %s of %s: %w", name, where, err)
			}
			for range r.Programs {
				found = append(found, fmt.Sprintf("program at %s of %s", name, where))
			}
		}
		return nil
	}
	err := inNetwork(filepath.Join(node.Dir, "ns/net"), func() error {
		devices, err := net.Interfaces()
		if err != nil {
			return fmt.Errorf("list devices: %w", err)
		}
		for _, d := range devices {
			if err := ask(d.Name, d.Index, deviceHooks); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	dir, err := cgroupOf(node)
	if err != nil {
		return nil, err
	}
	cgroup, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the node's cgroup: %w", err)
	}
	defer cgroup.Close()
	return found, ask("the cgroup", int(cgroup.Fd()), cgroupHooks)
}

// cgroupOf is the folder of a node's cgroup of version 2.
func cgroupOf(node cluster.Process) (string, error) {
	b, err := os.ReadFile(filepath.Join(node.Dir, "cgroup"))
	if err != nil {
		return "", fmt.Errorf("find the node's cgroup: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		path = strings.TrimSuffix(path, "/init.scope") // systemd's, which is the first process
		for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			dir := filepath.Join(mount, path)
			if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
				return dir, nil
			}
		}
	}
	return "", errors.New("find the node's cgroup: it has none of version 2")
}

// inNetwork calls f in a network namespace. f may start no goroutine.
func inNetwork(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// objects are the numbers of BPF maps and programs, which the kernel gives once.
type objects struct {
	maps     []ebpf.MapID
	programs []ebpf.ProgramID
}

// pinned are those that are pinned below a node's folder, and the programs in the links.
func pinned(dir string) (objects, error) {
	var found objects
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		m, mapErr := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if mapErr == nil {
			defer m.Close()
			info, err := m.Info()
			if err != nil {
				return err
			}
			id, _ := info.ID()
			found.maps = append(found.maps, id)
			return nil
		}
		l, linkErr := link.LoadPinnedLink(path, nil)
		if linkErr != nil {
			return fmt.Errorf("%s is neither map nor link: %w, %w", path, mapErr, linkErr)
		}
		defer l.Close()
		info, err := l.Info()
		if err != nil {
			return err
		}
		found.programs = append(found.programs, info.Program)
		return nil
	})
	if err != nil {
		return found, fmt.Errorf("read what is pinned: %w", err)
	}
	slices.Sort(found.programs)
	found.programs = slices.Compact(found.programs)
	return found, nil
}

// gone is nil if none of the objects exists any more.
func (o objects) gone() error {
	for _, id := range o.maps {
		if m, err := ebpf.NewMapFromID(id); err == nil {
			defer m.Close()
			return fmt.Errorf("map %d (%s) exists", id, m)
		} else if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("look for map %d: %w", id, err)
		}
	}
	for _, id := range o.programs {
		if p, err := ebpf.NewProgramFromID(id); err == nil {
			defer p.Close()
			return fmt.Errorf("program %d (%s) exists", id, p)
		} else if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("look for program %d: %w", id, err)
		}
	}
	return nil
}
