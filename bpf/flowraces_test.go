package bpf

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// give gives a frame to a program, on any goroutine.
func (d *Datapath) give(program Program, frame []byte) (verdict uint32, out []byte, err error) {
	o := ebpf.RunOptions{Data: frame, DataOut: make([]byte, 256)}
	verdict, err = d.programs[program].Run(&o)
	return verdict, o.DataOut, err
}

// again does something again and again, on another processor, until what it returns is called.
func again(t testing.TB, do func(i int) error) (end func()) {
	stop, stopped := make(chan bool), make(chan error)
	go func() {
		var err error
		for i := 0; err == nil; i++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
				err = do(i)
			}
		}
		<-stop
		stopped <- err
	}()
	return func() {
		t.Helper()
		close(stop)
		must(t, <-stopped)
	}
}

// fromClient is the frame of a packet of the client's pod, fromBackend of one of the backend, which
// is on another node.
func (p *lane) fromClient(proto Protocol, client, to netip.AddrPort, flags byte) []byte {
	return ethernet(noMAC, p.clientMAC, ethIPv4, datagram(proto, client, to, 64, flags, load))
}

func (p *lane) fromBackend(proto Protocol, to netip.AddrPort, flags byte) []byte {
	frame := ethernet(mac{}, mac{10}, ethIPv4, datagram(proto, p.backend, to, 64, flags, load))
	outer := header{src: p.other.outer4, dst: p.outer4, proto: protoUDP}
	return ethernet(noMAC, mac{2}, ethIPv4, outer.packet(udp(50000, 8872, vxlan(8, 87, frame))))
}

// floodBeside begins flows on another processor, so that others are pushed out of their sets, or move.
func (p *lane) floodBeside(t testing.TB) (end func()) {
	return again(t, func(i int) error {
		_, _, err := p.give(FromPod, p.fromClient(TCP, p.clientAt(40000+i%20000), p.vip, syn))
		return err
	})
}

// secondService is another Service of the same backend.
func (p *lane) secondService(t testing.TB) netip.AddrPort {
	t.Helper()
	vip := netip.MustParseAddrPort("10.96.0.2:80")
	must(t, p.Services().Frontends.Set(Place{Addr: vip.Addr()}, Frontend{}))
	p.serve(t, 8, vip, p.backend.Addr())
	return vip
}

// While others ask for the tuple of its answers, a living flow has it, wherever its rows are.
func TestLivingFlowsKeepTheirTuple(t *testing.T) {
	t.Parallel()
	for _, moved := range []bool{false, true} {
		p := newLane(t, false, true)
		second := p.secondService(t)
		p.live(t, moved)
		end := again(t, func(i int) error {
			_, _, err := p.give(FromPod, p.fromClient(TCP, p.client, second, []byte{syn, rst}[i%2]))
			return err
		})
		frame := p.fromBackend(TCP, p.client, ack)
		bad := 0
		for range 50000 {
			verdict, out, err := p.give(FromUplink, frame)
			must(t, err)
			if src, _ := tupleOf(out[14:]); verdict != tcxRedirect || src != p.vip {
				if bad++; bad < 4 {
					t.Logf("moved=%t: an answer: verdict %d, from %s", moved, int32(verdict), src)
				}
			}
		}
		end()
		if bad > 0 {
			t.Errorf("moved=%t: %d of 50000 answers do not come from %s", moved, bad, p.vip)
		}
	}
}

// A flow that begins on the port of another one that ends, just then, has its own answers.
func TestFlowsOfOnePortBeginAtOnce(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	second := p.secondService(t)
	end := again(t, func(i int) error {
		_, _, err := p.give(FromPod, p.fromClient(TCP, p.client, second, []byte{syn, rst}[i%2]))
		return err
	})
	whole, bad := 0, 0
	for range 20000 {
		verdict, out, err := p.give(FromPod, p.fromClient(TCP, p.client, p.vip, syn))
		must(t, err)
		if verdict != tcxRedirect {
			continue // its set was busy
		}
		source, _ := tupleOf(out[14+50:])
		answers := 0
		for _, flags := range []byte{syn | ack, ack} {
			verdict, out, err := p.give(FromUplink, p.fromBackend(TCP, source, flags))
			must(t, err)
			if verdict != tcxRedirect {
				break
			}
			if src, dst := tupleOf(out[14:]); src != p.vip || dst != p.client {
				if bad++; bad < 4 {
					t.Errorf("an answer to %s comes as %s → %s", source, src, dst)
				}
			}
			answers++
			_, _, err = p.give(FromPod, p.fromClient(TCP, p.client, p.vip, ack))
			must(t, err)
		}
		if answers == 2 {
			whole++
		}
		_, _, err = p.give(FromPod, p.fromClient(TCP, p.client, p.vip, rst))
		must(t, err)
	}
	end()
	if whole < 10000 || bad > 0 {
		t.Errorf("of 20000 flows %d had both their answers, %d answers were another's", whole, bad)
	}
}

