package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// The part of include/uapi/linux/inet_diag.h that golang.org/x/sys/unix lacks.
const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	sockDestroy      = 21 // SOCK_DESTROY
	diagBytecode     = 1  // INET_DIAG_REQ_BYTECODE
	diagJump         = 1  // INET_DIAG_BC_JMP
	diagRemote       = 8  // INET_DIAG_BC_D_COND
	// ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING
	// (include/net/tcp_states.h); a connected UDP socket is the first.
	diagStates = 1<<1 | 1<<2 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11
)

// diagFilterPlaces is how many remote places one dump asks for: each is tried on each
// socket of the namespace.
const diagFilterPlaces = 64

// diag is a sock_diag(7) socket in the namespace where it was opened.
type diag struct{ fd int }

func openDiag() (diag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return diag{}, fmt.Errorf("open sock_diag: %w", err)
	}
	return diag{fd}, nil
}

func (d diag) Close() error { return unix.Close(d.fd) }

// find returns the sockets that still are connected to their backends.
func (d diag) find(g socketGroup, sockets deadSockets) ([]diagID, error) {
	var places []netip.AddrPort
	seen := map[netip.AddrPort]bool{}
	for _, p := range sockets {
		if !seen[p] {
			seen[p] = true
			places = append(places, p)
		}
	}
	var found []diagID
	for some := range slices.Chunk(places, diagFilterPlaces) {
		filter := remoteFilter(some)
		request := diagRequest{Family: g.family, Proto: uint8(g.proto), States: diagStates}
		attribute := binary.NativeEndian.AppendUint16(nil, uint16(4+len(filter)))
		attribute = append(binary.NativeEndian.AppendUint16(attribute, diagBytecode), filter...)
		err := d.request(sockDiagByFamily, unix.NLM_F_DUMP, request, attribute, func(b []byte) error {
			var m diagMessage
			if _, err := binary.Decode(b, binary.NativeEndian, &m); err != nil {
				return fmt.Errorf("read answer: %w", err)
			}
			if p, ok := sockets[m.ID.cookie()]; ok && p == m.ID.peer(m.Family) {
				found = append(found, m.ID)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// destroy ends one socket. The kernel compares the cookie too.
func (d diag) destroy(g socketGroup, s diagID) error {
	request := diagRequest{Family: g.family, Proto: uint8(g.proto), States: diagStates, ID: s}
	return d.request(sockDestroy, unix.NLM_F_ACK, request, nil, func([]byte) error { return nil })
}

// remoteFilter is byte code that accepts sockets whose remote end is one of places. Of
// each place there is a condition and a jump to the end, that is to acceptance; where a
// condition is false it goes on behind the jump, after the last one past the end. The
// kernel checks such code along the way of truth, where a jump goes on to what follows.
func remoteFilter(places []netip.AddrPort) []byte {
	const jump = 4
	lengths := make([]int, len(places)) // of the conditions
	rest := 0
	for i, p := range places {
		lengths[i] = 4 + 8 + p.Addr().BitLen()/8
		rest += lengths[i] + jump
	}
	var b []byte
	op := func(code, yes uint8, no int) {
		b = append(b, code, yes)
		b = binary.NativeEndian.AppendUint16(b, uint16(no))
	}
	for i, p := range places {
		op(diagRemote, uint8(lengths[i]), lengths[i]+jump)
		family := byte(unix.AF_INET)
		if p.Addr().Is6() {
			family = unix.AF_INET6
		}
		b = append(b, family, byte(p.Addr().BitLen()), 0, 0) // struct inet_diag_hostcond
		b = binary.NativeEndian.AppendUint32(b, uint32(p.Port()))
		b = append(b, p.Addr().AsSlice()...)
		rest -= lengths[i]
		op(diagJump, jump, rest)
		rest -= jump
	}
	// Past the end: refused.
	last := len(b) - jump - lengths[len(places)-1]
	binary.NativeEndian.PutUint16(b[last+2:], uint16(lengths[len(places)-1]+jump+4))
	return b
}

// request sends one request and gives every answer's payload to each.
func (d diag) request(kind, flags uint16, r diagRequest, attribute []byte, each func([]byte) error) error {
	var m bytes.Buffer
	body, err := binary.Append(nil, binary.NativeEndian, r)
	if err != nil {
		return err
	}
	body = append(body, attribute...)
	header := unix.NlMsghdr{
		Len: uint32(unix.NLMSG_HDRLEN + len(body)), Type: kind, Flags: unix.NLM_F_REQUEST | flags, Seq: 1,
	}
	if err := binary.Write(&m, binary.NativeEndian, header); err != nil {
		return err
	}
	m.Write(body)
	if err := unix.Sendto(d.fd, m.Bytes(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	buffer := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(d.fd, buffer, 0)
		if err == unix.EINTR {
			continue
		} else if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		done, err := answers(buffer[:n], each)
		if done || err != nil {
			return err
		}
	}
}

// answers reads the messages of one datagram; done says that there are no more.
func answers(b []byte, each func([]byte) error) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(b))
		kind := binary.NativeEndian.Uint16(b[4:])
		if length < unix.NLMSG_HDRLEN || length > len(b) {
			return true, fmt.Errorf("answer of %d bytes in %d", length, len(b))
		}
		body := b[unix.NLMSG_HDRLEN:length]
		switch kind {
		case unix.NLMSG_ERROR, unix.NLMSG_DONE:
			if len(body) >= 4 {
				if errno := int32(binary.NativeEndian.Uint32(body)); errno < 0 {
					return true, unix.Errno(-errno)
				}
			}
			return true, nil
		}
		if err := each(body); err != nil {
			return true, err
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	return false, nil
}
