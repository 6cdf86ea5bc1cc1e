package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
)

// A pod that sends VXLAN packets itself, to the node of another pod: masquerade would
// give them its node's address, and so make the sender right.
func TestPodCannotForgeTheOverlay(t *testing.T) {
	t.Parallel()
	limit := map[string]any{"bandwidth": map[string]any{
		"ingressRate": 1_000_000_000, "ingressBurst": 10_000_000, "egressRate": 1_000_000_000, "egressBurst": 10_000_000}}
	for _, tt := range []struct {
		name         string
		spec         cluster.Spec
		capabilities map[string]any
	}{
		{"over IPv4", cluster.Spec{Nodes: 2}, nil},
		{"over IPv6", cluster.Spec{Nodes: 2, OuterV6First: true}, nil},
		{"past the programs", cluster.Spec{Nodes: 2}, limit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := start(t, tt.spec)
			evil, err := c.Nodes[0].NewPod("evil")
			if err != nil {
				t.Fatal(err)
			}
			evil.Capabilities = tt.capabilities
			if err := evil.Add(t.Context()); err != nil {
				t.Fatal(err)
			}
			other, victim := addPod(t, c.Nodes[0], "other"), addPod(t, c.Nodes[1], "victim")
			var at *net.UDPConn
			if err := victim.NS.Do(func() (err error) {
				at, err = net.ListenUDP("udp", &net.UDPAddr{IP: victim.IP4.AsSlice()})
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer at.Close()
			to := at.LocalAddr().(*net.UDPAddr).AddrPort()
			for _, outer := range []netip.Addr{c.Nodes[1].Addrs[0], c.Nodes[0].Addrs[0]} {
				conn, err := traffic.Dial(evil.NS, "udp", netip.AddrPortFrom(outer, 8872), time.Second)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				for _, from := range []netip.Addr{other.IP4, evil.IP4, netip.MustParseAddr("10.244.1.1")} {
					// An ICMP error of an earlier one may be the answer: it was not taken then.
					if _, err := conn.Write(vxlan(netip.AddrPortFrom(from, 53), to)); err != nil {
						t.Logf("to %s: %v", outer, err)
					}
				}
			}
			// What is allowed arrives, and so would the others have.
			honest, err := traffic.Dial(other.NS, "udp", to, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer honest.Close()
			if _, err := honest.Write([]byte("honest")); err != nil {
				t.Fatal(err)
			}
			if err := at.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 64)
			n, from, err := at.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatalf("the honest datagram: %v", err)
			}
			if string(buf[:n]) != "honest" {
				t.Errorf("the victim got %q, which says that it is from %s", buf[:n], from)
			}
		})
	}
}

// vxlan is the payload of a VXLAN packet with our VNI that holds a datagram.
func vxlan(from, to netip.AddrPort) []byte {
	payload := []byte("forged")
	udp := binary.BigEndian.AppendUint16(nil, from.Port())
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	ip := append([]byte{0x45, 0}, binary.BigEndian.AppendUint16(nil, uint16(20+len(udp)))...)
	ip = append(ip, 0, 0, 0x40, 0, 64, 17, 0, 0)
	ip = append(append(ip, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	var sum uint32
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	head := []byte{8, 0, 0, 0, 0, 0, 87, 0}
	eth := append([]byte{0x0e, 0x57, 1, 2, 3, 4, 0x0a, 0x57, 1, 2, 3, 4}, 8, 0)
	return fmt.Append(nil, string(head), string(eth), string(ip), string(udp))
}
