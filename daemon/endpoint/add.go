package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/crash"
	"github.com/weftnet/weft/ipam"
)

// fail makes a CNI error of err, unless it is one.
func fail(code uint, msg string, err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		return e
	}
	e = &api.Error{Code: code, Msg: msg}
	if err != nil {
		e.Details = err.Error()
	}
	return e
}

// Add attaches a container and returns a CNI 1.1.0 result. The order: the lease
// file (from here on a crash leaves nothing that no file names), the devices, the
// rows and programs, at last the pod's own side, so that a pod that can send is one
// whose way is complete. What fails is undone.
//
// An Add that was never answered, because the process died, is completed by the
// next one. One that was answered is refused with code 101 as long as the interface
// exists, without side effects (CNI SPEC, ADD).
func (m *Manager) Add(ctx context.Context, a api.Attach) (*types100.Result, error) {
	defer m.busy()()
	owner := ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName}
	rec, err := newRecord(a)
	if err != nil {
		return nil, err
	}
	offer := m.Net()
	if offer.Ready != nil {
		return nil, fail(api.CodeTryAgain, "node cannot attach pods now", offer.Ready)
	}
	if offer.MTU <= 0 {
		return nil, fail(api.CodeTryAgain, "node cannot attach pods now", errors.New("the pods' MTU is not known yet"))
	}
	prev, err := parsePrevious(a.PrevResult)
	if err != nil {
		return nil, err
	}
	unlock, err := m.locks.lock(ctx, owner)
	if err != nil {
		return nil, fail(api.CodeTryAgain, "attachment is busy", err)
	}
	defer unlock()
	if err := m.workOff(owner); err != nil {
		return nil, fail(api.CodeTryAgain, "finish former DEL", err)
	}
	// Was it a former one? The DEL of an ADD that was given up comes after its caller's end.
	if err := ctx.Err(); err != nil {
		return nil, fail(api.CodeTryAgain, "attach container", err)
	}

	pod, err := openNetns(a.Netns)
	if errors.Is(err, errNoNetns) {
		return nil, fail(api.CodeBadEnv, "CNI_NETNS is no network namespace", err)
	} else if err != nil {
		return nil, fail(api.CodeIO, "open CNI_NETNS", err)
	}
	defer pod.close()
	host, err := dial()
	if err != nil {
		return nil, fail(api.CodeIO, "talk to the kernel", err)
	}
	defer host.close()
	if home, err := netnsCookie(host.fd); err != nil || home == pod.cookie {
		return nil, fail(api.CodeBadEnv, "CNI_NETNS is the node's own network namespace", err)
	}
	rec.Boot, rec.Cookie, rec.Gateways = m.boot, pod.cookie, offer.Gateways

	fresh, err := m.admit(host, pod, owner)
	if err != nil {
		return nil, err
	}
	lease, had, undo, err := m.lease(ctx, a, rec)
	if err != nil {
		return nil, err
	}
	att := &attachment{lease: lease, rec: rec, state: stateAdding}
	m.put(att)
	m.Policies.Admit(ctx, att.pod())
	err = m.wireUp(host, pod, att, offer, wireOptions{fresh: fresh, refresh: had})
	if err == nil {
		err = m.Ports(att.ports())
		crash.Point("endpoint: serve host ports")
	}
	if err == nil {
		err = ctx.Err() // nobody waits for the answer any more, and perhaps no DEL will come
	}
	if err == nil {
		err = m.markAnswered(owner)
	}
	if err != nil {
		if undone := undo(); undone != nil {
			m.Log.Warn("undo failed ADD, will retry", "err", undone, "pod", a.PodName, "ifname", a.IfName)
		}
		return nil, fail(api.CodeTryAgain, "attach container", err)
	}
	m.update(att, func(a *attachment) { a.answered, a.state = true, "ok" })
	m.Changed(att.endpoint(), false)
	return result(att, offer, a, prev), nil
}

// newRecord checks what the runtime asked for.
func newRecord(a api.Attach) (record, error) {
	switch {
	case a.ContainerID == "":
		return record{}, fail(api.CodeBadEnv, "CNI_CONTAINERID is empty", nil)
	case a.IfName == "":
		return record{}, fail(api.CodeBadEnv, "CNI_IFNAME is empty", nil)
	case a.Netns == "":
		return record{}, fail(api.CodeBadEnv, "CNI_NETNS is empty", nil)
	}
	mac := podMAC(ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName})
	if a.MAC != "" {
		var err error
		if mac, err = net.ParseMAC(a.MAC); err != nil || len(mac) != 6 || mac[0]&1 != 0 || [6]byte(mac) == [6]byte{} {
			return record{}, fail(api.CodeBadConfig, fmt.Sprintf("mac %q is no unicast Ethernet address", a.MAC), err)
		}
	}
	return record{
		Netns: a.Netns, MAC: mac.String(),
		PodNamespace: a.PodNamespace, PodName: a.PodName, PodUID: a.PodUID, Labels: a.Labels,
		PortMappings: a.PortMappings, Bandwidth: a.Bandwidth,
	}, nil
}

