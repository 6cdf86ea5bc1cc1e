package endpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/crash"
	"github.com/weftnet/weft/ipam"
)

// Repair makes what is missing or changed of one attachment, on both sides. One
// that is right is only looked at, so that repairs cause no further events. One
// whose Add was never answered, or whose namespace is gone, is left alone.
func (m *Manager) Repair(ctx context.Context, o ipam.Owner) error {
	_, err := m.repair(ctx, o, m.Net())
	return err
}

// repair says besides whether something was not as it should be, and is now.
func (m *Manager) repair(ctx context.Context, o ipam.Owner, offer Net) (odd bool, err error) {
	unlock, err := m.locks.lock(ctx, o)
	if err != nil {
		return false, err
	}
	defer unlock()
	a := m.get(o)
	if a == nil || !a.answered || offer.MTU == 0 && a.mtu == 0 {
		return false, nil
	}
	pod, err := m.enter(a.rec)
	if errors.Is(err, errNoNetns) {
		m.update(a, func(a *attachment) { a.state = "network namespace is gone" })
		return false, nil // Sweep observes it
	} else if err != nil {
		return false, m.repaired(a, nil, err)
	}
	defer pod.close()
	found, err := m.examine(a, pod, offer)
	if err != nil {
		return false, m.repaired(a, nil, err)
	}
	m.update(a, func(a *attachment) { a.dead = time.Time{} })
	if found.ifb != a.ifb { // since a restart it is known only from now on
		m.setHost(a, a.host, found.ifb, a.mtu)
	}
	sameDevice := found.host.index == a.host.index
	sameOffer := len(offer.Gateways) == 0 || slices.Equal(a.offered, offer.Gateways)
	if len(found.findings) == 0 && sameDevice && sameOffer && found.stack == a.stack {
		return false, m.repaired(a, nil, nil)
	}
	m.update(a, func(a *attachment) { a.stack = found.stack })
	host, err := dial()
	if err != nil {
		return false, m.repaired(a, found.findings, err)
	}
	defer host.close()
	err = m.wireUp(host, pod, a, offer, wireOptions{refresh: true})
	crash.Point("endpoint: repair")
	if gateways := a.gateways(offer); err == nil && !slices.Equal(a.rec.Gateways, gateways) {
		m.update(a, func(a *attachment) { a.rec.Gateways = gateways })
		err = m.IPAM.Update(o, a.rec.marshal())
	}
	if err == nil {
		if len(found.findings) > 0 { // else its rows are to say something else than before, no more
			m.Log.Info("repaired pod", "pod", a.rec.PodName, "ifname", o.IfName, "found", strings.Join(found.findings, "; "))
		}
		m.Changed(a.endpoint(), false)
	}
	return err == nil && len(found.findings) > 0, m.repaired(a, found.findings, err)
}

// repaired notes how a repair went.
func (m *Manager) repaired(a *attachment, found findings, err error) error {
	state := "ok"
	if err != nil {
		state = strings.Join(append(found, err.Error()), "; ")
		err = fmt.Errorf("repair %s/%s: %w", a.lease.ContainerID, a.lease.IfName, err)
	}
	m.update(a, func(a *attachment) { a.state = state })
	return err
}

// SetMTU gives all live pods another MTU: both ends of the veth, and their default
// routes. It goes on past pods that fail.
func (m *Manager) SetMTU(mtu int) error {
	offer := m.Net()
	offer.MTU = mtu
	m.unrest.stirred.Store(true) // Sweep goes on with pods that fail
	var group errgroup.Group
	group.SetLimit(4)
	list := m.all()
	errs := make([]error, len(list))
	for i, o := range list {
		group.Go(func() error {
			_, errs[i] = m.repair(context.Background(), o, offer)
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(errs...)
}

// renameBack gives a pair whose host's end was renamed its name again. It finds the
// device by the pod's end.
func (m *Manager) renameBack(host *conn, pod *netns, w wiring) (link, bool, error) {
	inner, there, err := pod.linkByName(w.owner.IfName)
	if err != nil || !there || inner.kind != "veth" {
		return link{}, false, err
	}
	outer, there, err := host.linkByIndex(inner.peer)
	if err != nil || !there || outer.kind != "veth" || outer.peer != inner.index || outer.alias != alias(w.owner) {
		return link{}, false, err
	}
	_, err = host.run([]step{
		{"set " + outer.name + " down", newMessage(unix.RTM_SETLINK, 0, ifInfo(outer.index, 0, unix.IFF_UP))},
		{"rename " + outer.name, newMessage(unix.RTM_SETLINK, 0, ifInfo(outer.index, 0, 0)).str(unix.IFLA_IFNAME, hostName(w.owner))},
	})
	crash.Point("endpoint: rename back")
	outer.name = hostName(w.owner)
	return outer, err == nil, err
}
