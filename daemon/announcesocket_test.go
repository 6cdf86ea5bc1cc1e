package daemon

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/daemon/announce"
	"github.com/weftnet/weft/internal/testnet"
)

// Who floods the port of probes must not keep the daemon from giving its sign of life: while
// it is silent its addresses are not answered for.
func TestAFloodOfDatagramsDoesNotHoldUpTheAnnouncer(t *testing.T) {
	testnet.Require(t)
	for _, at := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		s := newAnnounceSockets(0)
		defer s.close()
		if err := s.listen([]netip.Addr{at}); err != nil {
			t.Fatal(err)
		}
		bound, err := unix.Getsockname(s.udp[at])
		if err != nil {
			t.Fatal(err)
		}
		switch b := bound.(type) {
		case *unix.SockaddrInet4:
			s.port = uint16(b.Port)
		case *unix.SockaddrInet6:
			s.port = uint16(b.Port)
		}
		const flood = 100_000
		got := 0
		again := func() { s.send(at, at, announce.Datagram{Addr: at}) }
		again()
		testnet.Until(t, 20*time.Second, func() error { // a busy kernel delivers it a moment later
			s.receive(func(netip.Addr, announce.Datagram) {
				if got++; got < flood { // there is always one more
					again()
				}
			})
			if got == 0 {
				return errors.New("the first datagram has not arrived")
			}
			return nil
		})
		if got == flood {
			t.Errorf("%s: %d datagrams were taken up at once, want some of %d", at, got, flood)
		}
	}
}
