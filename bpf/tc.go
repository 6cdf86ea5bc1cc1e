package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// tc is a rtnetlink socket for queueing disciplines and filters, in the network
// namespace of the thread that opened it. netlink's own calls make one question a
// system call, and a socket; here all of a batch are asked at once, which is what
// looking at the filters of hundreds of devices wants.
type tc struct {
	fd  int
	buf *[]byte
}

// buffers hold what the kernel fills at most in a dump (NLMSG_GOODSIZE).
var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// answer is what the kernel said to one request of a batch.
type answer struct {
	parts [][]byte // without their nlmsghdr
	err   error    // nil or a unix.Errno
}

// maxBatch is how many requests go in one datagram: their answers must fit in the
// socket's receive buffer, as the kernel works through all of them before we read.
const maxBatch = 32

// errInterrupted: the table changed while it was dumped.
var errInterrupted = errors.New("netlink dump interrupted by changes")

var native = binary.NativeEndian

func openTC() (*tc, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1) // makes errors short
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set netlink timeout: %w", err)
	}
	return &tc{fd: fd, buf: buffers.Get().(*[]byte)}, nil
}

func (c *tc) close() {
	unix.Close(c.fd)
	buffers.Put(c.buf)
}

// request is a message about the queueing discipline or filter at a place of a device.
func request(typ, flags int, m nl.TcMsg, attrs ...*nl.RtAttr) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(typ, flags|unix.NLM_F_ACK)
	r.AddData(&m)
	for _, a := range attrs {
		r.AddData(a)
	}
	return r
}

// exec sends all requests, in batches, and returns one answer for each, in order. The
// kernel has worked through a batch, also past a request that fails, when the call
// that sends it returns. A request for a dump must be alone.
func (c *tc) exec(reqs ...*nl.NetlinkRequest) ([]answer, error) {
	answers := make([]answer, 0, len(reqs))
	for len(reqs) > 0 {
		n := min(len(reqs), maxBatch)
		some, err := c.batch(reqs[:n])
		if err != nil {
			return nil, err
		}
		answers, reqs = append(answers, some...), reqs[n:]
	}
	return answers, nil
}

func (c *tc) batch(reqs []*nl.NetlinkRequest) ([]answer, error) {
	var out []byte
	place := map[uint32]int{}
	for i, r := range reqs {
		place[r.Seq] = i
		out = append(out, r.Serialize()...)
	}
	if err := unix.Sendto(c.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("send to netlink: %w", err)
	}
	answers := make([]answer, len(reqs))
	for left := len(reqs); left > 0; {
		n, _, err := unix.Recvfrom(c.fd, *c.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("read from netlink: %w", err)
		}
		for b := (*c.buf)[:n]; len(b) >= unix.SizeofNlMsghdr; {
			size := int(native.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return nil, errors.New("read from netlink: malformed answer")
			}
			typ, flags, body := native.Uint16(b[4:]), native.Uint16(b[6:]), b[unix.SizeofNlMsghdr:size]
			i, ours := place[native.Uint32(b[8:])]
			b = b[min((size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
			switch {
			case !ours || typ == unix.NLMSG_NOOP:
			case typ == unix.NLMSG_ERROR || typ == unix.NLMSG_DONE:
				left--
				if len(body) >= 4 {
					if code := int32(native.Uint32(body)); code != 0 {
						answers[i].err = unix.Errno(-code)
					}
				}
			default:
				answers[i].parts = append(answers[i].parts, append([]byte(nil), body...))
			}
			if ours && flags&unix.NLM_F_DUMP_INTR != 0 {
				answers[i].err = errInterrupted
			}
		}
	}
	return answers, nil
}

// dump asks for all of a kind at a place. It is repeated, a few times, when the table
// changed meanwhile.
func (c *tc) dump(typ int, m nl.TcMsg) ([][]byte, error) {
	for range 4 {
		answers, err := c.exec(request(typ, unix.NLM_F_DUMP, m))
		if err != nil {
			return nil, err
		}
		if err := answers[0].err; !errors.Is(err, errInterrupted) {
			return answers[0].parts, err
		}
	}
	return nil, errInterrupted
}

// hooked lists the devices that have a qdisc for filters: clsact, or ingress.
func (c *tc) hooked() ([]int, error) {
	parts, err := c.dump(unix.RTM_GETQDISC, nl.TcMsg{})
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	var all []int
	for _, p := range parts {
		if len(p) < nl.SizeofTcMsg {
			continue
		}
		if m := nl.DeserializeTcMsg(p); m.Parent == netlink.HANDLE_CLSACT {
			all = append(all, int(m.Ifindex))
		}
	}
	return all, nil
}

// attributes splits a sequence of attributes. Flags in the type are taken off.
func attributes(b []byte) map[uint16][]byte {
	m := map[uint16][]byte{}
	for len(b) >= unix.SizeofRtAttr {
		size := int(native.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			break
		}
		m[native.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)] = b[unix.SizeofRtAttr:size]
		b = b[min((size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
	}
	return m
}
