package e2e

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
)

// A train of UDP segments as big as a socket takes it (UDP_SEGMENT, as QUIC servers
// use it): with the outer headers it would be longer than an IP packet can say.
func TestLongestSegmentTrainArrives(t *testing.T) {
	t.Parallel()
	const size = 1300
	c := start(t, cluster.Spec{Nodes: 2})
	a, b := addPod(t, c.Nodes[0], "a"), addPod(t, c.Nodes[1], "b")
	for _, addr := range b.Addrs() {
		var at *net.UDPConn
		if err := b.NS.Do(func() (err error) {
			at, err = net.ListenUDP("udp", &net.UDPAddr{IP: addr.AsSlice()})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer at.Close()
		from, err := traffic.Dial(a.NS, "udp", at.LocalAddr().(*net.UDPAddr).AddrPort(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		raw, err := from.(*net.UDPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var serr error
		err = raw.Control(func(fd uintptr) {
			serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size)
		})
		if err := errors.Join(err, serr); err != nil {
			t.Fatal(err)
		}
		// Above 65472 the outer length overflows; above 65493 the device cuts already.
		for _, total := range []int{65400, 65480, 65500} {
			if _, err := from.Write(make([]byte, total)); err != nil {
				t.Fatal(err)
			}
			if err := receive(at, total); err != nil {
				t.Errorf("%d bytes to %s: %v", total, addr, err)
			}
		}
	}
}

// receive reads datagrams until it has that many bytes.
func receive(conn *net.UDPConn, want int) error {
	if err := conn.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	buf := make([]byte, 65536)
	for got := 0; got < want; {
		n, err := conn.Read(buf)
		if err != nil {
			return fmt.Errorf("%d of %d bytes have arrived: %w", got, want, err)
		}
		got += n
	}
	return nil
}
