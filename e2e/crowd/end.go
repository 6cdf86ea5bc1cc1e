package crowd

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

func serve(all []netip.AddrPort) error {
	for _, at := range all {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		if err := u.SetReadBuffer(4 << 20); err != nil {
			return err
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					b := make([]byte, 64) // io.Copy would take 32 KiB for each
					for {
						n, err := conn.Read(b)
						if err != nil {
							return
						}
						if _, err := conn.Write(b[:n]); err != nil {
							return
						}
					}
				}()
			}
		}()
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := u.ReadFromUDPAddrPort(b)
				if errors.Is(err, net.ErrClosed) {
					return
				} else if err == nil {
					u.WriteToUDPAddrPort(b[:n], from)
				}
			}
		}()
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin) // until the parent closes it
	return err
}

// holder is the state of an end that holds.
type holder struct {
	pace Pace
	stop chan struct{}
	said sync.WaitGroup // who may still say something

	turns          []*atomic.Int64 // by connection
	sent, answered atomic.Int64

	mu       sync.Mutex
	failures int64
	errors   []string
}

func hold(ways []Way, pace Pace) error {
	h := &holder{pace: pace, stop: make(chan struct{})}
	for _, w := range ways {
		for range w.TCP {
			conn, err := net.DialTimeout("tcp", w.To.String(), pace.Patience)
			if err != nil {
				return fmt.Errorf("after %d connections: %w", len(h.turns), err)
			}
			turns := new(atomic.Int64)
			h.turns = append(h.turns, turns)
			h.said.Go(func() { h.talk(conn, turns) })
		}
		for range w.UDP {
			conn, err := net.Dial("udp", w.To.String())
			if err != nil {
				return err
			}
			h.said.Go(func() { h.stream(conn) })
		}
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "finish" {
			close(h.stop)
			h.said.Wait()
		}
		if err := json.NewEncoder(os.Stdout).Encode(h.report()); err != nil {
			return err
		}
	}
	return nil
}

func (h *holder) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures++
	if len(h.errors) < 5 {
		h.errors = append(h.errors, err.Error())
	}
}

// talk asks until it is told to stop; the first question comes at any moment of the pace,
// so that the connections do not all speak at once.
func (h *holder) talk(conn net.Conn, turns *atomic.Int64) {
	defer conn.Close()
	next := time.NewTimer(rand.N(h.pace.TCP))
	defer next.Stop()
	b := make([]byte, 1)
	for {
		select {
		case <-h.stop:
			return
		case <-next.C:
		}
		conn.SetDeadline(time.Now().Add(h.pace.Patience))
		_, err := conn.Write(b)
		if err == nil {
			_, err = io.ReadFull(conn, b)
		}
		if err != nil {
			h.fail(fmt.Errorf("after %d turns: %w", turns.Load(), err))
			return
		}
		turns.Add(1)
		next.Reset(h.pace.TCP)
	}
}

// stream sends numbered datagrams; a late answer is not a lost one, and one that comes
// twice counts once.
func (h *holder) stream(conn net.Conn) {
	defer conn.Close()
	var mu sync.Mutex
	open := map[uint64]bool{} // not answered
	go func() {
		b := make([]byte, 64)
		for {
			n, err := conn.Read(b)
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err != nil {
				h.fail(err)
				continue
			}
			mu.Lock()
			if number := binary.BigEndian.Uint64(b); n == 8 && open[number] {
				delete(open, number)
				h.answered.Add(1)
			}
			mu.Unlock()
		}
	}()
	tick := time.NewTicker(h.pace.UDP)
	defer tick.Stop()
	var b [8]byte
	for number := uint64(0); ; number++ {
		select {
		case <-h.stop:
			for until := time.Now().Add(h.pace.Patience); time.Now().Before(until); {
				mu.Lock()
				left := len(open)
				mu.Unlock()
				if left == 0 {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			return
		case <-tick.C:
		}
		binary.BigEndian.PutUint64(b[:], number)
		mu.Lock()
		open[number] = true
		mu.Unlock()
		if _, err := conn.Write(b[:]); err != nil {
			h.fail(err)
		}
		h.sent.Add(1)
	}
}

func (h *holder) report() Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := Report{Open: len(h.turns), Sent: h.sent.Load(), Answered: h.answered.Load(), Failures: h.failures, Errors: h.errors}
	for i, t := range h.turns {
		n := t.Load()
		r.Turns += n
		if i == 0 || n < r.Least {
			r.Least = n
		}
	}
	return r
}
