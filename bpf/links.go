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
	"github.com/weftnet/weft/internal/reconcile"
)

// links is the table of programs on devices. A link of ours is one that is pinned in
// the folder `links`.
type links struct{ d *Datapath }

// Links is the table of attached programs. Dump leaves out a link that no longer
// runs a program of the datapath, so that it is set again, and removes the pins of
// links whose device is gone. Until [Datapath.Commit], a former daemon's program of
// the same name counts as ours.
func (d *Datapath) Links() reconcile.Target[Hook, struct{}] { return links{d} }

func (d *Datapath) linkDir() string { return filepath.Join(d.dir, "links") }

func (d *Datapath) linkPin(h Hook) string {
	return filepath.Join(d.linkDir(), string(h.Program)+"-"+strconv.Itoa(h.IfIndex))
}

// hookOf reads the name of a pin.
func hookOf(name string) (Hook, bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return Hook{}, false
	}
	n, err := strconv.Atoi(name[i+1:])
	return Hook{Program: Program(name[:i]), IfIndex: n}, err == nil
}

func (t links) Dump() (map[Hook]struct{}, error) {
	entries, err := os.ReadDir(t.d.linkDir())
	if errors.Is(err, os.ErrNotExist) {
		return map[Hook]struct{}{}, nil
	} else if err != nil {
		return nil, fmt.Errorf("read pinned links: %w", err)
	}
	out := map[Hook]struct{}{}
	known := map[ebpf.ProgramID]bool{}
	var errs []error
	for _, e := range entries {
		h, ok := hookOf(e.Name())
		if !ok {
			continue
		}
		ok, err := t.d.attached(h, known)
		if err != nil {
			errs = append(errs, err)
		} else if ok {
			out[h] = struct{}{}
		}
	}
	return out, errors.Join(errs...)
}

func (t links) Get(h Hook) (struct{}, bool, error) {
	ok, err := t.d.attached(h, map[ebpf.ProgramID]bool{})
	return struct{}{}, ok, err
}

// attached says whether the hook's link is alive and runs our program. The pin of a
// dead one is removed. known caches programs by id.
func (d *Datapath) attached(h Hook, known map[ebpf.ProgramID]bool) (bool, error) {
	l, id, err := d.openLink(h)
	if l == nil || err != nil {
		return false, err
	}
	defer l.Close()
	if id == d.ids[h.Program] {
		return true, nil
	}
	if d.committed.Load() {
		return false, nil
	}
	ours, seen := known[id]
	if !seen {
		ours = programName(id) == string(h.Program)
		known[id] = ours
	}
	return ours, nil
}

// openLink returns the pinned link of a hook and the program it runs, or nil if
// there is none that works: then there is no pin any more either.
func (d *Datapath) openLink(h Hook) (link.Link, ebpf.ProgramID, error) {
	path := d.linkPin(h)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	}
	if err == nil {
		info, err := l.Info()
		if err != nil {
			l.Close()
			return nil, 0, fmt.Errorf("read link %s: %w", path, err)
		}
		// A link whose device is gone names device 0.
		if tcx := info.TCX(); tcx != nil && int(tcx.Ifindex) == h.IfIndex &&
			ebpf.AttachType(tcx.AttachType) == attachTypes[h.Program] {
			return l, info.Program, nil
		}
		l.Close()
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, 0, fmt.Errorf("remove dead pin: %w", err)
	}
	crash.Point("bpf unpin link")
	return nil, 0, nil
}

// Set makes the device run our program: in the link it has, without a gap, else in
// a new one. A former daemon's program stays until [Datapath.Commit], as its maps have
// the rows and ours may not yet.
func (t links) Set(h Hook, _ struct{}) error {
	prog := t.d.programs[h.Program]
	if prog == nil {
		return fmt.Errorf("attach %s to device %d: no such program", h.Program, h.IfIndex)
	}
	if ok, err := t.d.attached(h, map[ebpf.ProgramID]bool{}); ok || err != nil {
		return err
	}
	if ok, err := t.d.move(h); ok || err != nil {
		return err
	}
	if err := mkdir(t.d.linkDir()); err != nil {
		return err
	}
	l, err := attach(h, prog)
	if err != nil {
		return fmt.Errorf("attach %s to device %d: %w", h.Program, h.IfIndex, err)
	}
	defer l.Close()
	crash.Point("bpf attach link")
	if err := l.Pin(t.d.linkPin(h)); err != nil {
		return fmt.Errorf("pin %s on device %d: %w", h.Program, h.IfIndex, err)
	}
	crash.Point("bpf pin link")
	return nil
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

func (t links) Delete(h Hook) error { return detach(t.d.linkPin(h)) }

// Commit ends a start or an upgrade: when all rows are written and [Datapath.SelfTest]
// was well, it moves every link that runs a former program to ours, each in one step
// of the kernel, then removes the layouts that nothing uses any more. If a link cannot
// be moved, no layout is removed, and Commit may be called again.
func (d *Datapath) Commit() error {
	entries, err := os.ReadDir(d.linkDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read pinned links: %w", err)
	}
	var errs []error
	moved := 0
	for _, e := range entries {
		h, ok := hookOf(e.Name())
		if !ok || d.programs[h.Program] == nil {
			errs = append(errs, detach(filepath.Join(d.linkDir(), e.Name())))
			continue
		}
		ok, err := d.move(h)
		if ok {
			moved++
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("move links: %w", err)
	}
	d.committed.Store(true)
	removed, err := removeLayouts(d.dir, d.layout)
	if moved > 0 || removed > 0 {
		d.log.Info("datapath in force", "layout", d.layout, "links", moved, "layoutsRemoved", removed)
	}
	return err
}

// move makes the hook's link run our program if it runs another; whether it did.
func (d *Datapath) move(h Hook) (bool, error) {
	l, id, err := d.openLink(h)
	if l == nil || err != nil {
		return false, err
	}
	defer l.Close()
	if id == d.ids[h.Program] {
		return false, nil
	}
	if err := l.Update(d.programs[h.Program]); err != nil {
		return false, fmt.Errorf("update %s on device %d: %w", h.Program, h.IfIndex, err)
	}
	crash.Point("bpf update link")
	return true, nil
}

// programName is the name a loaded program was given; empty if it is gone.
func programName(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return ""
	}
	return info.Name
}
