package returns

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

func TestQuestionsAreWhatTheProgramsRead(t *testing.T) {
	for _, c := range []struct {
		name     string
		to, from string
		head     []byte // up to the addresses
	}{
		{"IPv4", "172.18.0.2", "203.0.113.1", []byte{0x08, 0, 0x45, 0, 0, 68, 0, 0, 0x40, 0, 64, 17}},
		{"IPv6", "fd18::2", "2001:db8::1", []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, 48, 17, 64}},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := Question{From: netip.MustParseAddr(c.from), Nonce: 0x0102030405060708}
			q.To = netip.MustParseAddr(c.to)
			got := q.Encode(88, 8874)
			if want := append([]byte{8, 0, 0, 0, 0, 0, 88, 0, 2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0}, c.head...); !bytes.HasPrefix(got, want) {
				t.Fatalf("begins with % x, want % x", got[:len(want)], want)
			}
			datagram := got[len(got)-48:]
			want := append([]byte{0x22, 0xaa, 0x22, 0xaa, 0, 48, datagram[6], datagram[7], 'w', 'e', 'f', 't', 4, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}, make([]byte, 24)...)
			if !bytes.Equal(datagram, want) {
				t.Errorf("datagram % x, want % x", datagram, want)
			}
			size := len(q.To.AsSlice())
			addrs := got[len(got)-48-2*size : len(got)-48]
			if want := append(q.To.AsSlice(), q.From.AsSlice()...); !bytes.Equal(addrs, want) {
				t.Errorf("addresses % x, want % x", addrs, want)
			}
			if s := check(append(append([]byte{0, 17, 0, 48}, addrs...), datagram...)); s != 0xffff {
				t.Errorf("the datagram's sum is %#x", s)
			}
			if s := check(got[22 : len(got)-48]); q.To.Is4() && s != 0xffff {
				t.Errorf("the header's sum is %#x", s)
			}
		})
	}
}

// check is the sum that a receiver makes: all ones if it is right.
func check(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		if s += uint32(binary.BigEndian.Uint16(b[i:])); s > 0xffff {
			s -= 0xffff
		}
	}
	return uint16(s)
}

func TestTheLowestAddressOfEachFamilyIsTried(t *testing.T) {
	parse := netip.MustParseAddr
	v4, v6 := Sources([]netip.Addr{parse("203.0.113.9"), parse("2001:db8::2"), parse("203.0.113.1"), parse("2001:db8::1"), parse("203.0.113.5")})
	if v4 != parse("203.0.113.1") || v6 != parse("2001:db8::1") {
		t.Errorf("got %s and %s", v4, v6)
	}
	if v4, v6 := Sources(nil); v4.IsValid() || v6.IsValid() {
		t.Errorf("got %s and %s of none", v4, v6)
	}
}
