package endpoint

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/api"
)

func TestBucketFromBits(t *testing.T) {
	for _, tt := range []struct {
		name        string
		rate, burst uint64
		want        bucket
	}{
		{"as asked", 8e6, 8 << 20, bucket{1e6, 1 << 20}},
		{"burst unspecified", 8e9, 0, bucket{1e9, 1e7}},
		{"small rate, burst unspecified", 8e3, 0, bucket{1e3, 32 << 10}},
		{"what containerd sends for no burst", 8e9, math.MaxUint32, bucket{1e9, 1e7}},
		{"below a byte", 1, 8, bucket{1, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := newBucket(tt.rate, tt.burst)
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if q := got.qdisc(7); q.Limit == 0 || q.Buffer == 0 || q.Rate != tt.want.rate {
				t.Errorf("got qdisc %+v", q)
			}
		})
	}
}

// flood sends UDP from one namespace to an address in another for as long as given,
// and answers how many bytes a second arrived.
func flood(t *testing.T, from, to string, addr netip.Addr, d time.Duration) float64 {
	t.Helper()
	var receiver *net.UDPConn
	within(t, to, func() (err error) {
		receiver, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		return err
	})
	defer receiver.Close()
	target := receiver.LocalAddr().(*net.UDPAddr).AddrPort()
	var fd int
	within(t, from, func() (err error) {
		if fd, err = unix.Socket(int(family(addr)), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(target.Port()), Addr: addr.As16()}
		if addr.Is4() {
			sa = &unix.SockaddrInet4{Port: int(target.Port()), Addr: addr.As4()}
		}
		return unix.Connect(fd, sa)
	})
	defer unix.Close(fd)
	end := time.Now().Add(d)
	if err := receiver.SetReadDeadline(end); err != nil {
		t.Fatal(err)
	}
	go func() {
		payload := make([]byte, 1200)
		for time.Now().Before(end) {
			_, _ = unix.Write(fd, payload)
		}
	}()
	buf, got := make([]byte, 2048), 0
	for {
		n, err := receiver.Read(buf)
		if err != nil {
			return float64(got) / d.Seconds()
		}
		got += n
	}
}

// floods floods for as long as given, and wants so many bits a second to arrive. A busy machine
// may have sent too few: then again. More than most must not arrive any time.
func floods(t *testing.T, what, from, to string, addr netip.Addr, d time.Duration, least, most float64) {
	t.Helper()
	got := 0.0
	for end := time.Now().Add(20 * time.Second); got < least && time.Now().Before(end); {
		if got = 8 * flood(t, from, to, addr, d); got > most {
			t.Errorf("%s to %s: %.1f Mb/s, want at most %.1f", what, addr, got/1e6, most/1e6)
			return
		}
	}
	if got < least {
		t.Errorf("%s to %s: %.1f Mb/s, want at least %.1f", what, addr, got/1e6, least/1e6)
	}
}

func TestBandwidthLimitsHoldInBothDirections(t *testing.T) {
	n := newNode(t)
	limitedPod, free := attach(t), attach(t)
	const rate = 16e6 // bits per second
	limitedPod.Bandwidth = &api.Bandwidth{IngressRate: rate, IngressBurst: 400e3, EgressRate: rate, EgressBurst: 400e3}
	a, b := n.mustAdd(limitedPod), n.mustAdd(free)
	for _, addr := range a {
		if row, _, _ := n.rows.Get(addr); row.Flags&bpf.EndpointStack == 0 {
			t.Errorf("row of %s does not say that the stack must deliver", addr)
		}
	}
	for _, addr := range b {
		if row, _, _ := n.rows.Get(addr); row.Flags != 0 {
			t.Errorf("row of %s has flags %d, want none", addr, row.Flags)
		}
	}
	for i := range a {
		for _, way := range []struct {
			name     string
			from, to string
			addr     netip.Addr
		}{
			{"into the pod from a pod", free.Netns, limitedPod.Netns, a[i]},
			{"into the pod from the node", "", limitedPod.Netns, a[i]},
			{"out of the pod to a pod", limitedPod.Netns, free.Netns, b[i]},
			{"out of the pod to the node", limitedPod.Netns, "", n.net.Gateways[i]},
		} {
			// Half a second of rate and the burst is the most that may arrive; headers
			// count for the kernel, not for us.
			floods(t, way.name, way.from, way.to, way.addr, 500*time.Millisecond, rate/4, 1.1*(rate+2*400e3))
		}
		floods(t, "into a pod without limit", "", free.Netns, b[i], 100*time.Millisecond, 3*rate, math.Inf(1))
	}
}

// A burst is what a pod may send at once, not how large its packets may be.
func TestBurstBelowAPacketLetsPacketsThrough(t *testing.T) {
	n := newNode(t)
	for _, burst := range []uint64{1, 8000} { // bits
		a := attach(t)
		a.Bandwidth = &api.Bandwidth{IngressRate: 16e6, IngressBurst: burst, EgressRate: 16e6, EgressBurst: burst}
		for i, addr := range n.mustAdd(a) {
			what := fmt.Sprintf("with a burst of %d", burst)
			floods(t, what, "", a.Netns, addr, 100*time.Millisecond, 1, math.Inf(1))
			floods(t, what, a.Netns, "", n.net.Gateways[i], 100*time.Millisecond, 1, math.Inf(1))
		}
	}
}

// Whatever the rate and the burst, the kernel takes the bucket, tells of the one that was set,
// or the pod would be repaired for ever, and takes the largest packet.
func TestBucketsAreAsTheyWereSet(t *testing.T) {
	newNode(t)
	run(t, "ip link add limited type ifb")
	i, err := net.InterfaceByName("limited")
	if err != nil {
		t.Fatal(err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	host, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer host.close()
	for _, rate := range []uint64{8e3, 16e3, 32e3, 1e6, 20e6, 1e8, 1e9, 2e9, 1e10, 4e10, 1e11, 4e11} {
		for _, burst := range []uint64{0, 8, 12000, 1e6, 9e6, 1<<31 - 1, 1 << 36} {
			for _, mtu := range []int{576, 1500, 9000} {
				want := newBucket(rate, burst).holding(mtu).qdisc(i.Index)
				if err := setBucket(h, want); err != nil {
					t.Errorf("rate %d, burst %d, MTU %d: %v", rate, burst, mtu, err)
					continue
				}
				have, err := host.buckets()
				if err != nil {
					t.Fatal(err)
				}
				got := have[i.Index]
				if !got.is(want) {
					t.Errorf("rate %d, burst %d, MTU %d: got %+v, want %+v", rate, burst, mtu, got, want)
				}
				if took := float64(uint64(got.buffer)<<6) * float64(got.rate) / 1e9; took < float64(mtu) {
					t.Errorf("rate %d, burst %d, MTU %d: packets up to %.0f bytes pass", rate, burst, mtu, took)
				}
			}
		}
	}
}
