package endpoint

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/crash"
	"github.com/weftnet/weft/ipam"
)

// wiring is what one attachment must look like in the kernel, apart from the rows
// that are in the tables.
type wiring struct {
	owner     ipam.Owner
	addrs     []netip.Addr
	gateways  []netip.Addr // of the same families, same order as addrs
	sources   []netip.Addr // of what the node sends to addrs: its gateways, if it has them (any more)
	mac       net.HardwareAddr
	mtu       int
	bandwidth *api.Bandwidth
}

// wiring says how the attachment's devices must look on this node. Where the node
// offers nothing yet, they stay as they were.
func (a *attachment) wiring(n Net) (wiring, error) {
	mac, err := net.ParseMAC(a.rec.MAC)
	if err != nil {
		return wiring{}, fmt.Errorf("read attachment of %s: %w", a.lease.ContainerID, err)
	}
	w := wiring{owner: a.lease.Owner, mac: mac, mtu: n.MTU, bandwidth: a.rec.Bandwidth}
	if w.mtu == 0 {
		w.mtu = a.mtu
	}
	for _, addr := range a.lease.Addrs {
		gw := gatewayFor(addr, a.gateways(n))
		if !gw.IsValid() {
			return wiring{}, fmt.Errorf("no gateway for %s: node has no pod CIDR of that family", addr)
		}
		src := gw
		if len(n.Gateways) > 0 && !slices.Contains(n.Gateways, gw) {
			src = netip.Addr{}
		}
		w.addrs = append(w.addrs, addr)
		w.gateways = append(w.gateways, gw)
		w.sources = append(w.sources, src)
	}
	return w, nil
}

// gateways are what the node offers, and, of a family in which it no longer offers any, what
// the pod was last set up with.
func (a *attachment) gateways(n Net) []netip.Addr {
	all := slices.Clone(n.Gateways)
	for _, gw := range a.rec.Gateways {
		if !gatewayFor(gw, n.Gateways).IsValid() {
			all = append(all, gw)
		}
	}
	return all
}

// step is one message and what it is for.
type step struct {
	what string
	msg  *message
}

// run sends all steps as one batch and returns the replies. The error names each
// step that failed; the kernel has tried the others all the same.
func (c *conn) run(steps []step) ([]reply, error) {
	msgs := make([]*message, len(steps))
	for i, s := range steps {
		msgs[i] = s.msg
	}
	replies, err := c.exec(msgs...)
	if err != nil {
		return nil, err
	}
	var errs []error
	for i, r := range replies {
		if r.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", steps[i].what, r.err))
		}
	}
	return replies, errors.Join(errs...)
}

const (
	vethPeer    = 1 // VETH_INFO_PEER, include/uapi/linux/veth.h
	genModeNone = 1 // IN6_ADDR_GEN_MODE_NONE, include/uapi/linux/if_link.h
	genModeAttr = 8 // IFLA_INET6_ADDR_GEN_MODE
)

// createVeth makes the pair in one batch: the host's end here, the pod's end
// directly in its namespace under its final name, so that no device moves from one
// namespace to another (the kernel waits for all readers when one does), and with the
// one queue that they use (with one for each CPU, it waits when it takes the others out
// of use). The pod's end stays down. Answers the host's end, whose field peer is the index of the
// pod's. It fails if either name is taken.
func createVeth(host *conn, pod *netns, w wiring, ipv6 bool) (link, error) {
	name := hostName(w.owner)
	create := newMessage(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifInfo(0, 0, 0)).
		str(unix.IFLA_IFNAME, name).
		attr(unix.IFLA_ADDRESS, hostMAC(w.owner)).
		u32(unix.IFLA_MTU, uint32(w.mtu)).
		u32(unix.IFLA_NUM_TX_QUEUES, 1).u32(unix.IFLA_NUM_RX_QUEUES, 1)
	create.nest(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, func() {
		create.str(unix.IFLA_INFO_KIND, "veth")
		create.nest(unix.IFLA_INFO_DATA|unix.NLA_F_NESTED, func() {
			create.nest(vethPeer|unix.NLA_F_NESTED, func() {
				create.b = append(create.b, ifInfo(0, 0, 0)...)
				create.str(unix.IFLA_IFNAME, w.owner.IfName).
					attr(unix.IFLA_ADDRESS, w.mac).
					u32(unix.IFLA_MTU, uint32(w.mtu)).
					u32(unix.IFLA_NUM_TX_QUEUES, 1).u32(unix.IFLA_NUM_RX_QUEUES, 1).
					u32(unix.IFLA_NET_NS_FD, uint32(pod.fd))
			})
		})
	})
	replies, err := host.exec(create, hostUp(link{name: name, mac: hostMAC(w.owner), mtu: w.mtu}, w, ipv6), getLinkMessage(name))
	crash.Point("endpoint: make veth")
	if err != nil {
		return link{}, err
	}
	if err := replies[0].err; err != nil {
		return link{}, fmt.Errorf("make veth %s: %w", name, err)
	}
	if err := replies[1].err; err != nil {
		return link{}, fmt.Errorf("set up %s: %w", name, err)
	}
	l, _, err := linkOf(replies[2])
	if err != nil {
		return link{}, fmt.Errorf("look at %s: %w", name, err)
	}
	return l, nil
}

