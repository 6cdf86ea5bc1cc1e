package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// Mode is how an [Asker] asks.
type Mode string

// The modes.
const (
	TCP    Mode = "tcp"
	Bound  Mode = "bound"  // TCP, from the address that is asked: the node's own
	UDP    Mode = "udp"    // on a connected socket
	SendTo Mode = "sendto" // UDP on a socket that is not connected
	Once   Mode = "once"   // UDP on a connected socket, one datagram
	SCTP   Mode = "sctp"   // packets made by hand
	// Fragments is Once with so much that it leaves in three fragments, of which all devices'
	// MTUs between 1,400 and 1,500 make as many.
	Fragments Mode = "fragments"
	Name      Mode = "name" // TCP; the answer, a word, is the Failure
	Hold      Mode = "hold" // TCP; sends nothing, and the Failure is how the connection ends
	// Follow asks every millisecond, on a UDP socket that is not connected, until
	// [Asker.Stop] or the time is over. The Failure is who has answered, each as
	// name@when (Unix time in ms), when it first did after another's or a silence.
	Follow Mode = "follow"
)

// Answer is what came of a question.
type Answer struct {
	Seen    netip.Addr // the source that the server saw; invalid: see Failure
	Failure string     // "refused", "unreachable", "dropped" (no answer), or another error
}

func (a Answer) String() string {
	if a.Seen.IsValid() {
		return a.Seen.String()
	}
	return a.Failure
}

// Asker is a process in a namespace that asks servers of package traffic.
type Asker struct {
	cmd *exec.Cmd
	in  io.WriteCloser

	mu      sync.Mutex
	next    int
	waiting map[int]chan Answer
	ended   bool
}

const (
	envAsker = "WEFT_ASKER"
	stopWord = "stop"
)

// Main turns the process into an asker if it was started as one. It returns otherwise.
// A program that uses askers calls it first.
func Main() {
	if os.Getenv(envAsker) == "" {
		return
	}
	var out sync.Mutex
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		f := strings.Fields(in.Text())
		if f[0] == stopWord {
			close(stopped)
			continue
		}
		go func() {
			answer := askOnce(f[1], f[2], f[3])
			out.Lock()
			defer out.Unlock()
			fmt.Println(f[0], answer)
		}()
	}
	os.Exit(0)
}

// Asker starts an asker in a namespace. If joined, its sockets are the node's; if not,
// only its packets reach Services.
func (n *Node) Asker(ns *testnet.NS, joined bool) (*Asker, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a := &Asker{cmd: exec.Command(exe), waiting: map[int]chan Answer{}}
	a.cmd.Env = append(os.Environ(), envAsker+"=1")
	a.cmd.Stderr = os.Stderr
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if joined {
		done, err := n.Join(a.cmd)
		if err != nil {
			return nil, err
		}
		defer done()
	}
	if err := ns.Start(a.cmd); err != nil {
		return nil, fmt.Errorf("start asker: %w", err)
	}
	go a.listen(out)
	return a, nil
}

func (a *Asker) listen(out io.Reader) {
	for in := bufio.NewScanner(out); in.Scan(); {
		var id int
		var text string
		if _, err := fmt.Sscan(in.Text(), &id, &text); err != nil {
			continue
		}
		answer := Answer{Failure: text}
		if seen, err := netip.ParseAddr(text); err == nil {
			answer = Answer{Seen: seen}
		} else {
			_, answer.Failure, _ = strings.Cut(in.Text(), " ")
		}
		a.mu.Lock()
		a.waiting[id] <- answer
		delete(a.waiting, id)
		a.mu.Unlock()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	for _, c := range a.waiting {
		c <- Answer{Failure: "the asker has ended"}
	}
}

// Ask asks a server and waits for the answer at most so long. It can be called from
// several goroutines.
func (a *Asker) Ask(mode Mode, to netip.AddrPort, timeout time.Duration) Answer {
	c := make(chan Answer, 1)
	a.mu.Lock()
	if a.ended {
		a.mu.Unlock()
		return Answer{Failure: "the asker has ended"}
	}
	a.next++
	a.waiting[a.next] = c
	_, err := fmt.Fprintln(a.in, a.next, mode, to, timeout)
	a.mu.Unlock()
	if err != nil {
		return Answer{Failure: err.Error()}
	}
	return <-c
}

// Stop ends what the asker follows. It is called once.
func (a *Asker) Stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	fmt.Fprintln(a.in, stopWord)
}

// Close ends the asker.
func (a *Asker) Close() {
	a.in.Close()
	a.cmd.Wait()
}

