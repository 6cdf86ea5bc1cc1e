package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/weftnet/weft/internal/testnet"
)

// Unreachable is an ICMP error made by hand: that a port cannot be reached (RFC 792, RFC
// 4443), about a datagram that was perhaps sent.
type Unreachable struct {
	From, To netip.Addr
	Of       [2]netip.AddrPort // source and destination of the datagram
	Number   uint64            // by which it is told from others
}

// message is the ICMP message. The kernel sets the checksum of ICMPv6.
func (u Unreachable) message() []byte {
	const udp = 17
	big := binary.BigEndian
	src, dst := u.Of[0].Addr(), u.Of[1].Addr()
	b := []byte{1, 4, 0, 0, 0, 0, 0, 0} // ICMPv6
	if src.Is4() {
		b[0], b[1] = 3, 3
		b = append(b, 0x45, 0, 0, 36, 0, 0, 0, 0, 64, udp, 0, 0)
	} else {
		b = append(b, 0x60, 0, 0, 0, 0, 16, udp, 64)
	}
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	b = big.AppendUint16(big.AppendUint16(b, u.Of[0].Port()), u.Of[1].Port())
	b = append(b, 0, 16, 0, 0)
	b = big.AppendUint64(b, u.Number)
	if src.Is4() {
		sum := uint32(0)
		for i := 0; i < len(b); i += 2 {
			sum += uint32(big.Uint16(b[i:]))
		}
		sum = sum>>16 + sum&0xffff
		big.PutUint16(b[2:], ^uint16(sum>>16+sum))
	}
	return b
}

// numberOf reads what message has made.
func numberOf(b []byte, v4 bool) (uint64, bool) {
	size, kind := 8+40+16, byte(1)
	if v4 {
		size, kind = 8+20+16, 3
	}
	if len(b) < size || b[0] != kind {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[size-8:]), true
}

func icmpNetwork(a netip.Addr) string {
	if a.Is4() {
		return "ip4:icmp"
	}
	return "ip6:ipv6-icmp"
}

// ErrorSocket sends such errors from an address, and collects those that come to it.
type ErrorSocket struct {
	addr netip.Addr
	conn *net.IPConn

	mu  sync.Mutex
	got map[uint64]bool
}

// ListenErrors begins.
func ListenErrors(ns *testnet.NS, at netip.Addr) (*ErrorSocket, error) {
	s := &ErrorSocket{addr: at, got: map[uint64]bool{}}
	err := ns.Do(func() (err error) {
		s.conn, err = net.ListenIP(icmpNetwork(at), &net.IPAddr{IP: at.AsSlice()})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen to ICMP in %s: %w", ns.Name, err)
	}
	go func() {
		b := make([]byte, 2048)
		for {
			n, _, err := s.conn.ReadFromIP(b)
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err != nil {
				continue
			}
			if number, ok := numberOf(b[:n], at.Is4()); ok {
				s.mu.Lock()
				s.got[number] = true
				s.mu.Unlock()
			}
		}
	}()
	return s, nil
}

// Send sends an error; From is the socket's address.
func (s *ErrorSocket) Send(u Unreachable) error {
	_, err := s.conn.WriteToIP(u.message(), &net.IPAddr{IP: u.To.AsSlice()})
	return err
}

// Got says whether the error of that number has come.
func (s *ErrorSocket) Got(number uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got[number]
}

// Close ends it.
func (s *ErrorSocket) Close() { s.conn.Close() }
