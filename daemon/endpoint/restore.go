package endpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/weftnet/weft/ipam"
)

// deadAfter is how long an attachment must have been without device and namespace,
// in two observations, before its address is released.
const deadAfter = 10 * time.Second

// thorough is how many attachments one Sweep looks at in all detail, which takes about
// 0.7 ms each, thoroughAgain how many the one after a Sweep that found something. Changes are
// known from events (Watch); this finds what events missed, and sysctls, of most of which there
// are none: whoever sets these does it for all devices.
const (
	thorough      = 1
	thoroughAgain = 32
)

// Restore takes up what a former process left, before anything is served: each
// lease file becomes an attachment with its rows, which the caller's first
// synchronisation writes; what seems dead is noted; DELs that found no daemon are
// done. It changes nothing of live pods. A lease it cannot read holds nothing up.
// It may be repeated, beside other verbs.
func (m *Manager) Restore(ctx context.Context) error {
	host, err := dial()
	if err != nil {
		return err
	}
	defer host.close()
	var errs []error
	offer := m.Net()
	for _, l := range m.IPAM.Leases() {
		unlock, err := m.locks.lock(ctx, l.Owner)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		if now, ok := m.IPAM.Get(l.Owner); ok {
			errs = append(errs, m.restore(host, now, offer))
		}
		unlock()
	}
	errs = append(errs, m.workOffAll(ctx))
	return errors.Join(errs...)
}

// restore takes up one lease. The caller holds its owner's lock.
func (m *Manager) restore(host *conn, l ipam.Lease, offer Net) error {
	rec, err := parseRecord(l.Meta)
	a := &attachment{lease: l, rec: rec, state: "ok"}
	if err != nil {
		a.state = err.Error() // it keeps its address until DEL, GC or death
	}
	_, unanswered := os.Stat(m.answeredPath(l.Owner))
	if a.answered = unanswered == nil; !a.answered {
		a.state = "ADD was cut short"
	}
	m.Policies.Restore(a.pod())
	defer m.put(a)
	dev, there, lookErr := host.linkByName(hostName(l.Owner))
	if lookErr != nil {
		return fmt.Errorf("look for %s: %w", hostName(l.Owner), lookErr)
	}
	if !there {
		if m.netnsAlive(rec) {
			if a.answered { // Repair makes the device, but knows nothing of host ports
				err = errors.Join(err, m.Ports(a.ports()))
			}
			return err
		}
		a.dead, a.state = m.Now(), "dead"
		if known := m.get(l.Owner); known != nil && !known.dead.IsZero() {
			a.dead = known.dead
		}
		return err
	}
	a.host, a.mtu = dev, dev.mtu
	if err != nil {
		return err
	}
	if a.stack, err = host.mustSee(dev); err != nil {
		return err
	}
	if w, err := a.wiring(offer); err != nil {
		a.state = err.Error()
	} else {
		m.putRows(a, w, offer)
	}
	return m.Ports(a.ports())
}

// netnsAlive says whether the namespace of a record still exists under its path.
func (m *Manager) netnsAlive(r record) bool {
	pod, err := m.enter(r)
	if err != nil {
		// One that cannot be opened for another reason may be alive.
		return !errors.Is(err, errNoNetns)
	}
	pod.close()
	return true
}

// enter opens the namespace that was attached. Another one under its path is as
// good as none: errNoNetns.
func (m *Manager) enter(r record) (*netns, error) {
	if r.Netns == "" || r.Boot != m.boot {
		return nil, errNoNetns
	}
	pod, err := openNetns(r.Netns)
	if err != nil {
		return nil, err
	}
	if pod.cookie != r.Cookie {
		pod.close()
		return nil, fmt.Errorf("%s is another network namespace than was attached: %w", r.Netns, errNoNetns)
	}
	return pod, nil
}

// Sweep is the periodic look, every 8 s: DELs that found no daemon, some attachments
// in detail, and devices that vanished or changed, and the dead. Its cost is, for the
// latter, one dump of the host's veths: made if Watch heard of a device of ours, while
// something is dead or cannot be repaired, and every minute. It is not to be called
// twice at a time.
func (m *Manager) Sweep(ctx context.Context) error {
	errs := []error{m.workOffAll(ctx)}
	if m.unrest.due(m.Now()) {
		calm, err := m.sweepDevices(ctx)
		if errs = append(errs, err); !calm || err != nil {
			m.unrest.stirred.Store(true)
		}
	}
	list, found := m.all(), false
	for range min(max(m.detail, thorough), len(list)) {
		if ctx.Err() != nil {
			break
		}
		odd, err := m.repair(ctx, list[m.turn%len(list)], m.Net())
		found = found || odd
		errs = append(errs, err)
		m.turn++
	}
	if m.detail = thorough; found {
		m.detail = thoroughAgain
	}
	return errors.Join(errs...)
}

