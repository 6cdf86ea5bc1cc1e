package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"golang.org/x/sys/unix"
)

// Connection is a connected socket of some network namespace.
type Connection struct {
	Protocol      Protocol // TCP or UDP
	Local, Remote netip.AddrPort
	// Opened says that this end began: no other socket of the namespace waits for peers
	// on its port.
	Opened bool
}

// Connections returns the TCP connections and connected UDP sockets of the network
// namespace at a path, also those that are being opened; of one that is gone, none. They
// are as sockets know them, so an address of a Service is that where it was not translated
// at the socket. (The kernel does not tell of SCTP associations in this way.)
func Connections(netns string) ([]Connection, error) {
	var out []Connection
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends, wherever it is
		var cookie uint64
		if cookie, err = enterNetns(netns); err == nil && cookie != 0 {
			out, err = connections()
		}
	}()
	<-done
	if err != nil {
		return nil, fmt.Errorf("list connections in %s: %w", netns, err)
	}
	return out, nil
}

// States of sockets, as bits (include/net/tcp_states.h): connected or about to be, beside
// diagStates SYN_RECV and NEW_SYN_RECV; and those that wait for peers, LISTEN of TCP, CLOSE
// of UDP.
const (
	openStates = diagStates | 1<<3 | 1<<12
	waitStates = 1<<10 | 1<<7
)

// connections is those of the thread's namespace.
func connections() ([]Connection, error) {
	d, err := openDiag()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	type port struct {
		protocol Protocol
		number   uint16
	}
	waiting := map[port]bool{}
	var out []Connection
	for _, p := range []Protocol{TCP, UDP} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			request := diagRequest{Family: family, Proto: uint8(p), States: openStates | waitStates}
			err := d.request(sockDiagByFamily, unix.NLM_F_DUMP, request, nil, func(b []byte) error {
				var m diagMessage
				if _, err := binary.Decode(b, binary.NativeEndian, &m); err != nil {
					return fmt.Errorf("read answer: %w", err)
				}
				local := m.ID.own(m.Family)
				if 1<<m.State&waitStates != 0 {
					waiting[port{p, local.Port()}] = true
				} else {
					out = append(out, Connection{Protocol: p, Local: local, Remote: m.ID.peer(m.Family)})
				}
				return nil
			})
			if err != nil && !errors.Is(err, unix.ENOENT) { // a kernel without that protocol's sockets
				return nil, err
			}
		}
	}
	for i := range out {
		out[i].Opened = !waiting[port{out[i].Protocol, out[i].Local.Port()}]
	}
	return out, nil
}

// own is the local end of a socket.
func (id diagID) own(family uint8) netip.AddrPort {
	return diagID{Dst: id.Src, DPort: id.SPort}.peer(family)
}
