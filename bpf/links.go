package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/reconcile"
)

// links is the table of programs on devices: those of pods in filters (filters.go), the
// others each in a TCX link (tcx.go). The link of a former daemon that had from_pod in
// one counts as well.
type links struct{ d *Datapath }

// Links is the table of attached programs, in the calling thread's network namespace.
// Dump leaves out a link or filter that no longer runs a program of the datapath, so
// that it is set again, and removes the pins of links whose device is gone. Until
// [Datapath.Commit], a former daemon's program of the same name counts as ours.
func (d *Datapath) Links() reconcile.Target[Hook, struct{}] { return links{d} }

func (t links) Dump() (map[Hook]struct{}, error) {
	known := map[ebpf.ProgramID]bool{}
	out, err := t.d.dumpLinks(known)
	if err != nil {
		return nil, err
	}
	c, err := openTC()
	if err != nil {
		return nil, err
	}
	defer c.close()
	filters, err := c.allFilters()
	if err != nil {
		return nil, err
	}
	for h, f := range filters {
		if t.d.inForce(h, f, known) {
			out[h] = struct{}{}
		}
	}
	return out, nil
}

func (t links) Get(h Hook) (struct{}, bool, error) {
	known := map[ebpf.ProgramID]bool{}
	if h.inFilter() {
		c, err := openTC()
		if err != nil {
			return struct{}{}, false, err
		}
		defer c.close()
		found, err := c.filters(h)
		if err != nil || t.d.inForce(h, found[h], known) {
			return struct{}{}, err == nil, err
		}
	}
	ok, err := t.d.linked(h, known)
	return struct{}{}, ok, err
}

// Set makes the device run our program: in the filter or link it has, without a gap,
// else in a new one. A former daemon's program stays until [Datapath.Commit], as its
// maps have the rows and ours may not yet.
func (t links) Set(h Hook, _ struct{}) error {
	prog := t.d.programs[h.Program]
	if prog == nil || h.isSocket() {
		return fmt.Errorf("attach %s to device %d: no such program", h.Program, h.IfIndex)
	}
	known := map[ebpf.ProgramID]bool{}
	if !h.inFilter() {
		if ok, err := t.d.linked(h, known); ok || err != nil {
			return err
		}
		return t.d.setLink(h, prog)
	}
	l, info, err := t.d.openLink(h)
	if err != nil {
		return err
	}
	if l != nil {
		l.Close()
		if t.d.fits(h.Program, info.Program, known) {
			return nil
		}
	}
	c, err := openTC()
	if err != nil {
		return err
	}
	defer c.close()
	if err = c.addFilter(h, prog); errors.Is(err, unix.EEXIST) {
		var found map[Hook]filter
		if found, err = c.filters(h); err == nil && !t.d.inForce(h, found[h], known) {
			err = c.setFilter(h, prog)
		}
	}
	if err != nil {
		return fmt.Errorf("attach %s to device %d: %w", h.Program, h.IfIndex, err)
	}
	if l != nil { // it ran something else
		return detach(t.d.linkPin(h))
	}
	return nil
}

func (t links) Delete(h Hook) error {
	err := detach(t.d.linkPin(h))
	if !h.inFilter() {
		return err
	}
	c, e := openTC()
	if e != nil {
		return errors.Join(err, e)
	}
	defer c.close()
	return errors.Join(err, c.deleteFilter(h))
}

// inForce says whether a filter is one that does what a pod's must.
func (d *Datapath) inForce(h Hook, f filter, known map[ebpf.ProgramID]bool) bool {
	return f.runs(h.Program) && f.direct && d.fits(h.Program, f.program, known)
}

// fits says whether the loaded program id will do as p: it is ours or, before Commit, a
// former daemon's of the same name. known caches former programs by id.
func (d *Datapath) fits(p Program, id ebpf.ProgramID, known map[ebpf.ProgramID]bool) bool {
	if id == d.ids[p] {
		return true
	}
	if d.committed.Load() {
		return false
	}
	ours, seen := known[id]
	if !seen {
		ours = programName(id) == string(p)
		known[id] = ours
	}
	return ours
}

// Commit ends a start or an upgrade: when all rows are written and [Datapath.SelfTest]
// was well, it moves every link and filter that runs a former program to ours, each in
// one step of the kernel, then removes the layouts that nothing uses any more. If one
// cannot be moved, no layout is removed, and Commit may be called again.
func (d *Datapath) Commit() error {
	c, err := openTC()
	if err != nil {
		return err
	}
	defer c.close()
	entries, err := os.ReadDir(d.linkDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read pinned links: %w", err)
	}
	var errs []error
	moved := 0
	note := func(ok bool, err error) {
		if ok {
			moved++
		}
		errs = append(errs, err)
	}
	for _, e := range entries {
		h, ok := hookOf(e.Name())
		switch {
		case !ok || d.programs[h.Program] == nil:
			errs = append(errs, detach(filepath.Join(d.linkDir(), e.Name())))
		case h.inFilter():
			note(d.takeOver(c, h))
		default:
			note(d.move(h))
		}
	}
	filters, err := c.allFilters()
	errs = append(errs, err)
	for h, f := range filters {
		if f.program == d.ids[h.Program] && f.direct {
			continue
		}
		err := c.setFilter(h, d.programs[h.Program])
		if err != nil {
			err = fmt.Errorf("replace %s on device %d: %w", h.Program, h.IfIndex, err)
		}
		note(err == nil, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("move links: %w", err)
	}
	d.committed.Store(true)
	// The former programs may have looked in another `alive`, or counted otherwise.
	if err := errors.Join(d.lookAgain(), d.forgetKnown()); err != nil {
		return err
	}
	removed, err := removeLayouts(d.dir, d.layout)
	err = errors.Join(err, removeLasting(d.dir, d.pins))
	if moved > 0 || removed > 0 {
		d.log.Info("datapath in force", "layout", d.layout, "links", moved, "layoutsRemoved", removed)
	}
	return err
}

// takeOver moves from_pod from a former daemon's TCX link to a filter: first there is
// one more, which sees what the link's leaves to the stack and says the same, then one
// less. Where there can be no filter, the link stays and runs our program.
func (d *Datapath) takeOver(c *tc, h Hook) (bool, error) {
	l, _, err := d.openLink(h)
	if l == nil || err != nil {
		return false, err
	}
	l.Close()
	if err := c.setFilter(h, d.programs[h.Program]); err != nil {
		d.log.Warn("a pod keeps its TCX link", "ifindex", h.IfIndex, "err", err)
		return d.move(h)
	}
	return true, detach(d.linkPin(h))
}

// dumpLinks lists the hooks that have a working link.
func (d *Datapath) dumpLinks(known map[ebpf.ProgramID]bool) (map[Hook]struct{}, error) {
	out := map[Hook]struct{}{}
	entries, err := os.ReadDir(d.linkDir())
	if errors.Is(err, os.ErrNotExist) {
		return out, nil
	} else if err != nil {
		return nil, fmt.Errorf("read pinned links: %w", err)
	}
	var errs []error
	for _, e := range entries {
		h, ok := hookOf(e.Name())
		if !ok || h.isSocket() {
			continue
		}
		ok, err := d.linked(h, known)
		if err != nil {
			errs = append(errs, err)
		} else if ok {
			out[h] = struct{}{}
		}
	}
	return out, errors.Join(errs...)
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