func askOnce(mode, to, timeout string) Answer {
	at, err := netip.ParseAddrPort(to)
	if err != nil {
		return failure(err)
	}
	d, err := time.ParseDuration(timeout)
	if err != nil {
		return failure(err)
	}
	text, err := question(Mode(mode), at, time.Now().Add(d))
	if err != nil {
		return failure(err)
	}
	if mode == string(Name) || mode == string(Follow) {
		return Answer{Failure: strings.TrimSpace(text)}
	}
	seen, err := netip.ParseAddr(strings.TrimSpace(text))
	if err != nil {
		return failure(err)
	}
	return Answer{Seen: seen}
}

func question(mode Mode, to netip.AddrPort, until time.Time) (string, error) {
	var conn net.Conn
	var err error
	b := make([]byte, 64)
	switch mode {
	case TCP, Name, Hold:
		if conn, err = net.DialTimeout("tcp", to.String(), time.Until(until)); err != nil {
			return "", err
		}
	case Bound:
		own := net.TCPAddrFromAddrPort(netip.AddrPortFrom(to.Addr(), 0))
		if conn, err = (&net.Dialer{Deadline: until, LocalAddr: own}).Dial("tcp", to.String()); err != nil {
			return "", err
		}
	case UDP:
		if conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to)); err != nil {
			return "", err
		}
		defer conn.Close()
		return insist(conn, until)
	case Once, Fragments:
		if conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to)); err != nil {
			return "", err
		}
		if _, err := conn.Write(make([]byte, sizeOf(mode))); err != nil {
			conn.Close()
			return "", err
		}
	case SCTP:
		return traffic.AskSCTP(to, until)
	case Follow:
		return follow(to, until)
	case SendTo:
		udp, err := net.ListenUDP("udp", nil)
		if err != nil {
			return "", err
		}
		defer udp.Close()
		udp.SetReadDeadline(until)
		if _, err := udp.WriteToUDPAddrPort([]byte("?"), to); err != nil {
			return "", err
		}
		n, from, err := udp.ReadFromUDPAddrPort(b)
		if err == nil && (from.Addr().Unmap() != to.Addr() || from.Port() != to.Port()) {
			err = fmt.Errorf("answer from %s", from)
		}
		return string(b[:n]), err
	}
	defer conn.Close()
	conn.SetReadDeadline(until)
	n, err := conn.Read(b)
	for mode == Hold && err == nil {
		_, err = conn.Read(b)
	}
	return string(b[:n]), err
}

// sizeOf is how big a question is.
func sizeOf(mode Mode) int {
	if mode == Fragments {
		return 4000
	}
	return 1
}

// stopped is closed by [Asker.Stop].
var stopped = make(chan struct{})

// silence is how long nobody has answered before an answer is told again.
const silence = 200 * time.Millisecond

func follow(to netip.AddrPort, until time.Time) (string, error) {
	udp, err := net.ListenUDP("udp", nil)
	if err != nil {
		return "", err
	}
	defer udp.Close()
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := udp.WriteToUDPAddrPort([]byte("?"), to); errors.Is(err, net.ErrClosed) {
				return
			} // it may be refused for a while
			<-tick.C
		}
	}()
	var said []string
	var last string
	var at time.Time
	b := make([]byte, 64)
	for {
		select {
		case <-stopped:
			return strings.Join(said, " "), nil
		default:
		}
		if time.Now().After(until) {
			return strings.Join(said, " "), nil
		}
		udp.SetReadDeadline(time.Now().Add(silence / 2))
		n, _, err := udp.ReadFromUDPAddrPort(b)
		if err != nil {
			continue
		}
		if name := string(b[:n]); name != last || time.Since(at) > silence {
			last = name
			said = append(said, fmt.Sprintf("%s@%d", name, time.Now().UnixMilli()))
		}
		at = time.Now()
	}
}

// insist asks again and again: datagrams may be lost, and the kernel says only so often
// that nobody listens (icmp_ratelimit).
func insist(conn net.Conn, until time.Time) (string, error) {
	b := make([]byte, 64)
	for {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", err
		}
		conn.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
		n, err := conn.Read(b)
		var slow net.Error
		if !errors.As(err, &slow) || !slow.Timeout() || time.Now().After(until) {
			return string(b[:n]), err
		}
	}
}

func failure(err error) Answer {
	var slow net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Answer{Failure: "refused"}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return Answer{Failure: "unreachable"}
	case errors.As(err, &slow) && slow.Timeout():
		return Answer{Failure: "dropped"}
	}
	return Answer{Failure: strings.ReplaceAll(err.Error(), "\n", " ")}
}
