package daemon

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/api"
)

// Of a batch of records the first tells how many there are none of.
func TestLeftOutDropsAreToldOnce(t *testing.T) {
	r := &recordReader{policies: newPolicyLab(t).policies, lost: 10}
	for i, want := range []uint64{5, 0, 7} {
		got := r.batch(make([]bpf.Record, 3), 10+[]uint64{5, 5, 12}[i])
		if len(got) != 3 || got[0].LeftOut != want || got[1].LeftOut+got[2].LeftOut != 0 {
			t.Errorf("batch %d: got %+v, want %d left out before the first", i, got, want)
		}
	}
}

// A later fragment is shown with the ports by which it was judged, which it has not itself;
// a backend is shown only of what went to a Service.
func TestLaterFragmentsAreShownWithTheirPorts(t *testing.T) {
	at := netip.MustParseAddrPort
	pod, peer, vip := at("10.244.1.2:4000"), at("10.244.2.2:80"), at("10.96.0.10:90")
	none := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }
	tests := []struct {
		name          string
		src, dst      netip.AddrPort // as the packet says
		local, remote netip.AddrPort
		ingress       bool
		want          [3]netip.AddrPort // source, destination, backend
	}{
		{"first, out", pod, peer, pod, peer, false, [3]netip.AddrPort{pod, peer}},
		{"later, out", none(pod), none(peer), pod, peer, false, [3]netip.AddrPort{pod, peer}},
		{"later, in", none(pod), none(peer), peer, pod, true, [3]netip.AddrPort{pod, peer}},
		{"first to a Service", pod, vip, pod, peer, false, [3]netip.AddrPort{pod, vip, peer}},
		{"later to a Service", none(pod), none(vip), pod, peer, false, [3]netip.AddrPort{pod, none(vip), peer}},
		{"a protocol without ports", none(pod), none(peer), none(pod), none(peer), false, [3]netip.AddrPort{none(pod), none(peer)}},
	}
	r := &recordReader{policies: newPolicyLab(t).policies}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := r.drop(bpf.Record{
				Set: bpf.RuleSetClosed, Ingress: tt.ingress, Local: tt.local, Remote: tt.remote, Protocol: bpf.UDP,
				Packet: bpf.Packet{Src: tt.src, Dst: tt.dst, Protocol: bpf.UDP},
			})
			end := func(e *api.DropEnd) netip.AddrPort {
				if e == nil {
					return netip.AddrPort{}
				}
				return netip.AddrPortFrom(e.Addr, e.Port)
			}
			if got := [3]netip.AddrPort{end(&d.Src), end(&d.Dst), end(d.Backend)}; got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
