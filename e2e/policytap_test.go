package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/testnet"
)

// tap counts the TCP and UDP packets that come into a namespace, on whatever device, by
// their source and the port that they are for.
type tap struct {
	fd   int
	stop chan struct{}
	done chan struct{}

	mu   sync.Mutex
	from map[netip.AddrPort]int
}

// newTap begins; the devices may come later.
func newTap(t *testing.T, ns *testnet.NS) *tap {
	t.Helper()
	p := &tap{stop: make(chan struct{}), done: make(chan struct{}), from: map[netip.AddrPort]int{}}
	const all = unix.ETH_P_ALL
	err := ns.Do(func() (err error) {
		if p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all>>8|all&0xff<<8); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(p.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
			unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	go p.read()
	t.Cleanup(p.close)
	return p
}

func (p *tap) read() {
	defer close(p.done)
	b := make([]byte, 64)
	for {
		n, _, err := unix.Recvfrom(p.fd, b, 0)
		if err == nil {
			if from, ok := sourceOf(b[:n]); ok {
				p.mu.Lock()
				p.from[from]++
				p.mu.Unlock()
			}
			continue
		}
		select {
		case <-p.stop: // all that came has been read
			return
		default:
		}
	}
}

// sourceOf is the address that a TCP or UDP packet comes from, and the port that it is for.
func sourceOf(b []byte) (netip.AddrPort, bool) {
	var protocol byte
	var from netip.Addr
	head := 0
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		protocol, from, head = b[9], netip.AddrFrom4([4]byte(b[12:16])), 4*int(b[0]&0xf)
	case len(b) >= 40 && b[0]>>4 == 6:
		protocol, from, head = b[6], netip.AddrFrom16([16]byte(b[8:24])), 40
	}
	if protocol != unix.IPPROTO_TCP && protocol != unix.IPPROTO_UDP || len(b) < head+4 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(from, binary.BigEndian.Uint16(b[head+2:])), true
}

// seen is how many packets came from an address; the zero one: from any. With a port
// only those for it count.
func (p *tap) seen(from netip.Addr, port uint16) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at, c := range p.from {
		if (!from.IsValid() || at.Addr() == from) && (port == 0 || at.Port() == port) {
			n += c
		}
	}
	return n
}

// String is what came, for people.
func (p *tap) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for at, n := range p.from {
		fmt.Fprintf(&b, "%d of %s for port %d, ", n, at.Addr(), at.Port())
	}
	return strings.TrimSuffix(b.String(), ", ")
}

// close ends it. It can be repeated.
func (p *tap) close() {
	select {
	case <-p.stop:
		return
	default:
	}
	close(p.stop)
	<-p.done
	unix.Close(p.fd)
}

// spray sends SYNs and UDP datagrams to all its targets, from a namespace whose devices may
// come later, until it is stopped. The targets can be changed meanwhile.
type spray struct {
	targets atomic.Pointer[[]netip.AddrPort]
	sent    atomic.Int64 // that a device took
	cancel  context.CancelFunc
	done    chan error
}

func newSpray(t *testing.T, ns *testnet.NS, pause time.Duration, to ...netip.AddrPort) *spray {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &spray{cancel: cancel, done: make(chan error, 1)}
	s.targets.Store(&to)
	go func() { s.done <- ns.Do(func() error { return s.run(ctx, pause) }) }()
	t.Cleanup(func() { s.stop(t) })
	return s
}

func (s *spray) run(ctx context.Context, pause time.Duration) error {
	udp := map[bool]int{}
	for v4, family := range map[bool]int{true: unix.AF_INET, false: unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		udp[v4] = fd
	}
	for ctx.Err() == nil {
		for _, to := range *s.targets.Load() {
			var at unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
			family := unix.AF_INET6
			if to.Addr().Is4() {
				at, family = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}, unix.AF_INET
			}
			if err := unix.Sendto(udp[to.Addr().Is4()], []byte("spray"), 0, at); err == nil {
				s.sent.Add(1)
			}
			fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			if err := unix.Connect(fd, at); err == unix.EINPROGRESS {
				s.sent.Add(1)
			}
			unix.Close(fd)
		}
		time.Sleep(pause)
	}
	return nil
}

// stop ends it. It can be repeated.
func (s *spray) stop(t *testing.T) {
	s.cancel()
	if err, ok := <-s.done; ok {
		close(s.done)
		if err != nil {
			t.Error(err)
		}
	}
}
