package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// conn is a route netlink socket, opened at the first request in the network
// namespace of the calling thread. It checks strictly, so that the kernel
// filters dumps (NETLINK_GET_STRICT_CHK, Linux 4.20), and errors carry the
// kernel's text (NETLINK_EXT_ACK).
type conn struct {
	mu   sync.Mutex
	sock map[int]*nl.SocketHandle
}

func (c *conn) open() (map[int]*nl.SocketHandle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sock != nil {
		return c.sock, nil
	}
	s, err := nl.Subscribe(unix.NETLINK_ROUTE) // of no group: a plain socket
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	err = errors.Join(s.SetExtAck(true),
		unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1),
		s.SetReceiveTimeout(&nl.SocketTimeoutTv), s.SetSendTimeout(&nl.SocketTimeoutTv))
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("set up netlink socket: %w", err)
	}
	c.sock = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
	return c.sock, nil
}

// Close closes the socket; the next request opens another.
func (c *conn) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sock {
		s.Close()
	}
	c.sock = nil
}

// iter sends one message and calls f with the payload of each answer.
func (c *conn) iter(typ, flags int, f func(payload []byte), parts ...nl.NetlinkRequestData) error {
	sock, err := c.open()
	if err != nil {
		return err
	}
	req := nl.NewNetlinkRequest(typ, flags)
	req.Sockets = sock
	for _, p := range parts {
		req.AddData(p)
	}
	return req.ExecuteIter(unix.NETLINK_ROUTE, 0, func(b []byte) bool { f(b); return true })
}

// write sends one message and waits for the kernel's answer.
func (c *conn) write(typ, flags int, parts ...nl.NetlinkRequestData) error {
	return c.iter(typ, flags|unix.NLM_F_ACK, func([]byte) {}, parts...)
}

// maxDumps is how often a dump is tried again that a change has cut up
// (NLM_F_DUMP_INTR).
const maxDumps = 10

// dump is iter for a dump. Before each try begin is called: what f has gathered
// is void then.
func (c *conn) dump(typ int, begin func(), f func(payload []byte), parts ...nl.NetlinkRequestData) error {
	var err error
	for range maxDumps {
		begin()
		if err = c.iter(typ, unix.NLM_F_DUMP, f, parts...); !errors.Is(err, nl.ErrDumpInterrupted) {
			return err
		}
	}
	return err
}

// attr is a netlink attribute (struct rtattr) with its payload.
func attr(typ int, data []byte) *nl.RtAttr { return nl.NewRtAttr(typ, data) }

func attr32(typ int, v uint32) *nl.RtAttr { return attr(typ, binary.NativeEndian.AppendUint32(nil, v)) }

// attrs calls f for each attribute of b. Bits of the type above the flags for
// nesting and byte order are kept out.
func attrs(b []byte, f func(typ int, data []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			return
		}
		f(int(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)), b[unix.SizeofRtAttr:n])
		b = b[min((n+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(b)):]
	}
}

func get32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func getAddr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// getVia reads an RTA_VIA: the address' family, then the address.
func getVia(b []byte) netip.Addr {
	if len(b) < 2 {
		return netip.Addr{}
	}
	return getAddr(b[2:])
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// isErr says whether err is one of the kernel's answers.
func isErr(err error, errnos ...unix.Errno) bool {
	for _, e := range errnos {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
