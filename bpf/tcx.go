package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/weftnet/weft/internal/crash"
)

// A link of ours is one that is pinned in the folder `links`.

func (d *Datapath) linkDir() string { return filepath.Join(d.dir, "links") }

func (d *Datapath) linkPin(h Hook) string {
	if h.isSocket() {
		return filepath.Join(d.linkDir(), string(h.Program)+socketPin)
	}
	return filepath.Join(d.linkDir(), string(h.Program)+"-"+strconv.Itoa(h.IfIndex))
}

// hookOf reads the name of a pin.
func hookOf(name string) (Hook, bool) {
	if p, ok := strings.CutSuffix(name, socketPin); ok {
		h := Hook{Program: Program(p)}
		return h, h.isSocket()
	}
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return Hook{}, false
	}
	n, err := strconv.Atoi(name[i+1:])
	return Hook{Program: Program(name[:i]), IfIndex: n}, err == nil
}

// openLink returns the pinned link of a hook and what the kernel says of it, or nil if
// there is none that works: then there is no pin any more either.
func (d *Datapath) openLink(h Hook) (link.Link, *link.Info, error) {
	path := d.linkPin(h)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err == nil {
		info, err := l.Info()
		if err != nil {
			l.Close()
			return nil, nil, fmt.Errorf("read link %s: %w", path, err)
		}
		if h.describes(info) {
			return l, info, nil
		}
		l.Close()
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("remove dead pin: %w", err)
	}
	crash.Point("bpf unpin link")
	return nil, nil, nil
}

// describes says whether a link is one of the hook. A link whose device is gone names
// device 0, one whose cgroup is gone cgroup 0.
func (h Hook) describes(info *link.Info) bool {
	if h.isSocket() {
		c := info.Cgroup()
		return c != nil && c.CgroupId != 0 && ebpf.AttachType(c.AttachType) == socketTypes[h.Program]
	}
	tcx := info.TCX()
	return tcx != nil && int(tcx.Ifindex) == h.IfIndex && ebpf.AttachType(tcx.AttachType) == attachTypes[h.Program]
}

// attach makes a new link. The kernel ends a link whose pin was removed only a moment
// after, and until then refuses the same program again: it is tried for a while.
func attach(h Hook, prog *ebpf.Program) (link.Link, error) {
	for deadline := time.Now().Add(500 * time.Millisecond); ; time.Sleep(time.Millisecond) {
		l, err := link.AttachTCX(link.TCXOptions{
			Interface: h.IfIndex, Program: prog, Attach: attachTypes[h.Program],
		})
		if !errors.Is(err, os.ErrExist) || time.Now().After(deadline) {
			return l, err
		}
	}
}

// move makes the hook's link run our program if it runs another; whether it did.
func (d *Datapath) move(h Hook) (bool, error) {
	l, info, err := d.openLink(h)
	if l == nil || err != nil {
		return false, err
	}
	defer l.Close()
	if info.Program == d.ids[h.Program] {
		return false, nil
	}
	if err := l.Update(d.programs[h.Program]); err != nil {
		return false, fmt.Errorf("update link %s: %w", d.linkPin(h), err)
	}
	crash.Point("bpf update link")
	return true, nil
}

// detach ends a pinned link at once, whoever else holds it, and removes its pin.
func detach(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		// The link of a device that is gone cannot be detached, and need not be.
		_ = l.Detach()
		l.Close()
		crash.Point("bpf detach link")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pin: %w", err)
	}
	crash.Point("bpf unpin link")
	return nil
}

// linked says whether the hook's link is alive and runs a program that fits. The pin of
// a dead one is removed.
func (d *Datapath) linked(h Hook, known map[ebpf.ProgramID]bool) (bool, error) {
	l, info, err := d.openLink(h)
	if l == nil || err != nil {
		return false, err
	}
	l.Close()
	return d.fits(h.Program, info.Program, known), nil
}

// setLink makes the link of a hook that has none that fits: the one that is there is
// moved, else there is a new one.
func (d *Datapath) setLink(h Hook, prog *ebpf.Program) error {
	if ok, err := d.move(h); ok || err != nil {
		return err
	}
	if err := mkdir(d.linkDir()); err != nil {
		return err
	}
	l, err := attach(h, prog)
	if err != nil {
		return fmt.Errorf("attach %s to device %d: %w", h.Program, h.IfIndex, err)
	}
	defer l.Close()
	return d.pinLink(h, l)
}

func (d *Datapath) pinLink(h Hook, l link.Link) error {
	crash.Point("bpf attach link")
	if err := l.Pin(d.linkPin(h)); err != nil {
		return fmt.Errorf("pin link: %w", err)
	}
	crash.Point("bpf pin link")
	return nil
}
