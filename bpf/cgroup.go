package bpf

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/reconcile"
)

// socketPin ends the names of the pins of programs of sockets.
const socketPin = "-cgroup"

func (h Hook) isSocket() bool {
	_, ok := socketTypes[h.Program]
	return ok
}

// socketHooks is the table of programs on one cgroup.
type socketHooks struct {
	d    *Datapath
	path string
}

// SocketHooks is the table of the programs of sockets that run for a cgroup: for all
// sockets that were made by processes in it or below. It is keyed by program; a node
// wants all of [SocketPrograms]. Like [Datapath.Links] it adopts a former daemon's, and
// leaves out what does not run our program, or not on this cgroup.
//
// Other programs on the cgroup run too. Where cgroups of several nodes are nested, the
// inner one's program runs first, and the outer one's is asked about what the inner one
// made of it; nodes that must not see each other's Services have cgroups beside each
// other. Where no cgroup is given (""), the table can only be emptied.
func (d *Datapath) SocketHooks(cgroup string) reconcile.Target[Program, struct{}] {
	return socketHooks{d, cgroup}
}

// SocketPrograms are all programs of sockets.
func SocketPrograms() map[Program]struct{} {
	all := map[Program]struct{}{}
	for p := range socketTypes {
		all[p] = struct{}{}
	}
	return all
}

func (t socketHooks) Dump() (map[Program]struct{}, error) {
	out := map[Program]struct{}{}
	known := map[ebpf.ProgramID]bool{}
	var errs []error
	for _, name := range lastingMaps { // nobody else dumps them all
		errs = append(errs, t.d.repin(name))
	}
	for p := range socketTypes {
		ok, err := t.attached(p, known)
		if ok {
			out[p] = struct{}{}
		}
		errs = append(errs, err)
	}
	return out, errors.Join(errs...)
}

func (t socketHooks) Get(p Program) (struct{}, bool, error) {
	ok, err := t.attached(p, map[ebpf.ProgramID]bool{})
	return struct{}{}, ok, err
}

// attached says whether the program's link is on our cgroup and runs our program. A
// link on another cgroup is ended: it is of a former configuration.
func (t socketHooks) attached(p Program, known map[ebpf.ProgramID]bool) (bool, error) {
	h := Hook{Program: p}
	l, info, err := t.d.openLink(h)
	if l == nil || err != nil {
		return false, err
	}
	l.Close()
	if t.path == "" {
		return true, nil
	}
	id, err := cgroupID(t.path)
	if err != nil {
		return false, err
	}
	if info.Cgroup().CgroupId != id { // openLink gives no other kind of link
		return false, detach(t.d.linkPin(h))
	}
	return t.d.fits(p, info.Program, known), nil
}

// Set attaches the program, in the link it has or in a new one. A former daemon's stays
// until [Datapath.Commit].
func (t socketHooks) Set(p Program, _ struct{}) error {
	h := Hook{Program: p}
	prog := t.d.programs[p]
	if prog == nil || !h.isSocket() {
		return fmt.Errorf("attach %s to cgroup %s: no such program", p, t.path)
	}
	if ok, err := t.attached(p, map[ebpf.ProgramID]bool{}); ok || err != nil {
		return err
	}
	if ok, err := t.d.move(h); ok || err != nil {
		return err
	}
	if err := mkdir(t.d.linkDir()); err != nil {
		return err
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: t.path, Attach: socketTypes[p], Program: prog})
	if err != nil {
		return fmt.Errorf("attach %s to cgroup %s: %w", p, t.path, err)
	}
	defer l.Close()
	return t.d.pinLink(h, l)
}

func (t socketHooks) Delete(p Program) error { return detach(t.d.linkPin(Hook{Program: p})) }

// cgroupID is what the kernel calls a cgroup2 directory: its inode's number.
func cgroupID(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("look at cgroup: %w", &os.PathError{Op: "stat", Path: path, Err: err})
	}
	return st.Ino, nil
}

// netnsCookie is the kernel's name of the network namespace that the calling thread is
// in. Unlike an inode number it is never used again.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("read cookie of the network namespace: %w", err)
	}
	defer unix.Close(fd)
	c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read cookie of the network namespace: %w", err)
	}
	return c, nil
}
