package e2e

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/crowd"
	"github.com/weftnet/weft/internal/testnet"
)

// A flood of half-open connections through the node ports of both nodes, from random
// sources, ends none of 10,000 that live there, and takes nothing of the map of those.
func TestFloodThroughNodePortsEndsNoConnection(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	if err := c.WriteObject("web", serviceYAML("web", "web", "Cluster", 20, 30090)+podObject("backend", "node-1", "web", "")); err != nil {
		t.Fatal(err)
	}
	backend := addPod(t, c.Nodes[0], "backend")
	server, err := crowd.Serve(in(nil, backend.NS, false), netip.AddrPortFrom(backend.IP4, 8080), netip.AddrPortFrom(backend.IP6, 8080))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	var to []netip.AddrPort
	var ways []crowd.Way
	const connections = 10_000
	for _, n := range c.Nodes {
		waitBackends(t, n, "default/web", 1)
		for _, a := range n.Addrs {
			at := netip.AddrPortFrom(a, 30090)
			ways = append(ways, crowd.Way{To: at, TCP: connections / 4})
			if a.Is4() {
				to = append(to, at)
			}
		}
	}
	var all crowds
	all.hold(t, "outside", in(nil, c.Outside, false), crowd.Pace{TCP: 3 * time.Second, Patience: 30 * time.Second}, ways...)
	all.spoken(t, "before")
	before := rowsOf(t, c, "live")

	sent := 0
	for half := injections(200_000); sent < half; { // make soak: ten times as many
		for i, at := range to {
			sent += flood(t, c.Outside, c.Nodes[i].NS, at, 10_000)
		}
	}
	for node, rows := range rowsOf(t, c, "brief") {
		if rows < 20_000 {
			t.Errorf("%s has %d rows after %d SYNs: no flood came there", node, rows, sent)
		}
	}
	if diff := cmp.Diff(rowsOf(t, c, "live"), before); diff != "" || before["node-1 live"]+before["node-2 live"] != 2*connections {
		t.Errorf("rows of what lives, before %v (-got +want):\n%s", before, diff)
	}
	all.spoken(t, "after the flood")
	all.finish(t)
}

// flood sends so many SYNs, each from another place of 198.18.0.0/15.
func flood(t *testing.T, from, to *testnet.NS, at netip.AddrPort, count int) int {
	t.Helper()
	device := func(ns *testnet.NS) (d *net.Interface) {
		err := ns.Do(func() (err error) { d, err = net.InterfaceByName("eth0"); return err })
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	src, dst := device(from), device(to)
	var fd int
	if err := from.Do(func() (err error) { fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); return err }); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	frame := append(append(append([]byte{}, dst.HardwareAddr...), src.HardwareAddr...), 8, 0)
	frame = append(frame, make([]byte, 40)...)
	packet := frame[14:]
	for range count {
		source := netip.AddrFrom4([4]byte{198, byte(18 + rand.IntN(2)), byte(rand.Uint32()), byte(rand.Uint32())})
		synTo(packet, netip.AddrPortFrom(source, uint16(1024+rand.IntN(60000))), at)
		// A device that is busy has no room for a moment.
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: src.Index, Halen: 6}); err != nil && err != unix.ENOBUFS {
			t.Fatal(fmt.Errorf("send SYN: %w", err))
		}
	}
	return count
}

// synTo writes an IPv4 packet of 40 bytes with a SYN (RFC 791, RFC 9293).
func synTo(p []byte, src, dst netip.AddrPort) {
	clear(p)
	big := binary.BigEndian
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_TCP
	big.PutUint16(p[2:], 40)
	copy(p[12:], src.Addr().AsSlice())
	copy(p[16:], dst.Addr().AsSlice())
	big.PutUint16(p[10:], internetSum(p[:20]))
	big.PutUint16(p[20:], src.Port())
	big.PutUint16(p[22:], dst.Port())
	big.PutUint32(p[24:], rand.Uint32())
	p[32], p[33] = 5<<4, 2
	big.PutUint16(p[34:], 64000)
	big.PutUint16(p[36:], internetSum(p[12:], []byte{0, unix.IPPROTO_TCP, 0, 20}))
}

// internetSum is RFC 1071's, of parts of an even length.
func internetSum(parts ...[]byte) uint16 {
	sum := uint32(0)
	for _, b := range parts {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
