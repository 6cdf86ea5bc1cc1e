package echo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// interval is the time between two datagrams, and between two blocks of the
	// long connection.
	interval = 10 * time.Millisecond
	// freshEvery is how often a new connection is made.
	freshEvery = 100 * time.Millisecond
	// patience is how long a connection waits for an answer.
	patience = 15 * time.Second
	// drain is how long what is still on its way at the end has to arrive.
	drain = 3 * time.Second
	// datagram is the size of one: its number, and padding.
	datagram = 18
)

// Target is a server, and what it is to people.
type Target struct {
	Name string `json:"name"`
	Addr string `json:"addr"` // host:port
}

// Result is what was sent to a target, and what became of it.
type Result struct {
	Target
	Sent    uint64        `json:"sent"` // datagrams
	Lost    uint64        `json:"lost"`
	First   time.Duration `json:"first"`   // when the first lost one was sent, after the start
	Last    time.Duration `json:"last"`    // the same of the last
	Bytes   uint64        `json:"bytes"`   // that came back on the one long connection
	Fresh   uint64        `json:"fresh"`   // connections that were made, used once and closed
	Slowest time.Duration `json:"slowest"` // of them
	Errors  []string      `json:"errors"`  // resets, connections refused, time-outs
}

// stream is what goes to one target: numbered datagrams, one long connection, and one
// short one after the other.
type stream struct {
	start time.Time
	udp   net.Conn
	long  net.Conn
	stop  chan struct{}
	work  sync.WaitGroup
	heard sync.WaitGroup

	mu     sync.Mutex
	result Result
	sentAt []time.Duration // by number
	got    map[uint64]bool
}

// start connects to all targets, which must be there, and begins.
func start(targets []Target) ([]*stream, error) {
	var streams []*stream
	for _, t := range targets {
		s := &stream{start: time.Now(), stop: make(chan struct{}), result: Result{Target: t}, got: map[uint64]bool{}}
		var err error
		dialer := net.Dialer{Timeout: patience}
		if s.long, err = dialer.Dial("tcp", t.Addr); err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
		dialer.Control = bigBuffer
		if s.udp, err = dialer.Dial("udp", t.Addr); err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
		streams = append(streams, s)
	}
	for _, s := range streams {
		s.heard.Go(s.hear)
		s.every(interval, s.send)
		s.every(interval, s.push)
		s.every(freshEvery, s.connect)
	}
	return streams, nil
}

// every calls f, each time with the number of the call, until it fails or the end.
func (s *stream) every(d time.Duration, f func(n uint64) error) {
	s.work.Go(func() {
		tick := time.NewTicker(d)
		defer tick.Stop()
		for n := uint64(0); ; n++ {
			select {
			case <-s.stop:
				return
			case <-tick.C:
			}
			if err := f(n); err != nil {
				s.fail(err)
				return
			}
		}
	})
}

func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.result.Errors = append(s.result.Errors, fmt.Sprintf("after %s: %v", time.Since(s.start).Round(time.Millisecond), err))
}

// send sends one datagram. That the last one was refused (ICMP) shows as a loss of it.
func (s *stream) send(n uint64) error {
	var b [datagram]byte
	binary.BigEndian.PutUint64(b[:], n)
	s.mu.Lock()
	s.sentAt = append(s.sentAt, time.Since(s.start))
	s.mu.Unlock()
	_, _ = s.udp.Write(b[:])
	return nil
}

func (s *stream) hear() {
	var b [2 * datagram]byte
	for {
		n, err := s.udp.Read(b[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != datagram {
			continue // an ICMP error is not the socket's end
		}
		s.mu.Lock()
		s.got[binary.BigEndian.Uint64(b[:])] = true
		s.mu.Unlock()
	}
}

// push sends a block on the long connection, and waits for it to come back.
func (s *stream) push(uint64) error {
	n, err := bounce(s.long, 1024)
	s.mu.Lock()
	s.result.Bytes += uint64(n)
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("connection: %w", err)
	}
	return nil
}

// connect makes a connection, uses and closes it.
func (s *stream) connect(uint64) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.result.Addr)
	if err == nil {
		_, err = bounce(conn, 16)
		err = errors.Join(err, conn.Close())
	}
	s.mu.Lock()
	s.result.Fresh++
	s.result.Slowest = max(s.result.Slowest, time.Since(began))
	s.mu.Unlock()
	if err != nil {
		s.fail(fmt.Errorf("new connection: %w", err))
	}
	return nil // the next may be well
}

// bounce sends bytes and waits until they are back.
func bounce(conn net.Conn, size int) (int, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	b := make([]byte, size)
	if _, err := conn.Write(b); err != nil {
		return 0, err
	}
	return io.ReadFull(conn, b)
}

// stop ends the streams, and says what they went through.
func stop(streams []*stream) []Result {
	for _, s := range streams {
		close(s.stop)
	}
	deadline := time.Now().Add(drain)
	var results []Result
	for _, s := range streams {
		s.work.Wait()
		for s.missing() > 0 && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
		}
		s.udp.Close()
		s.long.Close()
		s.heard.Wait()
		results = append(results, s.count())
	}
	return results
}

func (s *stream) missing() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sentAt) - len(s.got)
}

func (s *stream) count() Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.result
	r.Sent = uint64(len(s.sentAt))
	for n, at := range s.sentAt {
		if s.got[uint64(n)] {
			continue
		}
		if r.Lost++; r.Lost == 1 {
			r.First = at
		}
		r.Last = at
	}
	return r
}
