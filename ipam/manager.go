package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Manager holds the leases of one node. All methods may be called concurrently;
// calls for one owner wait for each other, calls for different owners only for the
// picking of an address, not for each other's writes.
type Manager struct {
	store   store
	now     func() time.Time
	delay   time.Duration
	log     *slog.Logger
	corrupt []Corrupt

	mu     sync.Mutex
	idle   *sync.Cond // some owner is no longer busy
	busy   map[Owner]bool
	pools  []*pool
	leases map[Owner]held
	taken  map[netip.Addr]Owner
	notes  []released           // on the disk, oldest first
	noteAt map[string]time.Time // by file name: the newest note of that name
}

// held is a lease. After a failed write it is unsure what the disk says of it.
type held struct {
	Lease
	unsure bool
}

// Open reads what an earlier process left in dir, the daemon's state directory.
// Files that cannot be read do not block the start; see [Manager.Corrupt].
func Open(dir string, o Options) (*Manager, error) {
	m := &Manager{
		store: store{fs: o.FS, dir: dir}, now: o.Now, delay: cmp.Or(o.ReuseDelay, DefaultReuseDelay), log: o.Log,
		busy: map[Owner]bool{}, leases: map[Owner]held{}, taken: map[netip.Addr]Owner{}, noteAt: map[string]time.Time{},
	}
	m.idle = sync.NewCond(&m.mu)
	if m.store.fs == nil {
		m.store.fs = osFS{}
	}
	if m.now == nil {
		m.now = time.Now
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	found, err := m.store.load()
	if err != nil {
		return nil, fmt.Errorf("open leases in %s: %w", dir, err)
	}
	m.corrupt = found.corrupt
	for _, c := range found.corrupt {
		m.log.Error("unreadable lease file moved aside", "path", c.Path, "err", c.Err)
	}
	for _, l := range found.leases {
		m.leases[l.Owner] = held{Lease: l}
		for _, a := range l.Addrs {
			m.taken[a] = l.Owner
		}
	}
	now := m.now()
	for _, r := range found.released {
		if r.At.After(now) { // the clock went back; nobody should wait for ever
			r.At = now
		}
		m.note(r)
	}
	return m, nil
}

// SetPools makes these the pools to allocate from, at most all addresses of an
// attachment's family from one of them. A pool that stays keeps its state. Leases
// outside of every pool are kept until they are released. On an error (a pool too
// small, or two that overlap) nothing changes.
func (m *Manager) SetPools(prefixes []netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	pools := make([]*pool, 0, len(prefixes))
	for _, prefix := range prefixes {
		for _, p := range pools {
			if p.prefix.Overlaps(prefix) {
				return fmt.Errorf("set pools: %s and %s overlap", p.prefix, prefix)
			}
		}
		p, err := newPool(prefix)
		if err != nil {
			return fmt.Errorf("set pools: %w", err)
		}
		if i := slices.IndexFunc(m.pools, func(old *pool) bool { return old.prefix == p.prefix }); i >= 0 {
			p = m.pools[i]
		} else {
			m.fill(p)
		}
		pools = append(pools, p)
	}
	m.pools = pools
	return nil
}

// fill tells a new pool what rests, and lets it begin behind the address that was
// in use last, so that a restart does not shorten the time until an address is reused.
func (m *Manager) fill(p *pool) {
	var latest time.Time
	behind := func(a netip.Addr, at time.Time) {
		if p.has(a) && at.After(latest) {
			latest = at
			p.startAfter(a)
		}
	}
	for _, n := range m.notes {
		for _, a := range n.Addrs {
			if _, taken := m.taken[a]; !taken && p.has(a) {
				p.release(rest{a, n.At})
			}
			behind(a, n.At)
		}
	}
	for _, l := range m.leases {
		for _, a := range l.Addrs {
			behind(a, l.At)
		}
	}
}

// Allocate gives the owner one address of each family that has a pool. It is durable
// when Allocate returns. An owner that holds a lease gets the same one again, unless
// it asks for addresses that are not in it.
func (m *Manager) Allocate(req Request) (Lease, error) {
	o := req.Owner
	if o.ContainerID == "" || o.IfName == "" {
		return Lease{}, errors.New("allocate: owner without container or interface")
	}
	defer m.hold(o)()

	m.mu.Lock()
	have, exists := m.leases[o]
	var picked []rest
	var err error
	if !exists {
		picked, err = m.pick(req)
	}
	m.mu.Unlock()
	if err != nil {
		return Lease{}, fmt.Errorf("allocate for %s: %w", o, err)
	}
	l := Lease{Owner: o, Network: req.Network, Meta: req.Meta, At: m.now()}
	if exists {
		for _, w := range req.Want {
			if !slices.Contains(have.Addrs, w.Unmap()) {
				return Lease{}, fmt.Errorf("allocate %s for %s, which holds %v: %w", w, o, have.Addrs, ErrTaken)
			}
		}
		if !have.unsure {
			return have.Lease, nil
		}
		l.Addrs = have.Addrs
	}
	for _, r := range picked {
		l.Addrs = append(l.Addrs, r.addr)
	}
	if req.MetaFor != nil {
		l.Meta = req.MetaFor(l.Addrs)
	}
	if err := m.commit(l, picked); err != nil {
		return Lease{}, err
	}
	return l, nil
}

// commit makes a lease durable. If that fails, its addresses are given back, once it
// is certain that no file names them; until then the owner keeps them, and its next
// Allocate or Release tries again.
func (m *Manager) commit(l Lease, picked []rest) error {
	name := leaseName(l.Owner)
	err := m.store.stage(attachmentsDir, name, l)
	var undone error
	if err == nil {
		if err = m.store.place(attachmentsDir, name); err != nil {
			undone = m.store.remove(attachmentsDir, name)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		m.leases[l.Owner] = held{Lease: l}
		return nil
	case undone == nil && picked != nil:
		m.unpick(picked)
	default:
		m.leases[l.Owner] = held{Lease: l, unsure: true}
	}
	return fmt.Errorf("allocate for %s: write lease: %w", l.Owner, errors.Join(err, undone))
}

// pick reserves addresses in memory. Those asked for come first, then one of each
// family that is still missing. m.mu is held.
func (m *Manager) pick(req Request) (picked []rest, err error) {
	if len(m.pools) == 0 {
		return nil, ErrNoPool
	}
	defer func() {
		if err != nil {
			m.unpick(picked)
			picked = nil
		}
	}()
	reserve := func(r rest) {
		m.taken[r.addr] = req.Owner
		picked = append(picked, r)
	}
	has := func(v4 bool) bool {
		return slices.ContainsFunc(picked, func(r rest) bool { return r.addr.Is4() == v4 })
	}
	for _, w := range req.Want {
		w = w.Unmap()
		p := m.poolOf(w)
		if p == nil {
			return picked, fmt.Errorf("%s: %w", w, ErrNotInPool)
		}
		if owner, taken := m.taken[w]; taken {
			return picked, fmt.Errorf("%s belongs to %s: %w", w, owner, ErrTaken)
		}
		if has(w.Is4()) {
			return picked, fmt.Errorf("%s: a second address of one family: %w", w, ErrNotInPool)
		}
		r, rests := p.unrest(w)
		if rests && !m.rested(r) {
			p.early++
		}
		reserve(rest{w, r.at})
	}
	for _, v4 := range []bool{true, false} {
		if has(v4) || !slices.ContainsFunc(m.pools, func(p *pool) bool { return p.first.Is4() == v4 }) {
			continue
		}
		r, ok := m.any(v4)
		if !ok {
			return picked, ErrPoolEmpty
		}
		reserve(r)
	}
	slices.SortFunc(picked, func(a, b rest) int { return a.addr.Compare(b.addr) }) // IPv4 first
	return picked, nil
}

// any takes an address of a family: one that has not been met, else one that has
// rested, else the one that has rested longest.
func (m *Manager) any(v4 bool) (rest, bool) {
	taken := func(a netip.Addr) bool { _, ok := m.taken[a]; return ok }
	var early *pool
	var longest rest
	for _, p := range m.pools {
		if p.first.Is4() != v4 {
			continue
		}
		if a, ok := p.fresh(taken); ok {
			return rest{addr: a}, true
		}
		r, ok := p.oldest()
		if ok && m.rested(r) {
			return p.unrest(r.addr)
		}
		if p.forgotten {
			p.startAfter(p.next)
			if a, ok := p.fresh(taken); ok {
				return rest{addr: a}, true
			}
		}
		if ok && (early == nil || r.at.Before(longest.at)) {
			early, longest = p, r
		}
	}
	if early == nil {
		return rest{}, false
	}
	early.early++
	return early.unrest(longest.addr)
}

// unpick gives reserved addresses back as if they had not been picked.
func (m *Manager) unpick(picked []rest) {
	for _, r := range picked {
		delete(m.taken, r.addr)
		if p := m.poolOf(r.addr); p != nil {
			p.putBack(r)
		}
	}
}

func (m *Manager) poolOf(a netip.Addr) *pool {
	if i := slices.IndexFunc(m.pools, func(p *pool) bool { return p.has(a) }); i >= 0 {
		return m.pools[i]
	}
	return nil
}

// rested says whether an address's reuse delay is over.
func (m *Manager) rested(r rest) bool { return m.now().Sub(r.at) >= m.delay }

// hold waits until no other call is at work for the owner; the result ends the hold.
func (m *Manager) hold(o Owner) func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.busy[o] {
		m.idle.Wait()
	}
	m.busy[o] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.busy, o)
		m.idle.Broadcast()
	}
}
