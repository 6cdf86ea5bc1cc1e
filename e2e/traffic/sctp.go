package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/testnet"
)

// SCTP by hand, over raw sockets, for kernels without: an INIT is answered by an INIT ACK
// (RFC 9260, sections 3.3.2 and 3.3.3) with the address that it came from, as text, in a
// parameter that is padding (RFC 4820). What has not the right checksum is nothing.

const (
	sctpInit, sctpInitAck = 1, 2
	sctpTag               = 0x57656674 // of the client's side
	sctpPad               = 0x8005
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sctpPacket is a packet with one chunk of these, with its checksum.
func sctpPacket(sport, dport uint16, tag uint32, chunk byte, text string) []byte {
	big := binary.BigEndian
	b := big.AppendUint32(big.AppendUint16(big.AppendUint16(nil, sport), dport), tag)
	b = append(b, 0, 0, 0, 0, chunk, 0)
	param := 4 + len(text)
	b = big.AppendUint16(b, uint16(20+param))
	b = big.AppendUint32(big.AppendUint32(b, sctpTag), 65536) // initiate tag, window
	b = big.AppendUint32(big.AppendUint16(big.AppendUint16(b, 1), 1), 1)
	b = append(big.AppendUint16(big.AppendUint16(b, sctpPad), uint16(param)), text...)
	for len(b)%4 > 0 {
		b = append(b, 0)
	}
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	return b
}

// readSCTP reads a packet that sctpPacket has made.
func readSCTP(b []byte, chunk byte) (sport, dport uint16, text string, err error) {
	big := binary.BigEndian
	if len(b) < 36 || b[12] != chunk || big.Uint16(b[32:]) != sctpPad {
		return 0, 0, "", errors.New("another packet")
	}
	sport, dport = big.Uint16(b), big.Uint16(b[2:])
	sum := binary.LittleEndian.Uint32(b[8:])
	c := append([]byte{}, b...)
	clear(c[8:12])
	if want := crc32.Checksum(c, castagnoli); sum != want {
		return sport, dport, "", fmt.Errorf("checksum %#x, want %#x", sum, want)
	}
	end := 32 + int(big.Uint16(b[34:]))
	if end < 36 || end > len(b) {
		return sport, dport, "", errors.New("cut short")
	}
	return sport, dport, string(b[36:end]), nil
}

func sctpNetwork(a netip.Addr) string {
	if a.Is4() {
		return "ip4:132"
	}
	return "ip6:132"
}

// SCTPServer answers with the address that it sees the question come from.
type SCTPServer struct{ conn *net.IPConn }

// ServeSCTP starts a server.
func ServeSCTP(ns *testnet.NS, at netip.AddrPort) (*SCTPServer, error) {
	s := &SCTPServer{}
	err := ns.Do(func() (err error) {
		s.conn, err = net.ListenIP(sctpNetwork(at.Addr()), &net.IPAddr{IP: at.Addr().AsSlice()})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen to SCTP in %s: %w", ns.Name, err)
	}
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := s.conn.ReadFromIP(b)
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err != nil {
				continue
			}
			sport, dport, _, err := readSCTP(b[:n], sctpInit)
			if err != nil || dport != at.Port() {
				continue
			}
			seen, _ := netip.AddrFromSlice(from.IP)
			s.conn.WriteToIP(sctpPacket(dport, sport, sctpTag, sctpInitAck, seen.Unmap().String()), from)
		}
	}()
	return s, nil
}

// Close ends the server.
func (s *SCTPServer) Close() { s.conn.Close() }

// sctpPort makes the ports of a process's questions different: to one server, two that go
// different ways could not be told apart.
var sctpPort atomic.Uint32

// AskSCTP asks a server from the process's namespace, again and again, until it answers or
// the time is over. It returns the address that the server saw.
func AskSCTP(to netip.AddrPort, until time.Time) (string, error) {
	conn, err := net.DialIP(sctpNetwork(to.Addr()), nil, &net.IPAddr{IP: to.Addr().AsSlice()})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	port := uint16(32768 + sctpPort.Add(1)%28000)
	b := make([]byte, 2048)
	for {
		// An error of the packet before it shows here, or at the read.
		if _, err := conn.Write(sctpPacket(port, to.Port(), 0, sctpInit, "who am I?")); err != nil {
			return "", sctpError(err)
		}
		conn.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
		for {
			n, _, err := conn.ReadFromIP(b) // Read would leave IPv4's header in it
			if errors.Is(err, os.ErrDeadlineExceeded) {
				if time.Now().After(until) {
					return "", err
				}
				break
			} else if err != nil {
				return "", sctpError(err)
			}
			sport, dport, text, err := readSCTP(b[:n], sctpInitAck)
			if dport != port {
				continue // of another one on this address
			}
			if err == nil && sport != to.Port() {
				err = fmt.Errorf("answer from port %d", sport)
			}
			return text, err
		}
	}
}

// sctpError: that there is no SCTP at all (ICMP "protocol unreachable", "unrecognized next
// header") is as good as no port.
func sctpError(err error) error {
	if errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EPROTO) {
		return fmt.Errorf("%w: %v", unix.ECONNREFUSED, err)
	}
	return err
}
