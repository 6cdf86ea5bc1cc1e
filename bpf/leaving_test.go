package bpf

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// away is a lane whose backend is in no pod: a node's own network, or what is outside of the
// cluster.
func away(t testing.TB, v6 bool) *lane { return awayWith(t, v6, Options{}) }

func awayWith(t testing.TB, v6 bool, o Options) *lane {
	t.Helper()
	return awayOf(t, newNodeWith(t, 1, o), v6)
}

func awayOf(t testing.TB, n *node, v6 bool) *lane {
	t.Helper()
	p := laneOf(t, n, v6, false)
	backend := addr("203.0.113.7")
	if v6 {
		backend = addr("2001:db8:113::7")
	}
	p.backend = netip.AddrPortFrom(backend, servePort)
	p.serve(t, 7, p.vip, backend)
	return p
}

// leaves wants the stack to get a segment of the client, with these addresses: it masquerades
// what pods send outside. What went around it would have the pod's address there.
func (p *lane) leaves(t testing.TB, from, to netip.AddrPort, flags byte, src, dst netip.AddrPort) {
	t.Helper()
	packet := datagram(TCP, from, to, 64, flags, nil)
	verdict, out := p.run(t, FromPod, ethernet(noMAC, p.clientMAC, ethType(packet), packet), 0)
	if verdict != tcxNext {
		t.Fatalf("flags %#x of %s to %s: verdict %d, counters %v, want them to be the stack's", flags, from, to, int32(verdict), p.counts(t))
	}
	if s, d := tupleOf(out[14:]); s != src || d != dst {
		t.Errorf("flags %#x of %s to %s are %s → %s, want %s → %s", flags, from, to, s, d, src, dst)
	}
}

// All of a pod's connection to a Service whose backend is in no pod goes by the stack, not its
// first packet alone. So does what it sends to that backend itself, which needs another port.
func TestWhatPodsSendOutsideGoesByTheStack(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := away(t, v6)
		for _, flags := range []byte{syn, ack, ack, fin | ack, ack} {
			p.leaves(t, p.client, p.vip, flags, p.client, p.backend)
		}
		packet := datagram(TCP, p.backend, p.client, 64, syn|ack, nil)
		_, out := p.run(t, ToPod, ethernet(mac{2}, mac{4}, ethType(packet), packet), 0)
		if src, dst := tupleOf(out[14:]); src != p.vip || dst != p.client {
			t.Errorf("the answer is %s → %s, want %s → %s", src, dst, p.vip, p.client)
		}
		for _, flags := range []byte{ack, ack, fin | ack, ack} {
			p.leaves(t, p.client, p.vip, flags, p.client, p.backend)
		}

		p.leaves(t, p.clientAt(41000), p.vip, syn, p.clientAt(41000), p.backend)
		packet = datagram(TCP, p.clientAt(41000), p.backend, 64, syn, nil)
		_, out = p.run(t, FromPod, ethernet(noMAC, p.clientMAC, ethType(packet), packet), 0)
		other, _ := tupleOf(out[14:])
		if other == p.clientAt(41000) {
			t.Fatalf("two connections of %s to %s have one tuple", other, p.backend)
		}
		for _, flags := range []byte{ack, ack, fin | ack} {
			p.leaves(t, p.clientAt(41000), p.backend, flags, other, p.backend)
		}
	}
}

// Nor does a Service lead a pod to the overlay's port of another node, where what it sends
// would have its own node's address.
func TestServicesDoNotLeadToTheOverlay(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, false)
		node := p.other.outer4
		if v6 {
			node = p.other.outer6
		}
		port := netip.AddrPortFrom(node, 8872)
		must(t, p.Services().Alive.Set(Place{node, port.Port(), UDP}, 1))
		must(t, p.Services().Backends.Set(Slot{Set: 7}, Backend{node, port.Port(), 1}))
		frame := vxlan(8, 87, make([]byte, 60))
		for range 2 {
			packet := datagram(UDP, p.client, p.vip, 64, 0, frame)
			verdict, _ := p.run(t, FromPod, ethernet(noMAC, p.clientMAC, ethType(packet), packet), 0)
			if verdict != tcxDrop {
				t.Errorf("a datagram to %s by way of a Service: verdict %d, want that it is dropped", port, int32(verdict))
			}
		}
		if diff := cmp.Diff(p.counts(t), map[string]uint64{"drop overlay-port": 2}); diff != "" {
			t.Errorf("counters (-got +want):\n%s", diff)
		}
	}
}
