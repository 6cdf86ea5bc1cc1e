package bpf

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// BenchmarkPacket gives what a packet costs in units of an empty program, which is
// measured in turn with it.
func BenchmarkPacket(b *testing.B) {
	empty, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	must(b, err)
	b.Cleanup(func() { empty.Close() })
	p := newLane(b, false, false)
	node := netip.AddrPortFrom(p.outer4, 30080)
	far := p.other.sib4
	p.serve(b, 8, node, far)
	p.establish(b, p.client)
	frame := func(m mac, packet []byte) []byte { return ethernet(noMAC, m, ethType(packet), packet) }
	outsider := netip.AddrPortFrom(addr("198.51.100.7"), 5000)
	outside := frame(mac{2}, datagram(TCP, outsider, node, 64, ack, nil))
	plain := datagram(TCP, p.client, netip.AddrPortFrom(p.backend.Addr(), 9), 64, ack, nil)
	for _, c := range []struct {
		name    string
		program Program
		packet  []byte
	}{
		{"plain", FromPod, frame(p.clientMAC, plain)},
		{"established", FromPod, frame(p.clientMAC, datagram(TCP, p.client, p.vip, 64, ack, nil))},
		{"reply", FromPod, frame(p.backendMAC, datagram(TCP, p.backend, p.client, 64, ack, nil))},
		{"outside-snat", FromUplink, outside},
	} {
		b.Run(c.name, func(b *testing.B) {
			if c.name == "outside-snat" {
				p.run(b, FromUplink, frame(mac{2}, datagram(TCP, outsider, node, 64, syn, nil)), 0)
			}
			units(b, empty, p.programs[c.program], func(int) []byte { return c.packet })
		})
	}
	b.Run("first", func(b *testing.B) {
		units(b, empty, p.programs[FromPod], func(i int) []byte {
			return frame(p.clientMAC, datagram(TCP, p.clientAt(1024+i%60000), p.vip, 64, syn, nil))
		})
	})
}

// units reports the median cost of p, and how many times that of the empty program it is.
// Each packet is run once, in turn with the empty program: a run changes the packet. The
// time is the kernel's own, without the system call, but with its two looks at the clock,
// in both figures.
func units(b *testing.B, empty, p *ebpf.Program, packet func(int) []byte) {
	b.Helper()
	var mine, none []time.Duration
	for i := range max(b.N, 5000) {
		in := packet(i)
		for _, c := range []struct {
			program *ebpf.Program
			times   *[]time.Duration
		}{{empty, &none}, {p, &mine}} {
			_, took, err := c.program.Benchmark(in, 1, nil)
			must(b, err)
			*c.times = append(*c.times, took)
		}
	}
	slices.Sort(mine)
	slices.Sort(none)
	m, n := float64(mine[len(mine)/2]), float64(none[len(none)/2])
	b.ReportMetric(m, "ns/packet")
	b.ReportMetric(n, "ns/empty")
	b.ReportMetric(m/n, "units")
	b.ReportMetric(0, "ns/op")
}
