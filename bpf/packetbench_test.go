package bpf

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// BenchmarkPacket gives what a packet costs in units of an empty program, which is
// measured in turn with it: when many such packets come one after the other (warm), and
// alone, each by a system call of its own, after which caches and predictors are cold.
func BenchmarkPacket(b *testing.B) {
	empty := program(b, asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()})
	p := newLaneWith(b, false, false, Options{MaxEndpoints: DefaultMaxEndpoints})
	node := netip.AddrPortFrom(p.outer4, 30080)
	far := p.other.sib4
	p.serve(b, 8, node, far)
	p.establish(b, p.client)
	frame := func(m mac, packet []byte) []byte { return ethernet(noMAC, m, ethType(packet), packet) }
	outsider := netip.AddrPortFrom(addr("198.51.100.7"), 5000)
	outside := frame(mac{2}, datagram(TCP, outsider, node, 64, ack, nil))
	passing := netip.AddrPortFrom(p.outer4, 30081)
	p.servePassing(b, 9, passing, far)
	passed := frame(mac{2}, datagram(TCP, outsider, passing, 64, ack, nil))
	for _, c := range []struct {
		name    string
		program Program
		packet  []byte
		first   bool // of a new flow each
	}{
		{"plain", FromPod, frame(p.clientMAC, datagram(TCP, p.client, netip.AddrPortFrom(p.backend.Addr(), 9), 64, ack, nil)), false},
		{"established", FromPod, frame(p.clientMAC, datagram(TCP, p.client, p.vip, 64, ack, nil)), false},
		{"reply", FromPod, frame(p.backendMAC, datagram(TCP, p.backend, p.client, 64, ack, nil)), false},
		{"outside-snat", FromUplink, outside, false},
		{"outside-dsr", FromUplink, passed, false},
		{"first", FromPod, frame(p.clientMAC, datagram(TCP, p.clientAt(1024), p.vip, 64, syn, nil)), true},
	} {
		target := p.programs[c.program]
		if c.program == FromUplink {
			for _, at := range []netip.AddrPort{node, passing} {
				p.run(b, FromUplink, frame(mac{2}, datagram(TCP, outsider, at, 64, syn, nil)), 0)
			}
		} else { // those that leave the packet as long as it is
			b.Run(c.name+"/warm", func(b *testing.B) { warm(b, empty, target, c.packet, c.first) })
		}
		b.Run(c.name+"/alone", func(b *testing.B) {
			alone(b, empty, target, func(i int) []byte {
				if c.first {
					return frame(p.clientMAC, datagram(TCP, p.clientAt(1024+i%60000), p.vip, 64, syn, nil))
				}
				return c.packet
			})
		})
	}
}

// BenchmarkPolicy gives what policies add to a packet, in units of an empty program: the
// same packets between the same pods, which are isolated both ways or not, in turn. The
// pods' sets have so many rules for the peer's class, of which the last one matches.
func BenchmarkPolicy(b *testing.B) {
	empty := program(b, asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()})
	for _, size := range []int{1, 8, 64} {
		free, isolated := newLane(b, false, false), newLane(b, false, false)
		rules := make([]Rule, size)
		for i := range rules {
			rules[i] = Rule{First: 1, Last: 1, Protocol: UDP, Verdict: Allow}
		}
		rules[size-1] = allowAll
		isolated.class(b, 9, isolated.backend.Addr())
		for i := range 10000 { // addresses of a cluster
			isolated.class(b, Class(10+i%100), netip.AddrFrom4([4]byte{10, 245, byte(i >> 8), byte(i)}))
		}
		isolated.rules(b, setOut, 9, rules...)
		isolated.isolate(b, isolated.client.Addr(), setOut, setOut)
		for _, p := range []*lane{free, isolated} {
			p.send(b, datagram(TCP, p.client, p.backend, 64, syn, nil))
			p.answer(b, datagram(TCP, p.backend, p.client, 64, syn|ack, nil))
			p.send(b, datagram(TCP, p.client, p.backend, 64, ack, nil))
		}
		for _, c := range []struct {
			name  string
			flags byte
			first bool
		}{{"established", ack, false}, {"first", syn, true}} {
			packet := datagram(TCP, free.client, free.backend, 64, c.flags, nil)
			frame := ethernet(noMAC, free.clientMAC, ethType(packet), packet)
			b.Run(fmt.Sprintf("%s/rules=%d", c.name, size), func(b *testing.B) {
				forget := func() {}
				if c.first {
					forget = func() { isolated.forgetAllowed(b) }
				}
				added(b, empty, free.programs[FromPod], isolated.programs[FromPod], frame, forget, c.first)
			})
		}
	}
}

