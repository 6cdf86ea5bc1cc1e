package bpf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// filterBy runs instructions on what a device of a namespace gets or sends.
func filterBy(t *testing.T, ns netns.NsHandle, l netlink.Link, at ebpf.AttachType, insns asm.Instructions) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: insns})
	must(t, err)
	t.Cleanup(func() { p.Close() })
	in(t, ns, func() {
		tcx, err := link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: p, Attach: at})
		must(t, err)
		t.Cleanup(func() { tcx.Close() })
	})
}

// What to_pod relies on (leave_mark in nat.h): the kernel keeps tc_index from where a packet comes in
// to where it is delivered, as it is or put together of fragments, and made into others.
func TestTheStackKeepsTheMark(t *testing.T) {
	t.Parallel()
	const tcIndex, mark = 44, 0x7765 // struct __sk_buff
	from, node, to := newNS(t), newNS(t), newNS(t)
	near, far := veth(t, node, from, "near", "eth0"), veth(t, node, to, "far", "eth0")
	sh(t, node, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	for i, end := range []struct {
		ns   netns.NsHandle
		here string
	}{{from, "near"}, {to, "far"}} {
		sh(t, node, fmt.Sprintf("ip link set %s address 02:00:00:00:00:1%d", end.here, i))
		sh(t, end.ns, fmt.Sprintf("ip link set eth0 address 02:00:00:00:00:2%d", i))
		for family, bits := range map[string]string{"10.9.%d.%d": "/24", "fd09:%d::%d": "/64 nodad"} {
			gw, pod := fmt.Sprintf(family, i, 1), fmt.Sprintf(family, i, 2)
			ip(t, node, "addr add %s%s dev %s", gw, bits, end.here)
			ip(t, end.ns, "addr add %s%s dev eth0", pod, bits)
			ip(t, end.ns, "route add %s via %s", fmt.Sprintf(family, 1-i, 0)+bits[:3], gw)
			ip(t, end.ns, "neigh add %s lladdr 02:00:00:00:00:1%d dev eth0", gw, i)
			ip(t, node, "neigh add %s lladdr 02:00:00:00:00:2%d dev %s", pod, i, end.here)
		}
	}
	ip(t, node, "route replace 10.9.1.0/24 dev far mtu lock 1000") // in fragments of another size
	filterBy(t, node, near, ebpf.AttachTCXIngress, asm.Instructions{
		asm.StoreImm(asm.R1, tcIndex, mark, asm.Word),
		asm.Mov.Imm(asm.R0, -1),
		asm.Return(),
	})
	filterBy(t, node, far, ebpf.AttachTCXEgress, asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, tcIndex, asm.Word),
		asm.Mov.Imm(asm.R0, -1),
		asm.JEq.Imm(asm.R2, mark, "marked"),
		asm.Mov.Imm(asm.R0, tcxDrop),
		asm.Return().WithSymbol("marked"),
	})
	for _, tracked := range []bool{false, true} {
		if tracked {
			sh(t, node, "for i in iptables ip6tables; do $i -w -A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT; done")
		}
		for _, dst := range []string{"10.9.1.2", "fd09:1::2"} {
			datagrams(t, from, to, netip.MustParseAddr(dst), 1, 900, 5000)
			stream(t, from, to, netip.MustParseAddr(dst))
		}
	}
}
