package endpoint

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/reconcile"
	"github.com/weftnet/weft/overlay"
)

// findings collects what is missing or changed, in words for a person.
type findings []string

func (f *findings) addf(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

// look is what was found of an attachment.
type look struct {
	findings
	host  link
	ifb   int  // index; 0 if there is none
	stack bool // a queueing discipline on the host's end must see the packets
}

// inspect compares all that is ours of an attachment with the kernel, in a few
// targeted questions: devices, limits, addresses, routes and neighbours, on both
// sides. What others added is none of its business. The rows of the tables are
// inspectRows' part.
func (m *Manager) inspect(host *conn, pod *netns, w wiring) (look, error) {
	var found look
	name := hostName(w.owner)
	outer, there, err := host.linkByName(name)
	if err != nil {
		return look{}, fmt.Errorf("look for %s: %w", name, err)
	}
	if !there || outer.kind != "veth" {
		found.addf("host device %s is missing", name)
	} else {
		found.host = outer
		if err := m.inspectHost(host, w, outer, &found); err != nil {
			return look{}, err
		}
	}
	inner, there, err := pod.linkByName(w.owner.IfName)
	if err != nil {
		return look{}, fmt.Errorf("look for %s: %w", w.owner.IfName, err)
	}
	if !there {
		found.addf("interface %s is missing in %s", w.owner.IfName, pod.path)
		return found, nil
	}
	if outer.index != 0 && (inner.peer != outer.index || outer.peer != inner.index) {
		found.addf("interface %s in %s is not the other end of %s", w.owner.IfName, pod.path, name)
		return found, nil
	}
	return found, inspectPod(pod, w, inner, &found)
}

// inspectHost looks at the host's end and what hangs on it.
func (m *Manager) inspectHost(host *conn, w wiring, l link, found *look) error {
	if l.alias != alias(w.owner) {
		found.addf("alias of %s is %q", l.name, l.alias)
	}
	if !l.up() {
		found.addf("host device %s is down", l.name)
	}
	if l.master != 0 {
		found.addf("host device %s is in another device", l.name)
	}
	if l.mtu != w.mtu {
		found.addf("mtu of %s is %d, not %d", l.name, l.mtu, w.mtu)
	}
	if !slices.Equal(l.mac, hostMAC(w.owner)) {
		found.addf("mac of %s is %s, not %s", l.name, l.mac, hostMAC(w.owner))
	}
	if m.ipv6 {
		if err := m.conf6.of(l.name).inspect(hostSysctls(w), found); err != nil {
			return err
		}
	}
	if err := m.conf4.of(l.name).inspect(hostSysctls4(w), found); err != nil {
		return err
	}
	var msgs []*message
	for _, a := range w.addrs {
		msgs = append(msgs, routeMessage(a), neighbourMessage(l.index, a))
	}
	replies, err := host.exec(msgs...)
	if err != nil {
		return err
	}
	if found.stack, err = host.mustSee(l); err != nil {
		return err
	}
	if limitsIn(w.bandwidth) || limitsOut(w.bandwidth) {
		if err := inspectLimits(host, w, l, found); err != nil {
			return err
		}
	}
	for i, a := range w.addrs {
		if err := inspectHostRoute(replies[2*i], a, l, found); err != nil {
			return err
		}
		mac, err := neighbourOf(replies[2*i+1])
		if err != nil {
			return fmt.Errorf("look for neighbour %s: %w", a, err)
		}
		if !slices.Equal(mac, w.mac) {
			found.addf("host neighbour of %s on %s is missing", a, l.name)
		}
	}
	return nil
}

func inspectHostRoute(r reply, a netip.Addr, l link, found *look) error {
	if r.err == nil && len(r.parts) > 0 {
		have, ok := parseRoute(r.parts[0].data)
		if ok && have.dst == netip.PrefixFrom(a, a.BitLen()) && have.oif == l.index && have.proto == overlay.Protocol {
			return nil
		}
	}
	found.addf("host route to %s dev %s is missing", a, l.name)
	return nil
}

// inspectPod looks at the pod's side of a pair that is there.
func inspectPod(pod *netns, w wiring, l link, found *look) error {
	if !l.up() {
		found.addf("interface %s is down", l.name)
	}
	if l.mtu != w.mtu {
		found.addf("mtu of %s is %d, not %d", l.name, l.mtu, w.mtu)
	}
	if !slices.Equal(l.mac, w.mac) {
		found.addf("mac of %s is %s, not %s", l.name, l.mac, w.mac)
	}
	addrs, err := pod.addresses(l.index)
	if err != nil {
		return err
	}
	var msgs []*message
	for _, gw := range w.gateways {
		msgs = append(msgs, neighbourMessage(l.index, gw))
	}
	replies, err := pod.exec(msgs...)
	if err != nil {
		return err
	}
	for i, a := range w.addrs {
		gw := w.gateways[i]
		if !addrs[netip.PrefixFrom(a, a.BitLen())] {
			found.addf("address %s is missing on %s", a, l.name)
		}
		mac, err := neighbourOf(replies[i])
		if err != nil {
			return fmt.Errorf("look for neighbour %s: %w", gw, err)
		}
		if !slices.Equal(mac, hostMAC(w.owner)) {
			found.addf("neighbour of gateway %s on %s is missing", gw, l.name)
		}
		routes, err := pod.routes(family(a))
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(routes, func(r route) bool {
			return r.dst == netip.PrefixFrom(gw, gw.BitLen()) && r.oif == l.index && !r.gw.IsValid()
		}) {
			found.addf("route to gateway %s dev %s is missing", gw, l.name)
		}
		i := slices.IndexFunc(routes, func(r route) bool { return r.dst.Bits() == 0 && r.oif == l.index && r.gw == gw })
		if i < 0 {
			found.addf("default route via %s dev %s is missing", gw, l.name)
		} else if routes[i].mtu != w.mtu {
			found.addf("mtu of default route via %s is %d, not %d", gw, routes[i].mtu, w.mtu)
		}
	}
	lo, there, err := pod.linkByIndex(1)
	if err != nil {
		return err
	}
	if !there || !lo.up() {
		found.addf("interface lo is down in %s", pod.path)
	}
	return pod.do(func() error { return podSysctlDir(l.name).inspect(podSysctls(w), found) })
}

// inspectRows compares the BPF rows and the program's link with what is wanted of a, its
// device and limits being as those of now. A target that cannot read single rows is dumped.
func (m *Manager) inspectRows(a, now *attachment, w wiring, found *look) error {
	links := m.LinkTarget
	if m.RowTarget != nil {
		if err := m.inspectEndpoints(a, now, w, found); err != nil {
			return err
		}
	}
	if links == nil || found.host.index == 0 {
		return nil
	}
	for _, p := range podPrograms {
		_, ok, err := lookup(links, bpf.Hook{Program: p, IfIndex: found.host.index})
		if err != nil {
			return fmt.Errorf("look for program: %w", err)
		}
		if !ok {
			found.addf("bpf program %s is not attached to %s", p, found.host.name)
		}
	}
	return nil
}

// inspectEndpoints is inspectRows' part of endpoint rows. What policies want of them must
// not change meanwhile.
func (m *Manager) inspectEndpoints(a, now *attachment, w wiring, found *look) error {
	m.rowsMu.Lock()
	defer m.rowsMu.Unlock()
	now.isolation = a.isolation
	for _, addr := range w.addrs {
		have, ok, err := lookup(m.RowTarget, addr)
		if err != nil {
			return fmt.Errorf("look for endpoint row: %w", err)
		}
		if !ok {
			found.addf("bpf endpoint row of %s is missing", addr)
		} else if want := w.row(now); have != want {
			found.addf("bpf endpoint row of %s is %+v, not %+v", addr, have, want)
		}
	}
	return nil
}

func lookup[K, V comparable](t reconcile.Target[K, V], k K) (V, bool, error) {
	if g, ok := t.(reconcile.Getter[K, V]); ok {
		return g.Get(k)
	}
	all, err := t.Dump()
	v, ok := all[k]
	return v, ok, err
}
