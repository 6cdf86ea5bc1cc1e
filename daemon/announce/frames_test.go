package announce

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	testMAC = [6]byte{2, 0, 0, 0, 0, 0xaa}
	test4   = netip.MustParseAddr("192.0.2.1")
	test6   = netip.MustParseAddr("2001:db8::12:3456")
)

// The checksums of the two IPv6 frames were computed by another program (RFC 4443, 2.3).
func TestFrames(t *testing.T) {
	for _, c := range []struct {
		name string
		got  [][]byte
		want []string
	}{
		{"tell of IPv4", Tell(test4, testMAC), []string{
			"ffffffffffff 0200000000aa 0806 0001 0800 0604 0001 0200000000aa c0000201 000000000000 c0000201",
			"ffffffffffff 0200000000aa 0806 0001 0800 0604 0002 0200000000aa c0000201 ffffffffffff c0000201",
		}},
		{"tell of IPv6", Tell(test6, testMAC), []string{
			"333300000001 0200000000aa 86dd 60000000 0020 3a ff 20010db8000000000000000000123456 ff020000000000000000000000000001" +
				"8800 8fb3 20000000 20010db8000000000000000000123456 0201 0200000000aa",
		}},
		{"ask for IPv4", [][]byte{Ask(test4, testMAC)}, []string{
			"ffffffffffff 0200000000aa 0806 0001 0800 0604 0001 0200000000aa 00000000 000000000000 c0000201",
		}},
		{"ask for IPv6", [][]byte{Ask(test6, testMAC)}, []string{
			"3333ff123456 0200000000aa 86dd 60000000 0018 3a ff 00000000000000000000000000000000 ff0200000000000000000001ff123456" +
				"8700 e41e 00000000 20010db8000000000000000000123456",
		}},
	} {
		var got, want []string
		for _, b := range c.got {
			got = append(got, hex.EncodeToString(b))
		}
		for _, w := range c.want {
			want = append(want, strings.ReplaceAll(w, " ", ""))
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("%s (-got +want):\n%s", c.name, diff)
		}
	}
}

func TestDatagramsAreReadAsWritten(t *testing.T) {
	for _, d := range []Datagram{
		{Kind: kindQuestion, Nonce: 1<<63 + 5, Addr: test4},
		{Kind: kindAnswer, Flags: flagHeld | flagOn, Nonce: 7, Silence: 1234 * time.Millisecond, Addr: test6},
		{Kind: kindYield, Silence: neverHeard, Addr: test6},
	} {
		got, ok := Decode(d.Encode())
		if !ok || got != d {
			t.Errorf("read %+v (%v), wrote %+v", got, ok, d)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Datagram{Kind: kindAnswer, Addr: test4}.Encode())
	f.Add([]byte("weft"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, ok := Decode(b)
		if !ok {
			return
		}
		if again, ok := Decode(d.Encode()); !ok || again != d {
			t.Errorf("read %+v of % x, then %+v", d, b, again)
		}
	})
}
