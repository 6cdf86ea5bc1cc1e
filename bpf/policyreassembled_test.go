package bpf

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// Big and small datagrams: the stack puts the big one together from its fragments, as it
// tracks connections, and takes it apart again.
var reassembled = []int{100, 5000}

// tracks makes the stack of a host put fragments together.
func (h *host) tracks(t testing.TB) {
	t.Helper()
	sh(t, h.ns, "for i in iptables ip6tables; do $i -w -A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT; done")
}

// askJudged asks with a datagram, and wants an answer, or none because of policy.
func (h *host) askJudged(t *testing.T, from netns.NsHandle, to netip.AddrPort, size int, denied string) {
	t.Helper()
	before := h.counts(t)
	_, err := askService(t, from, "udp", to, size)
	switch dropped := h.counts(t)["drop "+denied] - before["drop "+denied]; {
	case denied == "" && err != nil:
		t.Errorf("%d bytes to %s: %v, counters %v", size, to, err, h.counts(t))
	case denied != "" && (!isTimeout(err) || dropped == 0):
		t.Errorf("%d bytes to %s: %v and %d drops, want no answer and %s", size, to, err, dropped, denied)
	}
}

// What comes from outside past the direct ways is judged where the stack delivers it, in
// whatever pieces it does; what the node itself sends is let in.
func TestReassembledDatagramsAreJudged(t *testing.T) {
	t.Parallel()
	const let, none RuleSet = 41, 42
	w := newTown(t, false)
	w.a.tracks(t)
	w.a.class(t, 51, w.outside.outer4, w.outside.outer6)
	w.a.rules(t, let, 51, allowPort(UDP, servePort))
	w.a.rules(t, none, 0, denyAll)
	backendEcho(t, w.near.ns, w.near.v4)
	backendEcho(t, w.near.ns, w.near.v6)
	ip(t, w.outside.ns, "-4 route add %s via %s", w.near.v4, w.a.outer4)
	ip(t, w.outside.ns, "-6 route add %s via %s", w.near.v6, w.a.outer6)
	for _, pod := range []netip.Addr{w.near.v4, w.near.v6} {
		to := netip.AddrPortFrom(pod, servePort)
		for _, size := range reassembled {
			w.a.isolate(t, pod, let, 0)
			w.a.askJudged(t, w.outside.ns, to, size, "")
			w.a.askJudged(t, w.a.ns, to, size, "")
			w.a.isolate(t, pod, none, 0)
			w.a.askJudged(t, w.outside.ns, to, size, "policy-ingress")
			w.a.askJudged(t, w.a.ns, to, size, "")
		}
	}
	// The fragments go on as they came, unless the device wants more room before them:
	// then they are made anew.
	ip(t, w.near.ns, "link add tunnel type vxlan id 9 dstport 4789 local %s", w.near.v4)
	ip(t, w.near.ns, "link add br0 type bridge")
	ip(t, w.near.ns, "link set tunnel master br0")
	ip(t, w.near.ns, "link set eth0 master br0")
	for _, pod := range []netip.Addr{w.near.v4, w.near.v6} {
		before := w.a.counts(t)["drop policy-ingress"]
		c := dialFrom(t, w.outside.ns, netip.AddrPortFrom(pod, servePort))
		for deadline := time.Now().Add(2 * time.Second); w.a.counts(t)["drop policy-ingress"] == before; {
			if time.Now().After(deadline) {
				t.Fatalf("fragments to %s that are made anew are not dropped, counters %v", pod, w.a.counts(t))
			}
			_, err := c.Write(make([]byte, reassembled[1]))
			must(t, err)
		}
	}
}

// Beside kube-proxy, what an isolated pod sends to a Service is judged where the stack
// sends it to another node, in whatever pieces.
func TestReassembledDatagramsToTheOverlayAreJudged(t *testing.T) {
	t.Parallel()
	const let, none RuleSet = 41, 42
	w := newTownWith(t, false, besideNetfilter)
	w.a.class(t, 51, w.far.v4, w.far.v6)
	w.a.rules(t, let, 51, allowPort(UDP, servePort))
	w.a.rules(t, none, 0, denyAll)
	for _, f := range []struct {
		iptables       string
		vip, near, far netip.Addr
	}{
		{"iptables", addr("10.96.0.10"), w.near.v4, w.far.v4},
		{"ip6tables", addr("fd00:96::10"), w.near.v6, w.far.v6},
	} {
		backendEcho(t, w.far.ns, f.far)
		must(t, w.a.Services().Frontends.Set(Place{Addr: f.vip}, Frontend{}))
		vip := netip.AddrPortFrom(f.vip, 80)
		w.a.serve(t, 100, vip, f.far)
		sh(t, w.a.ns, f.iptables+" -w -t nat -A PREROUTING -d "+f.vip.String()+" -p udp --dport 80 -j DNAT --to-destination "+netip.AddrPortFrom(f.far, servePort).String())
		for _, size := range reassembled {
			w.a.isolate(t, f.near, 0, let)
			w.a.askJudged(t, w.near.ns, vip, size, "")
			w.a.isolate(t, f.near, 0, none)
			w.a.askJudged(t, w.near.ns, vip, size, "policy-egress")
		}
	}
}

// dialFrom is a UDP socket in a namespace.
func dialFrom(t testing.TB, ns netns.NsHandle, to netip.AddrPort) net.Conn {
	t.Helper()
	var c net.Conn
	in(t, ns, func() {
		var err error
		c, err = net.Dial("udp", to.String())
		must(t, err)
	})
	t.Cleanup(func() { c.Close() })
	return c
}
