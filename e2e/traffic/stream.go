package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/testnet"
)

// Stream is numbered UDP datagrams and one TCP connection from one namespace to
// another, running until Stop. Neither must notice what happens to the daemons.
type Stream struct {
	Name string

	stop    chan struct{}
	unsent  chan struct{} // closed when no datagram will be sent any more
	wg      sync.WaitGroup
	closers []io.Closer

	mu       sync.Mutex
	sent     uint64 // datagrams
	got      map[uint64]bool
	err      error
	tcpBytes atomic.Uint64
}

// interval is the time between two datagrams.
const interval = time.Millisecond

// Start starts a stream to an address of the namespace `to`.
func Start(name string, from, to *testnet.NS, addr netip.Addr) (*Stream, error) {
	s := &Stream{Name: name, stop: make(chan struct{}), unsent: make(chan struct{}), got: map[uint64]bool{}}
	var udp *net.UDPConn
	var tcp *net.TCPListener
	err := to.Do(func() (err error) {
		if udp, err = net.ListenUDP("udp", &net.UDPAddr{IP: addr.AsSlice()}); err != nil {
			return err
		}
		if err = bigBuffer(udp); err != nil {
			return err
		}
		tcp, err = net.ListenTCP("tcp", &net.TCPAddr{IP: addr.AsSlice()})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	s.closers = append(s.closers, udp, tcp)
	src, err := Dial(from, "udp", udp.LocalAddr().(*net.UDPAddr).AddrPort(), time.Second)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.closers = append(s.closers, src)
	s.wg.Go(func() { s.receive(udp) })
	s.wg.Go(func() { s.accept(tcp) })
	conn, err := Dial(from, "tcp", tcp.Addr().(*net.TCPAddr).AddrPort(), 5*time.Second)
	if err != nil {
		close(s.stop)
		return nil, errors.Join(err, s.close())
	}
	s.closers = append(s.closers, conn)
	s.wg.Go(func() { s.send(src) })
	s.wg.Go(func() { s.push(conn) })
	return s, nil
}

// bigBuffer keeps a late reader from counting as a lost packet.
func bigBuffer(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	})
	return errors.Join(err, serr)
}

func (s *Stream) fail(err error) {
	select {
	case <-s.stop: // what ends now was ended by us
		return
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(s.err, err)
}

func (s *Stream) send(conn net.Conn) {
	defer close(s.unsent)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var b [18]byte
	for n := uint64(0); ; n++ {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		binary.BigEndian.PutUint64(b[:], n)
		if _, err := conn.Write(b[:]); err != nil {
			s.fail(fmt.Errorf("send datagram %d: %w", n, err))
			continue
		}
		s.mu.Lock()
		s.sent = n + 1
		s.mu.Unlock()
	}
}

func (s *Stream) receive(conn *net.UDPConn) {
	var b [64]byte
	for {
		n, err := conn.Read(b[:])
		if err != nil {
			s.fail(fmt.Errorf("receive: %w", err))
			return
		}
		if n == 18 {
			s.mu.Lock()
			s.got[binary.BigEndian.Uint64(b[:])] = true
			s.mu.Unlock()
		}
	}
}

// push writes a little every few milliseconds, so that a reset shows at once.
func (s *Stream) push(conn net.Conn) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	block := make([]byte, 4096)
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		if err := conn.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
			s.fail(err)
			return
		}
		if _, err := conn.Write(block); err != nil {
			s.fail(fmt.Errorf("TCP: %w", err))
			return
		}
	}
}

func (s *Stream) accept(l *net.TCPListener) {
	conn, err := l.Accept()
	if err != nil {
		s.fail(fmt.Errorf("accept: %w", err))
		return
	}
	defer conn.Close()
	block := make([]byte, 64<<10)
	for {
		n, err := conn.Read(block)
		s.tcpBytes.Add(uint64(n))
		if err != nil {
			s.fail(fmt.Errorf("TCP: %w", err))
			return
		}
	}
}

func (s *Stream) close() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	s.wg.Wait()
	return errors.Join(errs...)
}

// Arrived is how many datagrams and TCP bytes have arrived so far.
func (s *Stream) Arrived() (datagrams int, bytes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got), s.tcpBytes.Load()
}

// Result is what a stream went through.
type Result struct {
	Sent, Lost uint64
	FirstLost  time.Duration // when the first lost datagram was sent, after the start
	TCPBytes   uint64
	Err        error // a reset, a timeout
}

func (r Result) String() string {
	return fmt.Sprintf("%d datagrams sent, %d lost, %d TCP bytes", r.Sent, r.Lost, r.TCPBytes)
}

// Stop ends the stream; what is still on its way has a second to arrive.
func (s *Stream) Stop() Result {
	close(s.stop)
	<-s.unsent
	arrived := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return uint64(len(s.got)) >= s.sent
	}
	for deadline := time.Now().Add(time.Second); !arrived() && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	closed := s.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	r := Result{Sent: s.sent, TCPBytes: s.tcpBytes.Load(), Err: errors.Join(s.err, closed)}
	for n := range s.sent {
		if !s.got[n] {
			if r.Lost == 0 {
				r.FirstLost = time.Duration(n) * interval
			}
			r.Lost++
		}
	}
	return r
}
