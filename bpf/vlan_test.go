package bpf

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What comes to a device in a VLAN is of that VLAN's own device, which may have the programs,
// too: here it is left alone. One with a priority and no VLAN (IEEE 802.1Q's number 0) is as
// without.
func TestFramesOfVLANsAreLeftToTheirDevice(t *testing.T) {
	t.Parallel()
	segment := newSegment(t)
	h := newHost(t, 1, segment)
	p := h.addPod()
	var fd, index int
	in(t, segment, func() {
		l, err := netlink.LinkByName("node1")
		must(t, err)
		index = l.Attrs().Index
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		must(t, err)
	})
	defer unix.Close(fd)
	for i, f := range []struct{ node, pod, client netip.Addr }{
		{h.outer4, p.v4, addr("198.51.100.7")},
		{h.outer6, p.v6, addr("2001:db8:7::7")},
	} {
		at := netip.AddrPortFrom(f.node, 30080)
		h.serve(t, SetID(7+i), at, f.pod)
		_, l := conns(t, p.ns, p.ns, f.pod)
		must(t, h.Services().Backends.Set(Slot{SetID(7 + i), 0}, Backend{Addr: f.pod, Port: uint16(l.LocalAddr().(*net.UDPAddr).Port), Generation: 1}))
		must(t, h.Services().Alive.Set(Place{f.pod, uint16(l.LocalAddr().(*net.UDPAddr).Port), UDP}, 1))
		send := func(from netip.AddrPort, tag []byte) {
			t.Helper()
			packet := datagram(UDP, from, at, 64, 0, load)
			to := mac(h.uplink.Attrs().HardwareAddr)
			frame := cat(to[:], []byte{2, 0, 0, 0, 0, 9}, tag, be16(ethType(packet)), packet)
			must(t, unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6}))
		}
		client := func(port int) netip.AddrPort { return netip.AddrPortFrom(f.client, uint16(port)) }
		is := func(from netip.AddrPort) bool {
			t.Helper()
			k := weftTuple{Src: toAddr(from.Addr()), Dst: toAddr(at.Addr()), Sport: from.Port(), Dport: at.Port(), Proto: uint8(UDP)}
			_, ok, err := h.inBrief(&k)
			must(t, err)
			return ok
		}
		send(client(1000), cat(be16(0x8100), be16(100)))
		send(client(1001), cat(be16(0x8100), be16(5<<13|100)))
		send(client(1002), cat(be16(0x8100), be16(5<<13)))
		send(client(1003), nil)
		for _, want := range []int{1002, 1003} {
			must(t, l.SetReadDeadline(time.Now().Add(10*time.Second)))
			_, from, err := l.ReadFromUDPAddrPort(make([]byte, 64))
			if err != nil || from.Port() != uint16(want) {
				t.Fatalf("to %s: the pod got one from %s (%v), want it from port %d; counters %v", at, from, err, want, h.counts(t))
			}
		}
		for port, want := range map[int]bool{1000: false, 1001: false, 1002: true, 1003: true} {
			if is(client(port)) != want {
				t.Errorf("to %s from port %d: a flow was made %v, want %v", at, port, !want, want)
			}
		}
	}
}
