package bpf

import (
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// host is a node as a network namespace, set up by hand: what the overlay and the
// endpoint manager do in the daemon.
type host struct {
	*Datapath
	t              testing.TB
	n              byte
	ns             netns.NsHandle
	uplink, vxlan  netlink.Link
	outer4, outer6 netip.Addr
	gw4, gw6       netip.Addr
	pods           []*pod
	mtu            int // of the pods
}

// pod is a pod of a host.
type pod struct {
	ns       netns.NsHandle
	hostVeth netlink.Link
	v4, v6   netip.Addr
	mac      mac
}

func hostAddr(n, last byte) (v4, v6 netip.Addr) {
	return netip.AddrFrom4([4]byte{10, 244, n, last}), netip.AddrFrom16([16]byte{0xfd, 0, 2, 0x44, 0, n, 15: last})
}

// nodeMAC is the MAC of a node's weft-vxlan.
func nodeMAC(outer netip.Addr) mac {
	b := outer.As16()
	h := fnv.New32a()
	h.Write(b[:])
	s := h.Sum32()
	return mac{0x0e, 0x57, byte(s >> 24), byte(s >> 16), byte(s >> 8), byte(s)}
}

// ip runs the ip command in a namespace.
func ip(t testing.TB, ns netns.NsHandle, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	sh(t, ns, "ip "+line)
}

// sh runs a shell line in a namespace and returns its output.
func sh(t testing.TB, ns netns.NsHandle, line string) string {
	t.Helper()
	var out []byte
	var err error
	in(t, ns, func() { out, err = exec.Command("sh", "-c", line).CombinedOutput() })
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// addAddr6 gives a device an IPv6 address, and waits until it is taken as local: the
// kernel makes its route a moment later, in a worker.
func addAddr6(t testing.TB, ns netns.NsHandle, a netip.Prefix, device string) {
	t.Helper()
	ip(t, ns, "addr add %s dev %s nodad", a, device)
	want := fmt.Sprintf("local %s dev", a.Addr())
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		local := sh(t, ns, "ip -6 route show table local")
		if strings.Contains(local, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("local routes are %s, want %s", local, want)
		}
	}
}

// newHost makes a node whose uplink is one end of a veth to the segment.
func newHost(t testing.TB, n byte, segment netns.NsHandle) *host {
	t.Helper()
	return newHostWith(t, n, segment, Options{})
}

func newHostWith(t testing.TB, n byte, segment netns.NsHandle, o Options) *host {
	t.Helper()
	h := bare(t, n, segment)
	h.Datapath = open(t, o)
	h.gw4, h.gw6 = hostAddr(n, 1)
	v := nodeMAC(h.outer4)
	ip(t, h.ns, "link add weft-vxlan address %s mtu 1450 type vxlan external dstport 8872 udp6zerocsumtx udp6zerocsumrx", net.HardwareAddr(v[:]))
	ip(t, h.ns, "link set weft-vxlan arp off up")
	ip(t, h.ns, "addr add %s/32 dev weft-vxlan", h.gw4)
	addAddr6(t, h.ns, netip.PrefixFrom(h.gw6, 128), "weft-vxlan")
	in(t, h.ns, func() {
		h.vxlan = up(t, "weft-vxlan")
		must(t, h.Links().Set(Hook{FromUplink, h.uplink.Attrs().Index}, struct{}{}))
		must(t, h.Links().Set(Hook{ToOverlay, h.vxlan.Attrs().Index}, struct{}{}))
		must(t, h.Links().Set(Hook{FromOverlay, h.vxlan.Attrs().Index}, struct{}{}))
	})
	for _, a := range []netip.Addr{h.gw4, h.gw6, h.outer4, h.outer6} {
		must(t, h.Endpoints().Set(a, Endpoint{Flags: EndpointHost}))
	}
	return h
}

// bare makes a node without a datapath: an uplink, two addresses, forwarding.
func bare(t testing.TB, n byte, segment netns.NsHandle) *host {
	t.Helper()
	out6 := addr("2001:db8::").As16()
	out6[15] = n
	h := &host{t: t, n: n, ns: newNS(t), outer4: netip.AddrFrom4([4]byte{192, 0, 2, n}), outer6: netip.AddrFrom16(out6)}
	name := fmt.Sprintf("node%d", n)
	sh(t, h.ns, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv6.conf.default.accept_dad=0")
	h.uplink = veth(t, h.ns, segment, "uplink", name)
	ip(t, segment, "link set %s master br0", name)
	ip(t, h.ns, "addr add %s/24 dev uplink", h.outer4)
	addAddr6(t, h.ns, netip.PrefixFrom(h.outer6, 64), "uplink")
	return h
}

// newSegment makes the switch between nodes.
func newSegment(t testing.TB) netns.NsHandle {
	t.Helper()
	ns := newNS(t)
	ip(t, ns, "link add br0 type bridge")
	ip(t, ns, "link set br0 up")
	return ns
}

// addPod attaches a pod.
func (h *host) addPod() *pod {
	h.t.Helper()
	last := byte(len(h.pods) + 5)
	p := &pod{ns: newNS(h.t)}
	p.v4, p.v6 = hostAddr(h.n, last)
	name := fmt.Sprintf("weft%d", last)
	p.hostVeth = veth(h.t, h.ns, p.ns, name, "eth0")
	var podLink netlink.Link
	in(h.t, p.ns, func() { podLink = up(h.t, "eth0") })
	copy(p.mac[:], podLink.Attrs().HardwareAddr)
	hostMAC := p.hostVeth.Attrs().HardwareAddr
	ip(h.t, p.ns, "addr add %s/32 dev eth0", p.v4)
	addAddr6(h.t, p.ns, netip.PrefixFrom(p.v6, 128), "eth0")
	for _, c := range []struct {
		family string
		a, gw  netip.Addr
	}{{"-4", p.v4, h.gw4}, {"-6", p.v6, h.gw6}} {
		ip(h.t, p.ns, "neigh add %s lladdr %s dev eth0 nud permanent", c.gw, hostMAC)
		ip(h.t, p.ns, "%s route add %s dev eth0 scope link mtu %d", c.family, c.gw, h.mtu)
		ip(h.t, p.ns, "%s route add default via %s dev eth0 mtu %d", c.family, c.gw, h.mtu)
		ip(h.t, h.ns, "%s route add %s dev %s scope link src %s proto 87", c.family, c.a, name, c.gw)
		ip(h.t, h.ns, "neigh add %s lladdr %s dev %s nud permanent", c.a, podLink.Attrs().HardwareAddr, name)
		row := Endpoint{IfIndex: uint32(p.hostVeth.Attrs().Index), MAC: p.mac}
		copy(row.HostMAC[:], hostMAC)
		must(h.t, h.Endpoints().Set(c.a, row))
	}
	in(h.t, h.ns, func() {
		must(h.t, h.Links().Set(Hook{FromPod, p.hostVeth.Attrs().Index}, struct{}{}))
	})
	h.pods = append(h.pods, p)
	return p
}

// knows makes other a peer: rows, and routes for the stack's own traffic.
func (h *host) knows(other *host, outer6, direct bool) {
	h.t.Helper()
	p := Peer{Remote: other.outer4, Local: h.outer4, NextHop: other.outer4, MTU: 1450}
	if outer6 {
		p.Remote, p.Local, p.NextHop, p.MTU = other.outer6, h.outer6, other.outer6, 1430
	}
	p.MAC, p.LinkIndex, h.mtu = nodeMAC(other.outer4), uint32(h.uplink.Attrs().Index), int(p.MTU)
	if direct {
		p.Flags = PeerDirect
	}
	for _, c := range []struct {
		family string
		net    netip.Prefix
		gw     netip.Addr
		via    netip.Addr
	}{
		{"-4", netip.PrefixFrom(first(hostAddr(other.n, 0)), 24), h.gw4, other.outer4},
		{"-6", netip.PrefixFrom(second(hostAddr(other.n, 0)), 64), h.gw6, other.outer6},
	} {
		if direct {
			p.NextHop = c.via
			ip(h.t, h.ns, "%s route replace %s via %s src %s proto 87", c.family, c.net, c.via, c.gw)
		} else {
			ip(h.t, h.ns, "%s route replace %s dev weft-vxlan src %s mtu %d proto 87", c.family, c.net, c.gw, p.MTU)
		}
		must(h.t, h.Peers().Set(c.net, p))
	}
}

func first(a, _ netip.Addr) netip.Addr  { return a }
func second(_, a netip.Addr) netip.Addr { return a }