// BenchmarkPolicyOfBoth reports what a packet of a flow that goes on takes more if both pods are
// isolated: their rows are found at once.
func BenchmarkPolicyOfBoth(b *testing.B) {
	empty := program(b, asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()})
	free, isolated := newLane(b, false, false), newLane(b, false, false)
	isolated.rules(b, setOut, 0, allowAll)
	for _, pod := range []netip.AddrPort{isolated.client, isolated.backend} {
		isolated.isolate(b, pod.Addr(), setOut, setOut)
	}
	for _, p := range []*lane{free, isolated} {
		p.send(b, datagram(TCP, p.client, p.backend, 64, syn, nil))
		p.answer(b, datagram(TCP, p.backend, p.client, 64, syn|ack, nil))
		p.send(b, datagram(TCP, p.client, p.backend, 64, ack, nil))
	}
	packet := datagram(TCP, free.client, free.backend, 64, ack, nil)
	frame := ethernet(noMAC, free.clientMAC, ethType(packet), packet)
	added(b, empty, free.programs[FromPod], isolated.programs[FromPod], frame, func() {}, false)
}

// added is what one program takes more than another for the same packets, made anew each
// time, with something done between the rounds.
func added(b *testing.B, empty, less, more *ebpf.Program, packet []byte, between func(), first bool) {
	b.Helper()
	short, long := anew(b, less, packet, first), anew(b, more, packet, first)
	var none, base, all []float64
	for range rounds {
		for _, c := range []struct {
			program *ebpf.Program
			times   *[]float64
		}{{empty, &none}, {short, &base}, {long, &all}, {long, &all}, {short, &base}, {empty, &none}} {
			between()
			_, took, err := c.program.Benchmark(packet, perRound, nil)
			must(b, err)
			*c.times = append(*c.times, float64(took.Nanoseconds()))
		}
	}
	report(b, median(all)-median(base), median(none))
}

func program(b *testing.B, instructions asm.Instructions) *ebpf.Program {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXIngress, License: "GPL", Instructions: instructions,
	})
	must(b, err)
	b.Cleanup(func() { p.Close() })
	return p
}

// rounds are of so many packets each: those of new flows fit into the map of these.
const rounds, perRound = 21, 20000

// warm runs p by a program that makes the packet anew each time, for p changes it; if
// first, with another source port. What that program costs is measured, too, with the
// empty one in the place of p.
func warm(b *testing.B, empty, p *ebpf.Program, packet []byte, first bool) {
	b.Helper()
	before := map[*ebpf.Program]*ebpf.Program{}
	for _, target := range []*ebpf.Program{empty, p} {
		before[target] = anew(b, target, packet, first)
	}
	var none, restore, all []float64
	for range rounds {
		for _, c := range []struct {
			program *ebpf.Program
			times   *[]float64
		}{{empty, &none}, {before[empty], &restore}, {before[p], &all}, {before[p], &all}, {before[empty], &restore}, {empty, &none}} {
			_, took, err := c.program.Benchmark(packet, perRound, nil)
			must(b, err)
			*c.times = append(*c.times, float64(took.Nanoseconds()))
		}
	}
	report(b, median(all)-median(restore)+median(none), median(none))
}

// anew is a program that writes packet over the one it gets, and goes on as target.
func anew(b *testing.B, target *ebpf.Program, packet []byte, first bool) *ebpf.Program {
	b.Helper()
	bytes := newMap(b, &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(packet)), MaxEntries: 1})
	must(b, bytes.Put(uint32(0), packet))
	next := newMap(b, &ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(b, next.Put(uint32(0), target))
	const port = 14 + 20
	another := asm.Instructions{}
	if first {
		another = asm.Instructions{
			asm.LoadMem(asm.R1, asm.R0, port, asm.Half),
			asm.Add.Imm(asm.R1, 1),
			asm.StoreMem(asm.R0, port, asm.R1, asm.Half),
		}
	}
	return program(b, slices.Concat(asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, bytes.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
	}, another, asm.Instructions{
		asm.Mov.Reg(asm.R3, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Imm(asm.R4, int32(len(packet))),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, next.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("end"),
		asm.Return(),
	}))
}

func newMap(b *testing.B, spec *ebpf.MapSpec) *ebpf.Map {
	b.Helper()
	m, err := ebpf.NewMap(spec)
	must(b, err)
	b.Cleanup(func() { m.Close() })
	return m
}

// alone runs each packet once, in turn with the empty program. The times are the kernel's
// own, without the system call, but with its two looks at the clock, in both figures.
func alone(b *testing.B, empty, p *ebpf.Program, packet func(int) []byte) {
	b.Helper()
	var mine, none []float64
	for i := range max(b.N, 5000) {
		in := packet(i)
		for _, c := range []struct {
			program *ebpf.Program
			times   *[]float64
		}{{empty, &none}, {p, &mine}} {
			_, took, err := c.program.Benchmark(in, 1, nil)
			must(b, err)
			*c.times = append(*c.times, float64(took.Nanoseconds()))
		}
	}
	report(b, median(mine), median(none))
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

func report(b *testing.B, mine, none float64) {
	b.Helper()
	b.ReportMetric(mine, "ns/packet")
	b.ReportMetric(none, "ns/empty")
	b.ReportMetric(mine/none, "units")
	b.ReportMetric(0, "ns/op")
}