// hostUp gives the host's end, as it is now, its alias, MAC and MTU and sets it up,
// without an IPv6 address of its own: the pod talks to the gateway address only.
func hostUp(l link, w wiring, ipv6 bool) *message {
	m := newMessage(unix.RTM_SETLINK, 0, ifInfo(0, unix.IFF_UP, unix.IFF_UP)).
		str(unix.IFLA_IFNAME, l.name).
		attr(unix.IFLA_IFALIAS, []byte(alias(w.owner)))
	l.correct(m, hostMAC(w.owner), w.mtu)
	if l.master != 0 { // it would take what is for the node
		m.u32(unix.IFLA_MASTER, 0)
	}
	if ipv6 {
		m.nest(unix.IFLA_AF_SPEC|unix.NLA_F_NESTED, func() {
			m.nest(unix.AF_INET6|unix.NLA_F_NESTED, func() { m.u8(genModeAttr, genModeNone) })
		})
	}
	return m
}

// correct adds MAC and MTU to a message about the device, if they are others. (The
// kernel forgets all neighbours on a device whose MAC is set, even to what it is.)
func (l link) correct(m *message, mac net.HardwareAddr, mtu int) {
	if !slices.Equal(l.mac, mac) {
		m.attr(unix.IFLA_ADDRESS, mac)
	}
	if l.mtu != mtu {
		m.u32(unix.IFLA_MTU, uint32(mtu))
	}
}

// podSysctlDir is where the IPv6 sysctls of a device of the calling thread's namespace are.
func podSysctlDir(ifname string) sysctlDir { return sysctlDir{name: conf6 + "/" + ifname} }

// hostSysctls: a router advertisement or a redirect that a pod sends must not
// change the host's routes. Forwarding of IPv6 is the node's setting.
func hostSysctls(w wiring) map[string]string {
	return withIPv6(map[string]string{"accept_ra": "0", "accept_redirects": "0"}, w)
}

// hostSysctls4: no reverse path filter. What a pod sends from_pod checks; but an answer from
// a Service that the stack delivers, as to and from pods with limits, comes in here with
// the Service's address. Forwarding a new device has from `default`, whatever the node's is.
func hostSysctls4(w wiring) map[string]string {
	values := map[string]string{"rp_filter": "0"}
	if slices.ContainsFunc(w.addrs, netip.Addr.Is4) {
		values["forwarding"] = "1"
	}
	return values
}

// podSysctls: the pod's routes come from us alone.
func podSysctls(w wiring) map[string]string {
	return withIPv6(map[string]string{"accept_ra": "0"}, w)
}

// withIPv6 switches IPv6 on where the pod has an address of it: some hosts and
// runtimes switch it off for new devices.
func withIPv6(values map[string]string, w wiring) map[string]string {
	if slices.ContainsFunc(w.addrs, netip.Addr.Is6) {
		values["disable_ipv6"] = "0"
	}
	return values
}

// setupPod gives the pod's end, as it is now, all that is its own, as one batch after
// the sysctls, and sets it up. All of it may be repeated.
func setupPod(pod *netns, l link, w wiring) error {
	index := l.index
	if err := pod.do(func() error { return podSysctlDir(w.owner.IfName).set(podSysctls(w)) }); err != nil {
		return err
	}
	crash.Point("endpoint: write pod sysctls")
	up := newMessage(unix.RTM_SETLINK, 0, ifInfo(index, unix.IFF_UP, unix.IFF_UP))
	l.correct(up, w.mac, w.mtu)
	steps := []step{
		{"set lo up", newMessage(unix.RTM_SETLINK, 0, ifInfo(1, unix.IFF_UP, unix.IFF_UP))},
		{"set " + w.owner.IfName + " up", up},
	}
	for i, a := range w.addrs {
		gw := w.gateways[i]
		steps = append(steps,
			step{"add address " + a.String(), addressMessage(index, a)},
			step{"add neighbour " + gw.String(), setNeighbourMessage(index, gw, hostMAC(w.owner))},
		)
	}
	first := len(steps)
	routes := podRoutes(index, w)
	for _, r := range routes {
		steps = append(steps, step{"add route " + r.String(), r.message(unix.NLM_F_EXCL)})
	}
	msgs := make([]*message, len(steps))
	for i, s := range steps {
		msgs[i] = s.msg
	}
	for _, a := range w.addrs {
		msgs = append(msgs, routeMessage(a))
	}
	replies, err := pod.exec(msgs...)
	crash.Point("endpoint: set up pod")
	if err != nil {
		return err
	}
	var errs []error
	for i, r := range replies[:len(steps)] {
		if i >= first && r.err != nil { // EEXIST, or no way to a gateway whose route was refused so
			r.err = pod.renewRoute(routes[i-first])
		}
		if r.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", steps[i].what, r.err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i, r := range replies[len(steps):] {
		if err := pod.awaitLocal(w.addrs[i], r); err != nil {
			return err
		}
	}
	return nil
}

