package bpf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/go-cmp/cmp"
)

// received makes a program that gives a packet the tunnel metadata which the kernel's
// VXLAN device would have, and goes on to from_overlay. A key that is set has its
// remote address in the place where one that is read has the local address.
func received(t *testing.T, d *Datapath, vni uint32, remote, local netip.Addr) *ebpf.Program {
	t.Helper()
	tails, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(t, err)
	t.Cleanup(func() { tails.Close() })
	must(t, tails.Put(uint32(0), d.programs[FromOverlay]))
	// struct bpf_tunnel_key: id, remote, tos+ttl+ext, label, local.
	words := [11]uint32{0: vni, 5: 64 << 8}
	flags := int32(0)
	if remote.Is4() {
		words[1], words[7] = hostOrder(local), hostOrder(remote)
	} else {
		flags = 1
		for i := range 4 {
			l, r := local.As16(), remote.As16()
			words[1+i] = le32(l[4*i:])
			words[7+i] = le32(r[4*i:])
		}
	}
	ins := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	for i, w := range words {
		ins = append(ins, asm.StoreImm(asm.RFP, int16(-48+4*i), int64(int32(w)), asm.Word))
	}
	ins = append(ins,
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -48),
		asm.Mov.Imm(asm.R3, 44), asm.Mov.Imm(asm.R4, flags),
		asm.FnSkbSetTunnelKey.Call(),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, tails.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 99), // no tail call
		asm.Return(),
	)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "received", Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXIngress, Instructions: ins, License: "GPL",
	})
	must(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

func hostOrder(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func le32(b []byte) uint32 {
	return uint32(b[3])<<24 | uint32(b[2])<<16 | uint32(b[1])<<8 | uint32(b[0])
}

// What the kernel decapsulated goes into the pod, if the sender may send it.
func TestOverlayDeviceAcceptsOnlyKnownSenders(t *testing.T) {
	t.Parallel()
	for _, outer6 := range []bool{false, true} {
		a, b := newNode(t, 1), newNode(t, 2)
		b.knows(t, a, outer6)
		remote, local, third := a.outer4, b.outer4, addr("192.0.2.3")
		if outer6 {
			remote, local, third = a.outer6, b.outer6, addr("2001:db8::3")
		}
		for _, h := range []header{
			{src: a.pod4, dst: b.sib4, proto: protoUDP},
			{src: a.pod6, dst: b.sib6, proto: protoUDP},
		} {
			toHost, foreign, own, last := h, h, h, h
			toHost.dst, own.src, last.ttl = b.gw4, b.pod4, 1
			foreign.src = addr("10.9.9.9")
			if h.src.Is6() {
				toHost.dst, own.src, foreign.src = b.gw6, b.pod6, addr("fd00:9::9")
			}
			for _, c := range []struct {
				name          string
				vni           uint32
				remote, local netip.Addr
				h             header
				verdict       uint32
				count         string
			}{
				{"well", 87, remote, local, h, tcxRedirect, ""},
				{"to the node", 87, remote, local, toHost, tcxNext, ""},
				{"other VNI", 86, remote, local, h, tcxDrop, "drop vxlan-vni"},
				{"passed on by nobody", 88, remote, local, h, tcxDrop, "drop unknown-sender"},
				{"other sender", 87, third, local, h, tcxDrop, "drop unknown-sender"},
				{"to another address", 87, remote, third, h, tcxDrop, "drop unknown-sender"},
				{"source of nobody", 87, remote, local, foreign, tcxDrop, "drop unknown-sender"},
				{"source is our pod", 87, remote, local, own, tcxDrop, "drop unknown-sender"},
				{"last hop", 87, remote, local, last, tcxNext, "stack ttl"},
			} {
				t.Run(fmt.Sprintf("%s %s outer6=%v", c.name, h.src, outer6), func(t *testing.T) {
					want := b.counts(t)
					if c.count != "" {
						want[c.count]++
					}
					body := udp(1, 2, []byte("x"))
					o := ebpf.RunOptions{Data: ethernet(noMAC, a.podMAC, c.h.ethType(), c.h.packet(body)), DataOut: make([]byte, 256)}
					verdict, err := received(t, b.Datapath, c.vni, c.remote, c.local).Run(&o)
					must(t, err)
					if verdict != c.verdict {
						t.Errorf("verdict %d, want %d", int32(verdict), int32(c.verdict))
					}
					if diff := cmp.Diff(b.counts(t), want); diff != "" {
						t.Errorf("counters (-got +want):\n%s", diff)
					}
					if verdict != tcxRedirect {
						return
					}
					c.h.ttl = 63
					if diff := cmp.Diff(o.DataOut, ethernet(b.sibMAC, b.sibHost, c.h.ethType(), c.h.packet(body))); diff != "" {
						t.Errorf("into the pod (-got +want):\n%s", diff)
					}
				})
			}
		}
	}
}

func TestOverlayDeviceTakesNothingElse(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, 1), newNode(t, 2)
	a.knows(t, b, false)
	h := header{src: a.gw4, dst: b.sib4, proto: protoUDP}
	to := func(h header) []byte { return ethernet(mac{1}, mac{2}, h.ethType(), h.packet(udp(1, 2, nil))) }
	nobody, noise := h, header{src: addr("fe80::1"), dst: addr("ff02::2"), proto: protoICMP6}
	nobody.dst = addr("10.9.9.9")
	check(t, a, []bad{
		{"no tunnel key", FromOverlay, to(h), 0, tcxDrop, "drop no-tunnel-key"},
		{"to nobody's pod", ToOverlay, to(nobody), 0, tcxDrop, "drop no-peer"},
		{"the host's noise", ToOverlay, to(noise), 0, tcxDrop, "drop link-local"},
		{"arp", ToOverlay, ethernet(broadcast, mac{2}, ethARP, arp(1, mac{2}, a.gw4, mac{}, b.sib4)), 0, tcxDrop, "drop not-ip"},
	})
	for _, outer6 := range []bool{false, true} {
		a.knows(t, b, outer6)
		verdict, got := a.run(t, ToOverlay, to(h), 0)
		src := innerSource(a.outer4)
		if outer6 {
			src = innerSource(a.outer6)
		}
		want := ethernet(mac{0x0e, 0x57, 9, 9, 9, 9}, src, h.ethType(), h.packet(udp(1, 2, nil)))
		if diff := cmp.Diff(got, want); verdict != tcxNext || diff != "" {
			t.Errorf("to a peer: verdict %d, packet (-got +want):\n%s", int32(verdict), diff)
		}
	}
}
