package overlay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// MaxProbes is how many peers the daemon probes in one round (of 8 s).
const MaxProbes = 6

// ProbeTarget is one node to probe over the overlay.
type ProbeTarget struct {
	Name   string
	Local  netip.Addr // our gateway address
	Remote netip.Addr // the peer's gateway address, of the same family
	MTU    int        // biggest inner IP packet: Peer.MTU
	// Silent: it did not answer last time. A peer that comes back answers the first question,
	// which is waited for as long as for all; to ask more often, wherever many are silent, is
	// most of what probes cost.
	Silent bool
}

// ProbeResult is what a probe found out about the way to a peer.
type ProbeResult struct {
	Reachable bool // small datagrams without a checksum are answered
	// BadOffload: those whose checksum our device has to complete are not. The
	// remedy is [Offload] on the uplink and on weft-vxlan.
	BadOffload bool
	MTUProblem bool          // those of the size MTU are not
	RTT        time.Duration // the shortest seen; 0 if not reachable
}

// Probe asks one peer's [ServeProbe]. It takes less than five seconds if anything is
// wrong, and milliseconds if not. An error means that the probe could not be made, not
// that the peer did not answer.
//
// Three kinds of datagram go out: small without a UDP checksum, small with one (which a
// device with checksum offload completes after encapsulation), and big without one. The
// answers carry none, so that each node judges its own device only. The small ones go out
// together: to wait for a peer that is silent, a few of which may be probed all the time,
// is to wake up for each try. A kind counts as lost when, twice in turn, none of it came
// through and the first kind did before and after: a busy node answers late, and late
// answers count.
func Probe(ctx context.Context, t ProbeTarget) (ProbeResult, error) {
	plain, err := newProber(ctx, t, false)
	if err != nil {
		return ProbeResult{}, fmt.Errorf("probe %s: %w", t.Name, err)
	}
	defer plain.Close()
	summed, err := newProber(ctx, t, true)
	if err != nil {
		return ProbeResult{}, fmt.Errorf("probe %s: %w", t.Name, err)
	}
	defer summed.Close()

	var r, withSum ProbeResult
	var beside sync.WaitGroup
	tries, wait := probeTries, firstWait
	if t.Silent {
		tries, wait = 1, firstWait*probeTries*(probeTries+1)/2
	}
	beside.Go(func() { withSum.RTT, withSum.Reachable = summed.ask(ctx, probeHeader, wait, tries) })
	r.RTT, r.Reachable = plain.ask(ctx, probeHeader, wait, tries)
	if beside.Wait(); !r.Reachable {
		// Nothing, or only what has a checksum, comes through: some
		// middleboxes drop UDP without one.
		return withSum, ctx.Err()
	}
	if withSum.Reachable {
		r.RTT = min(r.RTT, withSum.RTT)
	}
	// answers says whether the first kind still comes through; if not, nobody can say what
	// became of the others.
	answers := func() bool {
		_, ok := plain.ask(ctx, probeHeader, probeWait, probeTries)
		return ok
	}
	loses := func(p *prober, size, turns int) bool {
		for range turns {
			if _, ok := p.ask(ctx, size, probeWait, probeTries); ok || !answers() {
				return false
			}
		}
		return true
	}
	r.BadOffload = !withSum.Reachable && answers() && loses(summed, probeHeader, probeTurns-1)
	r.MTUProblem = loses(plain, payload(t), probeTurns)
	return r, ctx.Err()
}

// payload is the UDP payload of an IP packet of t.MTU bytes.
func payload(t ProbeTarget) int {
	const udp = 8
	if t.Remote.Is4() {
		return t.MTU - 20 - udp
	}
	return t.MTU - 40 - udp
}

// A probe datagram is the magic, a byte that tells question and answer, padding
// and a random number that ties the answer to the question. Answers are of this
// size, so never longer than what was asked.
const (
	probeMagic    = "weft"
	probeQuestion = 1
	probeAnswer   = 2
	probeHeader   = 16

	probeTurns = 2
	probeTries = 3
	probeWait  = 150 * time.Millisecond // after the first try; longer with each
	firstWait  = 2 * probeWait          // of the first question: a peer that just starts is not silent
)

// prober asks one peer one kind of question.
type prober struct{ conn *net.UDPConn }

func newProber(ctx context.Context, t ProbeTarget, checksum bool) (*prober, error) {
	if t.Local.Is4() != t.Remote.Is4() || payload(t) < probeHeader {
		return nil, fmt.Errorf("from %s to %s with mtu %d: cannot be", t.Local, t.Remote, t.MTU)
	}
	d := net.Dialer{
		LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(t.Local, 0)),
		Control:   probeSocket(t.Local.Is4(), checksum),
	}
	conn, err := d.DialContext(ctx, "udp", netip.AddrPortFrom(t.Remote, ProbePort).String())
	if isErr(err, unix.ENETUNREACH, unix.EHOSTUNREACH) {
		return &prober{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &prober{conn.(*net.UDPConn)}, nil
}

func (p *prober) Close() {
	if p.conn != nil {
		p.conn.Close()
	}
}

// ask sends a datagram with a payload of size bytes until one of them is answered, at most so many
// times. It waits so long after the first, and longer with each try.
func (p *prober) ask(ctx context.Context, size int, wait time.Duration, tries int) (time.Duration, bool) {
	b := make([]byte, size)
	copy(b, probeMagic)
	b[4] = probeQuestion
	answer := make([]byte, 2*probeHeader)
	asked := map[[probeHeader - 8]byte]time.Time{}
	for try := 1; try <= tries && p.conn != nil && ctx.Err() == nil; try++ {
		rand.Read(b[8:probeHeader])
		sent := time.Now()
		asked[[probeHeader - 8]byte(b[8:])] = sent
		if _, err := p.conn.Write(b); errors.Is(err, unix.EMSGSIZE) {
			return 0, false
		}
		deadline := sent.Add(time.Duration(try) * wait)
		if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
			deadline = d
		}
		p.conn.SetReadDeadline(deadline)
		for {
			n, err := p.conn.Read(answer)
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
				break
			}
			if err != nil { // an ICMP error about one of our datagrams
				if time.Now().After(deadline) {
					break
				}
				continue
			}
			if n != probeHeader || string(answer[:4]) != probeMagic || answer[4] != probeAnswer {
				continue
			}
			if at, ok := asked[[probeHeader - 8]byte(answer[8:])]; ok {
				return time.Since(at), true
			}
		}
	}
	return 0, false
}
