package endpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is one rtnetlink request under construction: nlmsghdr, the family's
// fixed header, attributes (include/uapi/linux/netlink.h, rtnetlink.h).
//
// A library makes one system call for a request and one or more for its answer.
// An attachment needs some twenty requests; here they go in two batches.
type message struct{ b []byte }

var native = binary.NativeEndian

func newMessage(typ, flags uint16, header []byte) *message {
	b := make([]byte, unix.SizeofNlMsghdr, 256)
	native.PutUint16(b[4:], typ)
	native.PutUint16(b[6:], flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	return &message{append(b, header...)}
}

// attr appends one attribute, padded to four bytes.
func (m *message) attr(typ uint16, data []byte) *message {
	m.b = native.AppendUint16(m.b, uint16(unix.SizeofRtAttr+len(data)))
	m.b = native.AppendUint16(m.b, typ)
	m.b = append(m.b, data...)
	for len(m.b)%unix.NLMSG_ALIGNTO != 0 {
		m.b = append(m.b, 0)
	}
	return m
}

func (m *message) u8(typ uint16, v uint8) *message { return m.attr(typ, []byte{v}) }

func (m *message) u32(typ uint16, v uint32) *message {
	return m.attr(typ, native.AppendUint32(nil, v))
}

// str appends a terminated string.
func (m *message) str(typ uint16, s string) *message { return m.attr(typ, append([]byte(s), 0)) }

// nest appends an attribute made of what fill appends.
func (m *message) nest(typ uint16, fill func()) *message {
	start := len(m.b)
	m.b = native.AppendUint16(m.b, 0)
	m.b = native.AppendUint16(m.b, typ)
	fill()
	native.PutUint16(m.b[start:], uint16(len(m.b)-start))
	return m
}

func ifInfo(index int, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	native.PutUint32(b[4:], uint32(index))
	native.PutUint32(b[8:], flags)
	native.PutUint32(b[12:], change)
	return b
}

// part is one message of an answer, without its nlmsghdr.
type part struct {
	typ  uint16
	data []byte
}

// reply is what the kernel answered to one request of a batch.
type reply struct {
	parts []part
	err   error // nil, or a unix.Errno with the kernel's explanation
}

// conn is a rtnetlink socket in the network namespace where it was opened. It may
// be used from any thread, by one goroutine at a time.
type conn struct {
	fd  int
	seq uint32
	buf *[]byte // of buffers; nil before the first answer
}

// sentMessages and sentBatches count what an attachment costs; tests read them.
var sentMessages, sentBatches atomic.Uint64

// dial opens a socket in the calling thread's network namespace.
func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	// The first two make answers short and errors speak; old kernels lack them.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set strict netlink checks: %w", err)
	}
	timeout := unix.Timeval{Sec: 10}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set netlink timeout: %w", err)
	}
	return &conn{fd: fd}, nil
}

func (c *conn) close() {
	unix.Close(c.fd)
	if c.buf != nil {
		buffers.Put(c.buf)
		c.buf = nil
	}
}

// exec sends all messages in one datagram and returns one reply for each, in
// order. The kernel works through all of them, also past one that fails, before
// the call returns: a process killed meanwhile leaves no batch half done. At most
// one message may ask for a dump, and then it must be the only one.
func (c *conn) exec(msgs ...*message) ([]reply, error) {
	if len(msgs) == 0 {
		return nil, nil
	}
	replies := make([]reply, len(msgs))
	return replies, c.ask(msgs, replies, func(i int, p part) {
		replies[i].parts = append(replies[i].parts, part{p.typ, bytes.Clone(p.data)})
	})
}

// ask is exec that hands each part of the answer to message i over to got, which must
// not keep it. Of the replies it sets the errors.
func (c *conn) ask(msgs []*message, replies []reply, got func(i int, p part)) error {
	var out []byte
	first := c.seq + 1
	for _, m := range msgs {
		c.seq++
		native.PutUint32(m.b[0:], uint32(len(m.b)))
		native.PutUint32(m.b[8:], c.seq)
		if len(msgs) == 1 {
			out = m.b
		} else {
			out = append(out, m.b...)
		}
	}
	sentMessages.Add(uint64(len(msgs)))
	sentBatches.Add(1)
	if err := unix.Sendto(c.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to netlink: %w", err)
	}
	for left := len(msgs); left > 0; {
		n, err := c.receive()
		if err != nil {
			return err
		}
		for b := (*c.buf)[:n]; len(b) >= unix.SizeofNlMsghdr; {
			size := int(native.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return errors.New("read from netlink: malformed answer")
			}
			typ, flags, seq := native.Uint16(b[4:]), native.Uint16(b[6:]), native.Uint32(b[8:])
			body := b[unix.SizeofNlMsghdr:size]
			b = b[min(align(size), len(b)):]
			i := seq - first
			if i >= uint32(len(msgs)) {
				continue // left over from a batch that timed out
			}
			switch typ {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				if err := ackError(body, flags); err != nil {
					replies[i].err = err
				}
				left--
			case unix.NLMSG_NOOP, unix.NLMSG_OVERRUN:
			default:
				if flags&unix.NLM_F_DUMP_INTR != 0 {
					replies[i].err = errInterrupted
				}
				got(int(i), part{typ, body})
			}
		}
	}
	return nil
}

