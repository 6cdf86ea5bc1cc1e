package overlay

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nsThread is a thread in a network namespace of its own.
type nsThread struct {
	tid  string
	work chan func()
}

func newNSThread(t *testing.T) nsThread {
	t.Helper()
	n := nsThread{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		n.tid = strconv.Itoa(unix.Gettid())
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range n.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("make network namespace (this test needs root): %v", err)
	}
	t.Cleanup(func() { close(n.work) })
	n.do(func() { sh(t, "ip link set lo up") })
	return n
}

func (n nsThread) do(f func()) {
	done := make(chan struct{})
	n.work <- func() { defer close(done); f() }
	<-done
}

// badNIC joins two devices of the calling thread's namespace, and is what a
// device is that claims to complete checksums and does not: frames read by a
// packet socket carry the sum of the pseudo header only. Frames longer than limit
// are lost, if it is not 0.
func badNIC(t *testing.T, a, b string, limit *atomic.Int64) {
	t.Helper()
	open := func(name string) *os.File {
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifindex(t, name)}); err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), name)
	}
	x, y := open(a), open(b)
	var wg sync.WaitGroup
	t.Cleanup(func() {
		x.Close()
		y.Close()
		wg.Wait()
	})
	carry := func(from, to *os.File) {
		b := make([]byte, 1<<16)
		for {
			n, err := from.Read(b)
			if err != nil {
				return
			}
			if l := limit.Load(); l == 0 || int64(n) <= l {
				to.Write(b[:n])
			}
		}
	}
	wg.Go(func() { carry(x, y) })
	wg.Go(func() { carry(y, x) })
}

func TestProbeTellsWhatIsWrong(t *testing.T) {
	for _, tt := range []struct{ name, local, remote, bits string }{
		{"IPv4", "10.244.1.1", "10.244.2.1", "/16"},
		{"IPv6", "fd00:244:1::1", "fd00:244:2::1", "/32"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			newNetns(t)
			here, there := newNSThread(t), newNSThread(t)
			sh(t, "ip link add nica type veth peer name up0 netns "+here.tid+
				"\nip link add nicb type veth peer name up0 netns "+there.tid+
				"\nip link set nica up\nip link set nicb up")
			setup := func(addr string) func() {
				return func() { sh(t, "ip link set up0 up\nip addr add "+addr+tt.bits+" dev up0"+nodad(addr)) }
			}
			here.do(setup(tt.local))
			there.do(setup(tt.remote))
			var limit atomic.Int64
			badNIC(t, "nica", "nicb", &limit)

			target := ProbeTarget{Name: "b", Local: netip.MustParseAddr(tt.local), Remote: netip.MustParseAddr(tt.remote), MTU: 1500}
			check := func(name string, want ProbeResult) {
				t.Helper()
				var got ProbeResult
				var err error
				here.do(func() { got, err = Probe(t.Context(), target) })
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if got.Reachable != (got.RTT > 0) {
					t.Errorf("%s: round trip %v with reachable %v", name, got.RTT, got.Reachable)
				}
				if got.RTT = 0; got != want {
					t.Errorf("%s: got %+v, want %+v", name, got, want)
				}
			}
			check("nobody answers", ProbeResult{})

			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			serve := func() {
				wg.Go(func() {
					there.do(func() {
						if err := ServeProbe(ctx, []netip.Addr{target.Remote}); err != nil {
							t.Error(err)
						}
					})
				})
			}
			serve()
			deadline := time.Now().Add(20 * time.Second)
			for ok := false; !ok; {
				here.do(func() {
					r, err := Probe(t.Context(), target)
					ok = err == nil && r.Reachable
				})
				if time.Now().After(deadline) {
					t.Fatal("it never answers")
				}
			}
			check("offload that damages", ProbeResult{Reachable: true, BadOffload: true})

			file := filepath.Join(t.TempDir(), "offload.json")
			here.do(func() {
				if err := NewOffload(file).Set("up0", false); err != nil {
					t.Fatal(err)
				}
			})
			check("offload off", ProbeResult{Reachable: true})
			limit.Store(1400)
			check("a link on the way takes less", ProbeResult{Reachable: true, MTUProblem: true})
			target.MTU = 1400 - 14
			check("mtu as it is", ProbeResult{Reachable: true})
			limit.Store(1)
			check("nothing passes", ProbeResult{})
			limit.Store(0)
			here.do(func() {
				if err := NewOffload(file).Restore(); err != nil {
					t.Error(err)
				}
			})
			check("offload on again", ProbeResult{Reachable: true, BadOffload: true})
			target.MTU = 1501
			check("more than the device takes", ProbeResult{Reachable: true, BadOffload: true, MTUProblem: true})
			cancel()
			wg.Wait()
		})
	}
}

func nodad(addr string) string {
	if netip.MustParseAddr(addr).Is6() {
		return " nodad"
	}
	return ""
}

// A busy node answers each question only when the next has long been sent.
func TestProbeTakesLateAnswers(t *testing.T) {
	newNSThread(t).do(func() {
		at := netip.MustParseAddr("127.0.0.1")
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, ProbePort)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		const late = 600 * time.Millisecond // longer than any question waits for its own answer
		go func() {
			for {
				b := make([]byte, 2048)
				n, from, err := conn.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				b[4] = probeAnswer
				time.AfterFunc(late, func() { _, _ = conn.WriteToUDPAddrPort(b[:min(n, probeHeader)], from) })
			}
		}()
		for _, silent := range []bool{false, true} {
			got, err := Probe(t.Context(), ProbeTarget{Local: at, Remote: at, MTU: 1400, Silent: silent})
			if err != nil || got.RTT < late {
				t.Errorf("silent before: %v: got error %v, round trip %v; want none, and at least %v", silent, err, got.RTT, late)
			}
			if got.RTT = 0; got != (ProbeResult{Reachable: true}) {
				t.Errorf("silent before: %v: got %+v, want it to be reachable, and no more", silent, got)
			}
		}
	})
}

func TestProbeWithoutRouteIsNotReachable(t *testing.T) {
	newNetns(t)
	for _, a := range [][2]string{{"10.244.1.1", "10.244.2.1"}, {"fd00:244:1::1", "fd00:244:2::1"}} {
		r, err := Probe(t.Context(), ProbeTarget{Name: "b", Local: netip.MustParseAddr(a[0]), Remote: netip.MustParseAddr(a[1]), MTU: 1450})
		if err != nil || r != (ProbeResult{}) {
			t.Errorf("%s: got %+v, %v; want not reachable", a[1], r, err)
		}
	}
	if _, err := Probe(t.Context(), ProbeTarget{Local: netip.MustParseAddr("10.244.1.1"), Remote: netip.MustParseAddr("fd00::1"), MTU: 1450}); err == nil {
		t.Error("two families: no error")
	}
}
