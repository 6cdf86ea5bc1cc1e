package ipam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Release takes the owner's lease away and starts the reuse delay of its addresses,
// both durably; on a full disk the delay perhaps in memory only. No lease is no error.
func (m *Manager) Release(o Owner) error {
	defer m.hold(o)()
	m.mu.Lock()
	have, ok := m.leases[o]
	m.mu.Unlock()
	if !ok {
		return nil
	}
	// The note first: whatever a crash leaves, the address is leased or rests.
	r := released{Addrs: have.Addrs, At: m.now()}
	unnoted := m.store.write(releasedDir, releasedName(r.Addrs), r)
	if err := m.store.remove(attachmentsDir, leaseName(o)); err != nil {
		m.mu.Lock()
		have.unsure = true // the file may be gone; an Allocate writes it again
		m.leases[o] = have
		m.mu.Unlock()
		return fmt.Errorf("release %s: remove lease: %w", o, errors.Join(err, unnoted))
	}
	if unnoted != nil { // where the lease was there may be room now
		unnoted = m.store.write(releasedDir, releasedName(r.Addrs), r)
	}
	if unnoted != nil {
		// Pods that cannot be deleted could keep the disk full for ever.
		m.log.Warn("note released addresses, the next start will not know that they rest", "err", unnoted)
	}
	m.mu.Lock()
	delete(m.leases, o)
	for _, a := range have.Addrs {
		delete(m.taken, a)
		if p := m.poolOf(a); p != nil {
			p.release(rest{a, r.At})
			p.forget(m.rested)
		}
	}
	m.note(r)
	m.mu.Unlock()
	for range 2 { // no call pays for many
		if _, err := m.dropNote(); err != nil {
			m.log.Warn("released addresses", "err", err)
		}
	}
	return nil
}

// Tidy removes the notes of addresses whose reuse delay is over. Release removes two each
// time; without Tidy the last ones would stay until there is another.
func (m *Manager) Tidy() error {
	var errs []error
	for {
		more, err := m.dropNote()
		if err != nil {
			errs = append(errs, err)
		}
		if !more {
			return errors.Join(errs...)
		}
	}
}

// note remembers a file in released/.
func (m *Manager) note(r released) {
	m.notes = append(m.notes, r)
	m.noteAt[releasedName(r.Addrs)] = r.At
}

// dropNote removes the oldest note if its reuse delay is over; false: there is none such.
// It is not made durable: a note that comes back says that its time is over.
func (m *Manager) dropNote() (bool, error) {
	m.mu.Lock()
	if len(m.notes) == 0 || !m.rested(rest{at: m.notes[0].At}) {
		m.mu.Unlock()
		return false, nil
	}
	r := m.notes[0]
	m.notes = m.notes[1:]
	name := releasedName(r.Addrs)
	last := m.noteAt[name].Equal(r.At) // the addresses were not released once more
	if last {
		delete(m.noteAt, name)
	}
	m.mu.Unlock()
	if !last {
		return true, nil
	}
	if err := m.store.fs.Remove(filepath.Join(m.store.dir, releasedDir, name)); err != nil {
		return true, fmt.Errorf("remove note of released addresses: %w", err)
	}
	return true, nil
}

// Update stores other opaque data with the owner's lease, durably.
func (m *Manager) Update(o Owner, meta json.RawMessage) error {
	defer m.hold(o)()
	m.mu.Lock()
	have, ok := m.leases[o]
	m.mu.Unlock()
	if !ok {
		return fmt.Errorf("update %s: %w", o, ErrNoLease)
	}
	if !have.unsure && bytes.Equal(have.Meta, meta) {
		return nil
	}
	have.Meta = meta
	err := m.store.write(attachmentsDir, leaseName(o), have.Lease)
	have.unsure = err != nil
	m.mu.Lock()
	m.leases[o] = have
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("update %s: write lease: %w", o, err)
	}
	return nil
}

// Get is the owner's lease. The caller must not change what it points to.
func (m *Manager) Get(o Owner) (Lease, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	have, ok := m.leases[o]
	return have.Lease, ok
}

// Leases are all leases, in order of their owners.
func (m *Manager) Leases() []Lease { return m.list(func(Lease) bool { return true }) }

// ByNetwork are the leases of one CNI network, in order of their owners.
func (m *Manager) ByNetwork(network string) []Lease {
	return m.list(func(l Lease) bool { return l.Network == network })
}

func (m *Manager) list(want func(Lease) bool) []Lease {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Lease, 0, len(m.leases))
	for _, l := range m.leases {
		if want(l.Lease) {
			out = append(out, l.Lease)
		}
	}
	slices.SortFunc(out, func(a, b Lease) int { return strings.Compare(a.Owner.String(), b.Owner.String()) })
	return out
}

// Pools is the state of the pools, in the order of [Manager.SetPools].
func (m *Manager) Pools() []PoolStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]PoolStats, 0, len(m.pools))
	for _, p := range m.pools {
		s := PoolStats{Prefix: p.prefix, Cooling: p.cooling(m.rested), Size: p.size(), ReusedEarly: p.early}
		for a := range m.taken {
			if p.has(a) {
				s.Used++
			}
		}
		out = append(out, s)
	}
	return out
}

// Corrupt lists the files that could not be read and were moved aside, at this start
// or before, until somebody removes them.
func (m *Manager) Corrupt() []Corrupt {
	return slices.DeleteFunc(slices.Clone(m.corrupt), func(c Corrupt) bool {
		names, err := m.store.fs.List(filepath.Dir(c.Path))
		return err == nil && !slices.Contains(names, filepath.Base(c.Path))
	})
}