// sweepDevices compares the host's devices with the attachments. It is calm if
// everything was in its place.
func (m *Manager) sweepDevices(ctx context.Context) (calm bool, err error) {
	host, err := dial()
	if err != nil {
		return false, err
	}
	defer host.close()
	devices, err := ourDevices(host)
	if err != nil {
		return false, err
	}
	byName := make(map[string]link, len(devices))
	for _, l := range devices {
		byName[l.name] = l
	}
	var errs []error
	calm = true
	offer := m.Net()
	for _, o := range m.all() {
		if ctx.Err() != nil {
			break
		}
		if m.adding(o) {
			continue
		}
		l, there := byName[hostName(o)]
		if !there || m.changed(o, l, offer) {
			calm = false
			errs = append(errs, m.Repair(ctx, o))
		}
	}
	errs = append(errs, ctx.Err(), m.releaseDead(ctx, byName), m.removeOrphans(ctx, host, devices))
	return calm && len(m.orphan) == 0, errors.Join(errs...)
}

// changed says whether the host's end differs from what we know of it.
func (m *Manager) changed(o ipam.Owner, l link, offer Net) bool {
	a := m.get(o)
	if a == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return l.index != a.host.index || !l.up() || offer.MTU != 0 && l.mtu != offer.MTU || l.alias != alias(o) || !slices.Equal(l.mac, hostMAC(o))
}

// releaseDead releases what has been dead in two observations, deadAfter apart, and
// notes what is dead for the first time. Only what is not among the devices, by name,
// is looked at.
func (m *Manager) releaseDead(ctx context.Context, devices map[string]link) error {
	host, err := dial()
	if err != nil {
		return err
	}
	defer host.close()
	var errs []error
	for _, o := range m.all() {
		if m.adding(o) {
			continue
		}
		a := m.get(o)
		if a == nil {
			continue
		}
		if _, there := devices[hostName(o)]; there {
			m.update(a, func(a *attachment) { a.dead = time.Time{} })
			continue
		}
		if !m.observe(host, a) {
			continue
		}
		errs = append(errs, m.removeIf(ctx, o, func() bool { return m.get(o) == a && m.observe(host, a) }))
	}
	return errors.Join(errs...)
}

// observe looks whether an attachment is dead and says whether it has been so for
// long enough.
func (m *Manager) observe(host *conn, a *attachment) bool {
	_, there, err := host.linkByName(hostName(a.lease.Owner))
	if err != nil || there || m.netnsAlive(a.rec) {
		m.update(a, func(a *attachment) { a.dead = time.Time{} })
		return false
	}
	long := false
	m.update(a, func(a *attachment) {
		if a.dead.IsZero() {
			a.dead, a.state = m.Now(), "dead"
		}
		long = m.Now().Sub(a.dead) >= deadAfter
	})
	return long
}

// removeOrphans deletes devices of ours that no lease names, seen in two
// observations: their addresses may be another's by now.
func (m *Manager) removeOrphans(ctx context.Context, host *conn, devices []link) error {
	var errs []error
	seen := map[string]bool{}
	for _, l := range devices {
		o, ok := ownerOf(l.alias)
		if ok {
			if _, leased := m.IPAM.Get(o); leased || m.locks.busy(o) {
				continue
			}
		} else if m.nameLeased(l.name) {
			continue
		}
		seen[l.name] = true
		since, known := m.orphan[l.name]
		if !known {
			m.orphan[l.name] = m.Now()
		} else if m.Now().Sub(since) >= deadAfter {
			errs = append(errs, m.removeOrphan(ctx, host, o, l.name))
		}
		if ctx.Err() != nil {
			break
		}
	}
	for name := range m.orphan {
		if !seen[name] {
			delete(m.orphan, name)
		}
	}
	return errors.Join(errs...)
}

// removeOrphan deletes a device of an owner ("" if it has no alias) that still has no
// lease.
func (m *Manager) removeOrphan(ctx context.Context, host *conn, o ipam.Owner, name string) error {
	unlock, err := m.locks.lock(ctx, o)
	if err != nil {
		return err
	}
	defer unlock()
	if _, leased := m.IPAM.Get(o); leased || m.nameLeased(name) {
		return nil
	}
	m.Log.Warn("delete device without attachment", "ifname", name)
	return host.deleteLink(name)
}

// nameLeased says whether a device without alias belongs to a lease by its name.
func (m *Manager) nameLeased(name string) bool {
	return slices.ContainsFunc(m.IPAM.Leases(), func(l ipam.Lease) bool {
		return hostName(l.Owner) == name || ifbName(l.Owner) == name
	})
}
