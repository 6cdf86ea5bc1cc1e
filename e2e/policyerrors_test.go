package e2e

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/daemon/policy/oracle"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/e2e/traffic"
)

// closedPort is one that no pod serves: a datagram to it is answered by an ICMP error of the
// pod's kernel, which passes as the flow does.
const closedPort = 83

// policyErrors asks pods at closedPort, and sends errors by hand.
type policyErrors struct {
	w       *policyWorld
	sockets map[netip.Addr]*traffic.ErrorSocket

	mu     sync.Mutex
	number uint64
}

// newPolicyErrors has the pods' kernels tell of each datagram.
func newPolicyErrors(t *testing.T, w *policyWorld) *policyErrors {
	t.Helper()
	e := &policyErrors{w: w, sockets: map[netip.Addr]*traffic.ErrorSocket{}}
	for _, name := range policyNames {
		p := w.pods[name]
		for _, key := range []string{"net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"} {
			if err := p.NS.Sysctl(key, "0"); err != nil {
				t.Fatal(err)
			}
		}
		for _, a := range p.Addrs() {
			s, err := traffic.ListenErrors(p.NS, a)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Close)
			e.sockets[a] = s
		}
	}
	return e
}

// expectError says what becomes of an ICMP error that p.from sends to p.to about a datagram
// that p.to has sent to p.from's port: it passes where that datagram did, or what ICMP may.
func (w *policyWorld) expectError(world oracle.World, p policyProbe) policyVerdict {
	const icmp, icmp6 source.Protocol = 1, 58
	protocol := icmp6
	if p.v4 {
		protocol = icmp
	}
	datagram := w.expect(world, policyProbe{from: p.to, to: p.from, protocol: "closed", port: p.port, v4: p.v4})
	from, to := w.addr(p.from, p.v4), w.addr(p.to, p.v4)
	for _, end := range []struct {
		name    string
		ingress bool
		remote  netip.Addr
		related bool
	}{
		{p.from, false, to, datagram.allowed},
		{p.to, true, from, datagram.allowed || datagram.ingress}, // it has left that pod
	} {
		pod := w.pods[end.name]
		judged := world.Pod(pod.Namespace, pod.Name)
		v := world.Judge(judged, end.ingress, end.remote, protocol, 0)
		if !end.related && !v.Allowed {
			return policyVerdict{
				ingress: end.ingress, pod: end.name, why: v, policies: isolating(world, judged, end.ingress),
				sees: from, remote: netip.AddrPortFrom(to, 0),
			}
		}
	}
	return policyVerdict{allowed: true}
}

// ask sends a datagram to the closed port, p, and then has its receiver send an error about
// it by hand.
func (e *policyErrors) ask(t *testing.T, p policyProbe, datagram, byHand policyVerdict) {
	from := e.w.pods[p.from]
	to := netip.AddrPortFrom(e.w.addr(p.to, p.v4), p.port)
	src := e.w.addr(p.from, p.v4)
	var conn *net.UDPConn
	err := from.NS.Do(func() (err error) {
		conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0)), net.UDPAddrFromAddrPort(to))
		return err
	})
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	if told := unreachable(conn, datagram.allowed); told != datagram.allowed {
		t.Errorf("%s: told that nobody serves it: %t, want %t", p, told, datagram.allowed)
	}
	e.mu.Lock()
	e.number++
	number := e.number
	e.mu.Unlock()
	u := traffic.Unreachable{
		From: to.Addr(), To: src, Number: number,
		Of: [2]netip.AddrPort{conn.LocalAddr().(*net.UDPAddr).AddrPort(), to},
	}
	if got := e.arrives(t, u, byHand.allowed); got != byHand.allowed {
		t.Errorf("%s: an error about it by hand arrives: %t, want %t", p, got, byHand.allowed)
	}
}

// unreachable asks once, or again and again if it is wanted, and says whether the answer was
// that the port cannot be reached.
func unreachable(conn *net.UDPConn, wanted bool) bool {
	wait, tries := denied, 1
	if wanted {
		wait, tries = 400*time.Millisecond, 20
	}
	b := make([]byte, 16)
	for range tries {
		if _, err := conn.Write([]byte("?")); err != nil {
			return errors.Is(err, syscall.ECONNREFUSED)
		}
		conn.SetReadDeadline(time.Now().Add(wait))
		if _, err := conn.Read(b); errors.Is(err, syscall.ECONNREFUSED) {
			return true
		}
	}
	return false
}

// arrives sends the error once, or again and again if it is wanted.
func (e *policyErrors) arrives(t *testing.T, u traffic.Unreachable, wanted bool) bool {
	tries := 1
	if wanted {
		tries = 20
	}
	for range tries {
		if err := e.sockets[u.From].Send(u); err != nil {
			t.Error(err)
			return false
		}
		for deadline := time.Now().Add(400 * time.Millisecond); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if e.sockets[u.To].Got(u.Number) {
				return true
			}
		}
	}
	return false
}

// weight is how many packets a probe is: see [cluster.Fragments].
func (p policyProbe) weight() int {
	if p.protocol == "fragments" {
		return 3
	}
	return 1
}
