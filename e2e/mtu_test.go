package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
	"github.com/weftnet/weft/overlay"
)

// P8: every packet of the full size passes, and every bigger one is answered.
func TestMTU(t *testing.T) {
	for _, uplink := range []int{1500, 9000, 1400} {
		for _, tt := range []struct {
			name     string
			overhead int
			spec     cluster.Spec
		}{
			{"vxlan over IPv4", 50, cluster.Spec{Outer: cluster.V4}},
			{"vxlan over IPv6", 70, cluster.Spec{Outer: cluster.V6}},
			{"direct", 0, cluster.Spec{Flags: []string{"--overlay", "direct"}}},
		} {
			t.Run(fmt.Sprintf("%d %s", uplink, tt.name), func(t *testing.T) {
				t.Parallel()
				spec := tt.spec
				spec.Nodes, spec.MTU = 2, uplink
				fullSize(t, start(t, spec), uplink-tt.overhead)
			})
		}
	}
}

// fullSize tests one cell of the matrix: mtu is what pods should have.
func fullSize(t *testing.T, c *cluster.Cluster, mtu int) {
	a, near, far := addPod(t, c.Nodes[0], "a"), addPod(t, c.Nodes[0], "near"), addPod(t, c.Nodes[1], "far")
	for _, p := range []*cluster.Pod{a, near, far} {
		if got := mtuOf(t, p); got != mtu {
			t.Errorf("mtu of %s: got %d, want %d", p.Name, got, mtu)
		}
	}
	for i := range a.Addrs() {
		for _, to := range []*cluster.Pod{near, far} {
			s := listenUDP(t, to.NS, to.Addrs()[i])
			d := sendTo(t, a.NS, s.addr())
			arrives(t, d, s, mtu)
			// One byte more does not even leave the pod.
			if err := d.send(mtu + 1); !errors.Is(err, unix.EMSGSIZE) {
				t.Errorf("send %d bytes to %s: got %v, want EMSGSIZE", mtu+1, to.Name, err)
			}
			transfer(t, a.NS, to.NS, to.Addrs()[i], 2<<20)
		}
	}

	// A peer to which less fits than the pods' MTU.
	const less = 40
	for _, peer := range c.Nodes[1].Addrs {
		if err := c.Nodes[0].NS.IP("route", "add", peer.String(), "dev", "eth0", "mtu", fmt.Sprint(mtu+overheadIn(c)-less)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range a.Addrs() {
		s := listenUDP(t, far.NS, far.Addrs()[i])
		d := sendTo(t, a.NS, s.addr())
		gw := overlay.GatewayAddrs(c.Nodes[0].PodCIDRs)[i]
		// The daemon takes a moment to see the route.
		testnet.Until(t, 10*time.Second, func() error {
			s.drain(d)
			if err := d.send(mtu - less + 1); err != nil && !errors.Is(err, unix.EMSGSIZE) {
				return err
			}
			return tooBig(d.icmp(200*time.Millisecond), gw, mtu-less)
		})
		arrives(t, d, s, mtu-less)
		if gw.Is4() { // without DF, routers on the way fragment
			whole := sendTo(t, a.NS, s.addr())
			whole.control(t, func(fd int) error {
				return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_INTERFACE)
			})
			arrives(t, whole, s, mtu)
		}
		transfer(t, a.NS, far.NS, far.Addrs()[i], 2<<20)
	}
}

func overheadIn(c *cluster.Cluster) int {
	if len(c.Spec.Flags) > 0 {
		return 0
	}
	return overlay.Overhead(c.Nodes[0].Addrs[0])
}

// tooBig is nil if err is what the gateway must say of a packet bigger than mtu.
func tooBig(err error, gw netip.Addr, mtu int) error {
	var e icmpError
	typ, code := uint8(icmpUnreachable), uint8(icmpFragNeeded)
	if gw.Is6() {
		typ, code = icmp6TooBig, 0
	}
	if !errors.As(err, &e) || e.Type != typ || e.Code != code || e.From != gw || int(e.MTU) != mtu {
		return fmt.Errorf("got %w, want type %d code %d from %s, mtu %d", err, typ, code, gw, mtu)
	}
	return nil
}

// arrives asserts that a packet of the size arrives as one.
func arrives(t *testing.T, d *datagrams, s sink, size int) {
	t.Helper()
	s.drain(d)
	if err := d.send(size); err != nil {
		t.Errorf("send %d bytes to %s: %v", size, s.addr(), err)
		return
	}
	if got, want := s.receive(2*time.Second), size-d.headers(); got != want {
		t.Errorf("%d bytes to %s: received %d bytes of payload, want %d; %v", size, s.addr(), got, want, d.icmp(0))
	}
}

// transfer sends bytes over TCP and fails the test if they do not all arrive soon.
func transfer(t *testing.T, from, to *testnet.NS, addr netip.Addr, size int64) {
	t.Helper()
	var l *net.TCPListener
	err := to.Do(func() (err error) {
		l, err = net.ListenTCP("tcp", &net.TCPAddr{IP: addr.AsSlice()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan int64, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			got <- -1
			return
		}
		defer conn.Close()
		n, _ := io.Copy(io.Discard, conn)
		got <- n
	}()
	conn, err := traffic.Dial(from, "tcp", l.Addr().(*net.TCPAddr).AddrPort(), 3*time.Second)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Error(err)
	}
	begin := time.Now()
	_, err = io.CopyN(conn, zeros{}, size)
	conn.Close()
	if err != nil {
		t.Errorf("TCP to %s: %v after %s", addr, err, time.Since(begin))
		return
	}
	if n := <-got; n != size {
		t.Errorf("TCP to %s: %d of %d bytes arrived after %s", addr, n, size, time.Since(begin))
	}
}

// zeros is endless.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// mtuOf is the MTU of a pod's interface; the default routes must say the same.
func mtuOf(t testing.TB, p *cluster.Pod) int {
	t.Helper()
	mtu, err := readMTU(p)
	if err != nil {
		t.Fatal(err)
	}
	return mtu
}

func readMTU(p *cluster.Pod) (int, error) {
	out, err := p.NS.Output("ip", "-o", "link", "show", "eth0")
	if err != nil {
		return 0, err
	}
	mtu := after(out, "mtu")
	for _, f := range []string{"-4", "-6"} {
		out, err := p.NS.Output("ip", f, "route", "show", "default")
		if err != nil {
			return 0, err
		}
		if m := after(out, "mtu"); m != mtu {
			return 0, fmt.Errorf("mtu is %d, but %d on the route %s", mtu, m, out)
		}
	}
	return mtu, nil
}

// after is the number behind a word.
func after(text, word string) (n int) {
	_, rest, _ := strings.Cut(text, " "+word+" ")
	fmt.Sscan(rest, &n)
	return n
}