// podRoutes: the gateway is on the link, and leads everywhere.
func podRoutes(index int, w wiring) []route {
	var all []route
	for _, gw := range w.gateways {
		all = append(all, route{dst: netip.PrefixFrom(gw, gw.BitLen()), oif: index})
	}
	for _, gw := range w.gateways {
		anywhere := netip.IPv6Unspecified()
		if gw.Is4() {
			anywhere = netip.IPv4Unspecified()
		}
		all = append(all, route{dst: netip.PrefixFrom(anywhere, 0), gw: gw, oif: index, mtu: w.mtu})
	}
	return all
}

// lateMetric is the priority of a route of ours where the pod has one to the same
// destination by another interface already, which stays the better one.
const lateMetric = 2048

// renewRoute corrects a route of ours that is there, or, where the one that is
// there belongs to another interface, adds ours behind it.
func (c *conn) renewRoute(r route) error {
	have, err := c.routes(family(r.dst.Addr()))
	if err != nil {
		return err
	}
	r.metric = lateMetric
	for _, h := range have {
		if h.dst == r.dst && h.oif == r.oif {
			r.metric = h.metric
		}
	}
	replies, err := c.exec(r.message(unix.NLM_F_REPLACE))
	if err != nil {
		return err
	}
	return replies[0].err
}

const createOrReplace = unix.NLM_F_CREATE | unix.NLM_F_REPLACE

// addressMessage: no prefix route, no duplicate address detection (RFC 4862 5.4):
// IPAM knows that the address is unique, and the pod shall use it at once.
func addressMessage(index int, a netip.Addr) *message {
	header := make([]byte, unix.SizeofIfAddrmsg)
	header[0], header[1] = family(a), uint8(a.BitLen())
	native.PutUint32(header[4:], uint32(index))
	flags := uint32(unix.IFA_F_NOPREFIXROUTE)
	if a.Is6() {
		flags |= unix.IFA_F_NODAD
	}
	return newMessage(unix.RTM_NEWADDR, createOrReplace, header).
		attr(unix.IFA_LOCAL, a.AsSlice()).attr(unix.IFA_ADDRESS, a.AsSlice()).
		u32(unix.IFA_FLAGS, flags)
}

func setNeighbourMessage(index int, a netip.Addr, mac net.HardwareAddr) *message {
	header := make([]byte, unix.SizeofNdMsg)
	header[0] = family(a)
	native.PutUint32(header[4:], uint32(index))
	native.PutUint16(header[8:], unix.NUD_PERMANENT)
	return newMessage(unix.RTM_NEWNEIGH, createOrReplace, header).
		attr(unix.NDA_DST, a.AsSlice()).attr(unix.NDA_LLADDR, mac)
}

// message creates the route. mode is NLM_F_EXCL, which fails if there is one of the
// same destination and metric, or NLM_F_REPLACE.
func (r route) message(mode uint16) *message {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1] = family(r.dst.Addr()), uint8(r.dst.Bits())
	header[4], header[5], header[7] = unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RTN_UNICAST
	if !r.gw.IsValid() {
		header[6] = unix.RT_SCOPE_LINK
	}
	m := newMessage(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|mode, header).u32(unix.RTA_OIF, uint32(r.oif))
	if r.dst.Bits() > 0 {
		m.attr(unix.RTA_DST, r.dst.Addr().AsSlice())
	}
	if r.gw.IsValid() {
		m.attr(unix.RTA_GATEWAY, r.gw.AsSlice())
	}
	if r.metric != 0 {
		m.u32(unix.RTA_PRIORITY, r.metric)
	}
	if r.mtu != 0 {
		m.nest(unix.RTA_METRICS|unix.NLA_F_NESTED, func() { m.u32(unix.RTAX_MTU, uint32(r.mtu)) })
	}
	return m
}

func (r route) String() string {
	if r.gw.IsValid() {
		return r.dst.String() + " via " + r.gw.String()
	}
	return r.dst.String()
}

// deleteLink removes a device of ours by name; one that is gone is no error.
func (c *conn) deleteLink(name string) error {
	replies, err := c.exec(newMessage(unix.RTM_DELLINK, 0, ifInfo(0, 0, 0)).str(unix.IFLA_IFNAME, name))
	crash.Point("endpoint: delete " + name[:4])
	if err != nil {
		return err
	}
	if err := replies[0].err; err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}
