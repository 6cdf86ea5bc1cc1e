package endpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/crash"
	"github.com/weftnet/weft/ipam"
)

// Del detaches a container. It needs neither the namespace nor a former Add and may
// be repeated; it fails only with what is worth trying again. An attachment of
// another network is not the one that is meant, and stays.
func (m *Manager) Del(ctx context.Context, a api.Attach) error {
	defer m.busy()()
	owner := ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName}
	unlock, err := m.locks.lock(ctx, owner)
	if err != nil {
		return fail(api.CodeTryAgain, "attachment is busy", err)
	}
	defer unlock()
	if l, ok := m.IPAM.Get(owner); ok && a.Network != "" && l.Network != a.Network {
		return nil
	}
	if err := m.remove(owner); err != nil {
		return fail(api.CodeTryAgain, "detach container", err)
	}
	if err := m.dropTombstone(owner); err != nil {
		return fail(api.CodeIO, "finish DEL", err)
	}
	return nil
}

// GC removes all attachments of one network that the runtime does not list. It goes
// on past what fails and reports all of it. An attachment that is being added
// meanwhile is newer than the list, and stays.
func (m *Manager) GC(ctx context.Context, g api.GC) error {
	valid := map[ipam.Owner]bool{}
	for _, r := range g.Valid {
		valid[ipam.Owner{ContainerID: r.ContainerID, IfName: r.IfName}] = true
	}
	var errs []error
	for _, l := range m.IPAM.Leases() {
		if l.Network != g.Network || valid[l.Owner] || m.adding(l.Owner) {
			continue
		}
		errs = append(errs, m.removeIf(ctx, l.Owner, func() bool {
			now, ok := m.IPAM.Get(l.Owner)
			return ok && now.At.Equal(l.At)
		}))
	}
	if err := errors.Join(errs...); err != nil {
		return fail(api.CodeTryAgain, "collect garbage", err)
	}
	return nil
}

// removeIf removes an attachment under its lock if still says so.
func (m *Manager) removeIf(ctx context.Context, o ipam.Owner, still func() bool) error {
	unlock, err := m.locks.lock(ctx, o)
	if err != nil {
		return err
	}
	defer unlock()
	if !still() {
		return nil
	}
	return m.remove(o)
}

// remove takes away all of an attachment, the lease last: as long as anything of it
// may be left, its file names it. The caller holds its lock.
func (m *Manager) remove(o ipam.Owner) error {
	known := m.get(o)
	owner := rowOwner(o)
	// First of all what sends others to the pod.
	if err := m.Ports(Ports{Ref: refOf(o)}); err != nil {
		return fmt.Errorf("remove host ports: %w", err)
	}
	crash.Point("endpoint: remove host ports")
	m.Neighs.Put(owner, nil)
	m.Routes.Put(owner, nil)
	// First the device, with which the others go, so that their tables have but to forget
	// them. Until it is gone the endpoint rows and the filters stay: without them policies do
	// not know the pod, and what the stack still sends to the device would come in. (A former
	// daemon's TCX link, detached before, would have the kernel wait for an RCU grace
	// period, and again for the device.)
	m.Links.Leaving(owner, true)
	err := m.removeDevices(o)
	crash.Point("endpoint: delete devices")
	errs := []error{err}
	if err == nil {
		m.dropEndpoints(o)
		m.Links.Put(owner, nil)
	}
	m.Links.Leaving(owner, false)
	for _, prune := range []func(string) error{m.Rows.PruneOwner, m.Links.PruneOwner, m.Neighs.PruneOwner, m.Routes.PruneOwner} {
		errs = append(errs, prune(owner))
		crash.Point("endpoint: delete rows")
	}
	if err := errors.Join(errs...); err != nil {
		if known != nil {
			m.update(known, func(a *attachment) { a.state = "being removed: " + err.Error() })
		}
		return err
	}
	m.Policies.Forget(refOf(o))
	if err := os.Remove(m.answeredPath(o)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove note of answered ADD: %w", err)
	}
	crash.Point("endpoint: remove note of answer")
	if err := m.IPAM.Release(o); err != nil {
		return fmt.Errorf("release addresses: %w", err)
	}
	crash.Point("endpoint: release")
	if known != nil {
		m.forget(o)
		m.Changed(known.endpoint(), true)
	}
	return nil
}

// removeDevices deletes the veth and the IFB of an owner, if they are ours: by name
// and alias. A device without alias is one whose making was cut short.
func (m *Manager) removeDevices(o ipam.Owner) error {
	host, err := dial()
	if err != nil {
		return err
	}
	defer host.close()
	var errs []error
	for name, kind := range map[string]string{hostName(o): "veth", ifbName(o): "ifb"} {
		l, there, err := host.linkByName(name)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("look for %s: %w", name, err))
		case !there || l.kind != kind || l.alias != "" && l.alias != alias(o):
		default:
			errs = append(errs, host.deleteLink(name))
		}
	}
	if a := m.get(o); a != nil && a.host.index != 0 {
		errs = append(errs, removeRenamed(host, o, a.host.index))
	}
	return errors.Join(errs...)
}

// removeRenamed deletes the device of that index if it still has our alias, under
// whatever name.
func removeRenamed(host *conn, o ipam.Owner, index int) error {
	l, there, err := host.linkByIndex(index)
	if err != nil || !there || l.alias != alias(o) {
		return err
	}
	return host.deleteLink(l.name)
}

// Uninstall deletes all devices that are ours by name and alias: the veths with
// their ends in the pods, and the IFBs. Leases and files are left to the caller.
func Uninstall(ctx context.Context) error {
	host, err := dial()
	if err != nil {
		return err
	}
	defer host.close()
	ours, err := ourDevices(host)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range ours {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, host.deleteLink(l.name))
	}
	return errors.Join(errs...)
}

// ourDevices lists the veths and IFBs of all owners.
func ourDevices(host *conn) ([]link, error) {
	veths, err := host.links("veth")
	if err != nil {
		return nil, err
	}
	ifbs, err := host.links("ifb")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(append(veths, ifbs...), func(l link) bool {
		_, ok := ownerOf(l.alias)
		return !ok && !(l.alias == "" && madeName(l))
	}), nil
}
