package bpf

import (
	"errors"
	"fmt"
)

// alive tells the programs after each change that what they know of backends is to be looked up
// again: see is_served in src/serve.h.
type alive struct {
	d *Datapath
	table[weftAliveKey, uint32, Place, uint32]
}

func (t alive) Set(k Place, v uint32) error {
	return errors.Join(t.table.Set(k, v), t.d.lookAgain())
}

func (t alive) SetAll(keys []Place, values []uint32) (int, error) {
	n, err := t.table.SetAll(keys, values)
	if again := t.d.lookAgain(); again != nil {
		return 0, errors.Join(err, again) // all are to be set again
	}
	return n, err
}

func (t alive) Delete(k Place) error {
	return errors.Join(t.table.Delete(k), t.d.lookAgain())
}

// knownRevisions is how many revisions of `alive` it takes until rows forget those before: half
// of what they can tell one from another.
const knownRevisions = 1 << 15

// lookAgain counts a change of `alive`. Rows of `brief` have the lower half of the count only, so
// what they have is taken from all before the same comes again.
func (d *Datapath) lookAgain() error {
	d.looked.Lock()
	defer d.looked.Unlock()
	if err := d.repin(weftMapAliveRevision); err != nil {
		return err
	}
	m, at := d.maps[weftMapAliveRevision], uint32(0)
	var revision uint32
	if err := m.Lookup(&at, &revision); err != nil {
		return fmt.Errorf("count a change of backends: %w", err)
	}
	revision++
	if uint16(revision) == 0 {
		revision++
	}
	if err := m.Put(&at, &revision); err != nil {
		return fmt.Errorf("count a change of backends: %w", err)
	}
	if uint16(revision)%knownRevisions > 1 {
		return nil
	}
	return d.forgetKnown()
}

// forgetKnown lets the backends of all flows be looked up again.
func (d *Datapath) forgetKnown() error {
	b, err := d.openBrief()
	if err != nil {
		return err
	}
	defer b.done()
	for i := range b.sets {
		b.sets[i].Known = [briefWays]uint16{}
	}
	return nil
}
