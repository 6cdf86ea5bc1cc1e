package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testnet"
	"github.com/weftnet/weft/overlay"
)

// What the direct way does not serve, the kernel does: fragments, options, and
// packets whose time ends here.
func TestFragmentsOptionsAndEndOfLife(t *testing.T) {
	for _, spec := range []cluster.Spec{{Nodes: 2}, {Nodes: 2, OuterV6First: true}, {Nodes: 2, Flags: []string{"--overlay", "direct"}}} {
		t.Run(fmt.Sprint(spec.OuterV6First, spec.Flags), func(t *testing.T) {
			t.Parallel()
			c := start(t, spec)
			a, near, far, _ := pods(t, c)
			for i := range a.Addrs() {
				for _, to := range []*cluster.Pod{near, far} {
					s := listenUDP(t, to.NS, to.Addrs()[i])
					d := sendTo(t, a.NS, s.addr())

					d.fragment(t)
					for _, size := range []int{8000, 60000} {
						arrives(t, d, s, size)
					}

					d = sendTo(t, a.NS, s.addr())
					d.options(t)
					arrives(t, d, s, 500)

					d = sendTo(t, a.NS, s.addr())
					d.hops(t, 1)
					s.drain(d)
					if err := d.send(100); err != nil {
						t.Fatal(err)
					}
					gw := overlay.GatewayAddrs(c.Nodes[0].PodCIDRs)[i]
					typ := uint8(icmpTimeExceeded)
					if gw.Is6() {
						typ = icmp6TimeExceeded
					}
					var e icmpError
					if err := d.icmp(2 * time.Second); !errors.As(err, &e) || e.Type != typ || e.Code != 0 || e.From != gw {
						t.Errorf("TTL 1 to %s: got %v, want type %d from %s", s.addr(), err, typ, gw)
					}
					if got := s.receive(50 * time.Millisecond); got >= 0 {
						t.Errorf("TTL 1 to %s: arrived", s.addr())
					}
				}
			}
		})
	}
}

// The same from the node itself, whose packets the kernel encapsulates.
func TestFragmentsFromTheHost(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	near, far := addPod(t, c.Nodes[0], "near"), addPod(t, c.Nodes[1], "far")
	for i := range near.Addrs() {
		for _, to := range []*cluster.Pod{near, far} {
			s := listenUDP(t, to.NS, to.Addrs()[i])
			d := sendTo(t, c.Nodes[0].NS, s.addr())
			arrives(t, d, s, 1450)
			d.fragment(t)
			arrives(t, d, s, 8000)
			transfer(t, c.Nodes[0].NS, to.NS, to.Addrs()[i], 2<<20)
		}
	}
	testnet.Until(t, 5*time.Second, func() error { return far.Check(t.Context()) })
}