// buffers are for answers: as long as what the kernel fills at most in a dump
// (NLMSG_GOODSIZE). Sockets come and go, one or two for each look at a pod.
var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// receive reads one datagram, whole, into c.buf.
func (c *conn) receive() (int, error) {
	if c.buf == nil {
		c.buf = buffers.Get().(*[]byte)
	}
	for {
		n, _, _, _, err := unix.Recvmsg(c.fd, *c.buf, nil, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read from netlink: %w", err)
		}
		return n, nil
	}
}

// dump runs one dump request and returns the answer.
func (c *conn) dump(typ uint16, header []byte, attrs func(*message)) ([]part, error) {
	var parts []part
	err := c.each(typ, header, attrs, func() { parts = nil }, func(p part) {
		parts = append(parts, part{p.typ, bytes.Clone(p.data)})
	})
	return parts, err
}

// each runs one dump request and calls got with each part of the answer, which it must
// not keep. When the kernel says that the table changed meanwhile it is repeated, a few
// times; begin is called before each, to forget what was got.
func (c *conn) each(typ uint16, header []byte, attrs func(*message), begin func(), got func(part)) error {
	for range 4 {
		begin()
		m := newMessage(typ, unix.NLM_F_DUMP, header)
		if attrs != nil {
			attrs(m)
		}
		var r [1]reply
		if err := c.ask([]*message{m}, r[:], func(_ int, p part) { got(p) }); err != nil {
			return err
		}
		if !errors.Is(r[0].err, errInterrupted) {
			return r[0].err
		}
	}
	return errInterrupted
}

var errInterrupted = errors.New("netlink dump interrupted by changes")

// ackError reads an NLMSG_ERROR or NLMSG_DONE: 0, or a negative errno, and after
// the header of the request (left out of the request's copy by NETLINK_CAP_ACK)
// the kernel's text.
func ackError(b []byte, flags uint16) error {
	if len(b) < 4 {
		return nil
	}
	code := int32(native.Uint32(b))
	if code == 0 {
		if flags&unix.NLM_F_DUMP_INTR != 0 {
			return errInterrupted
		}
		return nil
	}
	errno := unix.Errno(-code)
	if flags&unix.NLM_F_ACK_TLVS != 0 && len(b) >= 4+unix.SizeofNlMsghdr {
		if text := cString(attrOf(b[4+unix.SizeofNlMsghdr:], unix.NLMSGERR_ATTR_MSG)); text != "" {
			return fmt.Errorf("%w (%s)", errno, text)
		}
	}
	return errno
}

// attrs splits a sequence of attributes. Flags in the type are taken off.
func attrs(b []byte) map[uint16][]byte { return maps.Collect(eachAttr(b)) }

// eachAttr is attrs one by one.
func eachAttr(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for b := b; len(b) >= unix.SizeofRtAttr; {
			size := int(native.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) {
				return
			}
			if !yield(native.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:size]) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

// attrOf is one attribute; nil if it is not there.
func attrOf(b []byte, typ uint16) []byte {
	for t, data := range eachAttr(b) {
		if t == typ {
			return data
		}
	}
	return nil
}

func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

func cString(b []byte) string { return string(terminated(b)) }

// terminated is what comes before the first zero.
func terminated(b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return native.Uint32(b)
}

// netnsCookie names the network namespace of a socket. It is never used again
// until the next boot (SO_NETNS_COOKIE, Linux 5.14).
func netnsCookie(fd int) (uint64, error) {
	var v uint64
	size := uint32(unsafe.Sizeof(v))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE,
		uintptr(unsafe.Pointer(&v)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("ask for namespace cookie: %w", errno)
	}
	return v, nil
}