// admit refuses an Add whose interface exists, and clears away what is left of an
// attachment of this owner whose namespace is gone. fresh: there is no device of either
// name.
func (m *Manager) admit(host *conn, pod *netns, owner ipam.Owner) (fresh bool, err error) {
	outer, outerThere, err := host.linkByName(hostName(owner))
	if err != nil {
		return false, fail(api.CodeIO, "look for "+hostName(owner), err)
	}
	inner, innerThere, err := pod.linkByName(owner.IfName)
	if err != nil {
		return false, fail(api.CodeIO, "look for "+owner.IfName, err)
	}
	exists := fail(api.CodeExists, fmt.Sprintf("interface %s exists already in %s", owner.IfName, pod.path), nil)
	if outerThere && (outer.kind != "veth" || outer.alias != "" && outer.alias != alias(owner)) {
		return false, fail(api.CodeExists, fmt.Sprintf("device %s exists and is not of Weft", outer.name), nil)
	}
	_, leased := m.IPAM.Get(owner)
	known := m.get(owner)
	pair := outerThere && innerThere && inner.kind == "veth" && outer.peer == inner.index && inner.peer == outer.index
	switch {
	case innerThere && !(pair && leased):
		return false, exists
	case pair && known != nil && known.answered:
		return false, exists
	case !outerThere || pair:
		return !outerThere && !innerThere, nil
	}
	// The host's end has its peer somewhere else.
	if known != nil && known.answered && known.rec.Cookie != pod.cookie && m.netnsAlive(known.rec) {
		return false, fail(api.CodeExists, fmt.Sprintf("container is attached already, in %s", known.rec.Netns), nil)
	}
	if err := host.deleteLink(outer.name); err != nil {
		return false, fail(api.CodeIO, "remove former attachment", err)
	}
	return true, nil
}

// lease reserves the addresses and writes the attachment's file. had: it was there
// already, and so may be more. undo takes back
// all that Add made, the lease last, and may be called at any point.
func (m *Manager) lease(ctx context.Context, a api.Attach, rec record) (l ipam.Lease, had bool, undo func() error, err error) {
	req := ipam.Request{
		Owner:   ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName},
		Network: a.Network, Want: a.IPs, Meta: rec.marshal(),
	}
	undo = func() error { return m.remove(req.Owner) }
	old, had := m.IPAM.Get(req.Owner)
	if had && (old.Network != a.Network || !wanted(a.IPs, old.Addrs)) {
		if err := m.remove(req.Owner); err != nil {
			return ipam.Lease{}, false, nil, fail(api.CodeTryAgain, "remove former attachment", err)
		}
		had = false
	}
	l, err = m.IPAM.Allocate(req)
	if errors.Is(err, ipam.ErrPoolEmpty) {
		// Perhaps some of those that hold addresses are dead, and it was seen before.
		if err := m.releaseDead(ctx, nil); err != nil {
			m.Log.Warn("look for dead attachments", "err", err)
		}
		l, err = m.IPAM.Allocate(req)
	}
	crash.Point("endpoint: allocate")
	switch {
	case err == nil:
	case errors.Is(err, ipam.ErrPoolEmpty), errors.Is(err, ipam.ErrNoPool), errors.Is(err, ipam.ErrTaken):
		return ipam.Lease{}, false, nil, fail(api.CodeTryAgain, "no address for the pod", err)
	case errors.Is(err, ipam.ErrNotInPool):
		return ipam.Lease{}, false, nil, fail(api.CodeBadConfig, "no address for the pod", err)
	default:
		return ipam.Lease{}, false, nil, fail(api.CodeIO, "reserve addresses", err)
	}
	if had {
		if err := m.IPAM.Update(req.Owner, req.Meta); err != nil {
			return ipam.Lease{}, false, nil, fail(api.CodeIO, "renew attachment", errors.Join(err, undo()))
		}
		l.Meta = req.Meta
	}
	return l, had, undo, nil
}

// wanted says whether have is what was asked for; nothing asked is always had.
func wanted(want, have []netip.Addr) bool {
	for _, w := range want {
		found := false
		for _, h := range have {
			found = found || h == w.Unmap()
		}
		if !found {
			return false
		}
	}
	return true
}

