package bpf

import (
	"bytes"
	"net/netip"
	"testing"
)

// Whatever checksum a packet has, the translated one has that of what it is then; a UDP datagram
// without one has none afterwards.
func TestChecksumsOfTranslatedPackets(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, true)
		at := 20
		if v6 {
			at = 40
		}
		p.tcp(t, p.client, syn)
		p.ask(t, UDP, p.client, p.vip, 0, load)
		for proto, field := range map[Protocol]int{TCP: at + 16, UDP: at + 6} {
			bad := 0
			for i := range 1 << 16 {
				payload := be16(i)
				_, got := p.send(t, datagram(proto, p.client, p.vip, 64, ack, payload))
				if got == nil {
					t.Fatalf("v6=%t %s: %d does not pass", v6, proto, i)
				}
				want := datagram(proto, p.client, p.backend, 63, ack, payload)
				if !bytes.Equal(got, want) {
					if bad++; bad < 4 {
						t.Errorf("v6=%t %s, payload %#x:\n%x, want\n%x", v6, proto, i, got, want)
					}
				}
			}
			if bad > 0 {
				t.Errorf("v6=%t %s: %d of 65536 are wrong", v6, proto, bad)
			}
			if proto == UDP && !v6 {
				_, got := p.send(t, edit(datagram(proto, p.client, p.vip, 64, 0, load), field, 0, 0))
				if want := edit(datagram(proto, p.client, p.backend, 63, 0, load), field, 0, 0); !bytes.Equal(got, want) {
					t.Errorf("without a checksum: %x, want %x", got, want)
				}
			}
		}
	}
}

// The same where the backend is in the node's own network, and ports alone change.
func TestChecksumsWhereAddressesStay(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, false)
		host, client, at := p.outer4, netip.MustParseAddrPort("203.0.113.7:20000"), 20
		if v6 {
			host, client, at = p.outer6, netip.MustParseAddrPort("[2001:db8:7::7]:20000"), 40
		}
		node, backend := netip.AddrPortFrom(host, 30080), netip.AddrPortFrom(host, servePort)
		p.serve(t, 8, node, host)
		for proto, field := range map[Protocol]int{TCP: at + 16, UDP: at + 6} {
			bad := 0
			check := func(what string, in, want []byte) {
				verdict, got := p.run(t, FromUplink, ethernet(noMAC, mac{2}, ethType(in), in), 0)
				if verdict != tcxNext || !bytes.Equal(got[14:], want) {
					if bad++; bad < 4 {
						t.Errorf("v6=%t %s %s: verdict %d\n%x, want\n%x", v6, proto, what, int32(verdict), got[14:], want)
					}
				}
			}
			check("first", datagram(proto, client, node, 64, syn, nil), datagram(proto, client, backend, 64, syn, nil))
			for i := range 1 << 16 {
				payload := be16(i)
				check("sum", datagram(proto, client, node, 64, ack, payload), datagram(proto, client, backend, 64, ack, payload))
			}
			if proto == UDP {
				check("no sum", edit(datagram(proto, client, node, 64, ack, load), field, 0, 0), edit(datagram(proto, client, backend, 64, ack, load), field, 0, 0))
			}
			if bad > 0 {
				t.Errorf("v6=%t %s: %d are wrong", v6, proto, bad)
			}
		}
	}
}