// Both ends end a flow at once, on two processors: it has ended.
func TestBothEndsEndAtOnce(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	for i := range 5000 {
		client := p.clientAt(2000 + i)
		p.establish(t, client)
		errs := make(chan error)
		for program, frame := range map[Program][]byte{
			FromPod:    p.fromClient(TCP, client, p.vip, fin|ack),
			FromUplink: p.fromBackend(TCP, client, fin|ack),
		} {
			go func() {
				verdict, _, err := p.give(program, frame)
				for err == nil && verdict != tcxRedirect { // a set was busy: it comes again
					verdict, _, err = p.give(program, frame)
				}
				errs <- err
			}()
		}
		must(t, errors.Join(<-errs, <-errs))
	}
	open := 0
	for _, v := range p.flows(t, weftMapLive) {
		if v.Flags&flowClosed == 0 {
			open++
		}
	}
	if open > 0 {
		t.Errorf("%d rows of 5000 flows are open", open)
	}
}

// Datagrams to a backend itself take the tuples of flows, while others push rows out of their set:
// once one has passed, nothing is left of the flow that lives, or all of it that is found.
func TestDatagramsWhileRowsMove(t *testing.T) {
	t.Parallel()
	p := newLaneWith(t, false, true, Options{MaxBriefFlows: briefWays})
	end := p.floodBeside(t)
	passed := map[uint16]bool{}
	for i := range 30000 {
		client := p.clientAt(1024 + i%28000)
		for _, x := range []struct {
			program Program
			frame   []byte
		}{
			{FromPod, p.fromClient(UDP, client, p.vip, 0)},
			{FromUplink, p.fromBackend(UDP, client, 0)},
			{FromPod, p.fromClient(UDP, client, p.vip, 0)},
			{FromPod, p.fromClient(UDP, client, p.backend, 0)},
		} {
			verdict, _, err := p.give(x.program, x.frame)
			must(t, err)
			passed[client.Port()] = verdict == tcxRedirect // the last one
		}
	}
	end()
	many := 0
	for _, ok := range passed {
		if ok {
			many++
		}
	}
	rows := p.flows(t, weftMapLive)
	for k, v := range rows {
		port := k.Sport
		if v.Flags&flowReply != 0 {
			port = k.Dport
		}
		if passed[port] {
			t.Fatalf("%+v lives: %+v", k, v)
		}
	}
	if many < len(passed)/2 {
		t.Errorf("of %d datagrams to the backend itself %d passed", len(passed), many)
	}
}

// Flows that begin anew while the daemon forgets what has ended have both rows.
func TestFlowsBeginAnewWhileTheyAreCollected(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	end := again(t, func(int) error {
		_, err := p.Collect(Timeouts{TCP: time.Hour, Ended: -1}, nil)
		return err
	})
	begin, goOn, over := p.fromClient(TCP, p.client, p.vip, syn), p.fromClient(TCP, p.client, p.vip, ack), p.fromClient(TCP, p.client, p.vip, rst)
	accepted, answer := p.fromBackend(TCP, p.client, syn|ack), p.fromBackend(TCP, p.client, ack)
	bad := 0
	for range 30000 {
		for i, frame := range [][]byte{begin, accepted, goOn, answer, over} {
			program := FromPod
			if i == 1 || i == 3 {
				program = FromUplink
			}
			verdict, out, err := p.give(program, frame)
			must(t, err)
			if program == FromUplink {
				if src, _ := tupleOf(out[14:]); verdict != tcxRedirect || src != p.vip {
					bad++
				}
			}
		}
	}
	end()
	if bad > 0 {
		t.Errorf("%d of 60000 answers were not translated", bad)
	}
}

// What the daemon forgets of a silent flow is its own: the tuple of its answers may be another's.
func TestSilentFlowsAreForgottenAlone(t *testing.T) {
	t.Parallel()
	for _, moved := range []bool{false, true} {
		p := newLane(t, false, true)
		p.establish(t, p.client)
		there, back := p.tuples(TCP, p.client)
		p.changeBrief(t, func(set *weftBriefSet) {
			for i := range set.Slot {
				set.Slot[i].Row.Seen -= 10
			}
		})
		row, _, err := p.inBrief(&back)
		must(t, err)
		row.Src, row.Seen = toAddr(p.secondService(t).Addr()), row.Seen+10
		p.pushOut(t, back)
		must(t, p.putLive(&back, &row))
		if moved {
			p.moveOn(t, there)
		}
		n, err := p.Collect(Timeouts{TCP: 5 * flowTick}, nil)
		must(t, err)
		left := p.flows(t, weftMapLive)
		if _, ok := left[there]; ok || n != 1 {
			t.Errorf("moved=%t: %d flows are forgotten, want the silent one (it is there: %t)", moved, n, ok)
		}
		if _, ok := left[back]; !ok {
			t.Errorf("moved=%t: the other flow's row is gone", moved)
		}
	}
}