// wireOptions say what wireUp may take for granted.
type wireOptions struct {
	fresh   bool // neither device is there
	refresh bool // the tables are to be asked first what they really hold
}

// wireUp makes all of an attachment as it must be in the kernel: devices, limits,
// rows, and the pod's side. What is there is kept or corrected.
func (m *Manager) wireUp(host *conn, pod *netns, a *attachment, offer Net, o wireOptions) error {
	w, err := a.wiring(offer)
	if err != nil {
		return err
	}
	l, inner, err := m.ensureVeth(host, pod, w, o.fresh)
	if err != nil {
		return err
	}
	m.setHost(a, l, a.ifb, w.mtu)
	if m.ipv6 {
		if err := m.conf6.of(l.name).set(hostSysctls(w)); err != nil {
			return err
		}
		crash.Point("endpoint: write host sysctls")
	}
	if err := m.conf4.of(l.name).set(hostSysctls4(w)); err != nil {
		return err
	}
	crash.Point("endpoint: write host sysctls of IPv4")
	ifb, err := setLimits(host, w, l.index, m.ipv6)
	if err != nil {
		return err
	}
	if ifb != a.ifb {
		m.setHost(a, l, ifb, w.mtu)
	}
	m.putRows(a, w, offer)
	if err := m.writeRows(w.owner, o.refresh); err != nil {
		return err
	}
	return setupPod(pod, inner, w)
}

// ensureVeth makes the pair, or finds it and corrects the host's end. It answers
// both ends; the pod's is not corrected yet.
func (m *Manager) ensureVeth(host *conn, pod *netns, w wiring, fresh bool) (outer, inner link, err error) {
	create := func() (link, link, error) {
		l, err := createVeth(host, pod, w, m.ipv6)
		return l, link{index: l.peer, name: w.owner.IfName, mac: w.mac, mtu: w.mtu}, err
	}
	if fresh {
		return create()
	}
	name := hostName(w.owner)
	l, there, err := host.linkByName(name)
	if err == nil && !there {
		l, there, err = m.renameBack(host, pod, w)
	}
	if err != nil {
		return link{}, link{}, fmt.Errorf("look for %s: %w", name, err)
	}
	if !there {
		return create()
	}
	_, err = host.run([]step{{"set up " + name, hostUp(l, w, m.ipv6)}})
	crash.Point("endpoint: correct veth")
	if err != nil {
		return link{}, link{}, err
	}
	inner, there, err = pod.linkByName(w.owner.IfName)
	if err != nil {
		return link{}, link{}, err
	}
	if there && inner.index == l.peer && inner.peer == l.index {
		return l, inner, nil
	}
	// The pod's end was renamed or is in another namespace: made anew.
	if err := host.deleteLink(name); err != nil {
		return link{}, link{}, err
	}
	return create()
}

// writeRows writes the owner's rows in the order of reference: the program goes to
// the device when all that it looks up is there.
func (m *Manager) writeRows(o ipam.Owner, refresh bool) error {
	owner := rowOwner(o)
	for _, t := range []struct {
		refresh, write, prune func(string) error
	}{
		{m.Routes.RefreshOwner, m.Routes.WriteOwner, m.Routes.PruneOwner},
		{m.Neighs.RefreshOwner, m.Neighs.WriteOwner, m.Neighs.PruneOwner},
		{m.Rows.RefreshOwner, m.Rows.WriteOwner, m.Rows.PruneOwner},
		{m.Links.RefreshOwner, m.Links.WriteOwner, m.Links.PruneOwner},
	} {
		if refresh {
			if err := errors.Join(t.refresh(owner), t.prune(owner)); err != nil {
				return err
			}
		}
		if err := t.write(owner); err != nil {
			return err
		}
		crash.Point("endpoint: write rows")
	}
	return nil
}

// markAnswered makes the note by a further link of the lease's file, as a new file would
// cost the file system an inode; where there are no links, by an empty one.
func (m *Manager) markAnswered(o ipam.Owner) error {
	path := m.answeredPath(o)
	err := os.Link(m.IPAM.Path(o), path)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			err = os.Link(m.IPAM.Path(o), path)
		}
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("note that ADD is answered: %w", err)
	}
	crash.Point("endpoint: note answer")
	return nil
}

// parsePrevious reads the result of the plugins before us in a chain.
func parsePrevious(raw json.RawMessage) (*types100.Result, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var r types100.Result
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fail(api.CodeDecode, "prevResult is no CNI 1.1.0 result", err)
	}
	return &r, nil
}
