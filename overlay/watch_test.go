package overlay

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// await reads events until all bits of want were there.
func await(t *testing.T, ch <-chan Event, want Event) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	got := Event(0)
	for got&want != want {
		select {
		case e := <-ch:
			got |= e
		case <-deadline:
			t.Fatalf("got %s, want %s", got, want)
		}
	}
}

// fence makes changes of its own, so that everything before them was judged, and
// returns the events up to then without those of the fence. Each change is heard of before
// the next is made: no event of the fence comes after it.
func fence(t *testing.T, ch <-chan Event) Event {
	t.Helper()
	deadline := time.After(20 * time.Second)
	got := Event(0)
	for _, change := range []string{"add", "del"} {
		sh(t, "ip rule "+change+" pref 4242 table 4242")
		for e := Event(0); !e.Has(EventPaths); got |= e {
			select {
			case e = <-ch:
			case <-deadline:
				t.Fatalf("got %s, and not the event of the fence", got)
			}
		}
	}
	return got &^ (EventPaths | EventRoutes)
}

func startWatch(t *testing.T) <-chan Event {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ch, err := Watch(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		for range ch { // ends when all goroutines have
		}
	})
	return ch
}

func TestWatchReportsWhatConcernsUs(t *testing.T) {
	newNetns(t)
	sh(t, `ip link add up0 type veth peer name up1
		ip link set up0 up
		ip link set up1 up
		ip addr add 192.0.2.1/24 dev up0
		ip addr add 2001:db8::1/64 dev up0 nodad
		ip link add weft-vxlan type vxlan external dstport 8872
		ip link set weft-vxlan up
		ip link add weft0123456789a type veth peer name pod0
		ip link set weft0123456789a up
		iptables-nft -t nat -N WEFT-POSTROUTING
		iptables-legacy -t nat -N WEFT-POSTROUTING`)
	ch := startWatch(t)
	tests := []struct {
		name, cmds string
		want       Event
	}{
		{"our address added", "ip addr add 10.244.1.1/32 dev weft-vxlan", EventAddrs},
		{"local route of our address", "ip route del local 10.244.1.1 dev weft-vxlan table local", EventAddrs},
		{"our route", "ip route add 10.244.2.0/24 dev weft-vxlan proto 87", EventRoutes},
		{"our route deleted", "ip route del 10.244.2.0/24", EventRoutes},
		{"our IPv6 route", "ip route add fd00:244:2::/64 dev weft-vxlan proto 87", EventRoutes},
		{"our route replaced by another's", "ip route replace fd00:244:2::/64 dev up0 proto static", EventRoutes},
		{"our neighbour", "ip neigh add 10.244.1.5 lladdr 02:00:00:00:00:05 dev weft0123456789a", EventNeighs},
		{"our neighbour needs no asking", "ip neigh replace 10.244.1.5 lladdr 02:00:00:00:00:06 dev weft0123456789a nud noarp", EventNeighs},
		{"our neighbour deleted", "ip neigh del 10.244.1.5 dev weft0123456789a", EventNeighs},
		{"our address deleted", "ip addr del 10.244.1.1/32 dev weft-vxlan", EventAddrs | EventRoutes},
		{"our device's MAC", "ip link set weft-vxlan address 02:00:00:00:00:09", EventLinks},
		{"our device down", "ip link set weft-vxlan down", EventLinks | EventRoutes | EventNeighs | EventAddrs},
		{"our veth deleted", "ip link del weft0123456789a", EventLinks | EventRoutes | EventNeighs},
		{"uplink's MTU", "ip link set up0 mtu 1400", EventLinks | EventPaths},
		{"node address", "ip addr add 192.0.2.7/24 dev up0", EventAddrs | EventPaths},
		{"node address deleted", "ip addr del 2001:db8::1/64 dev up0", EventAddrs | EventPaths},
		{"default route", "ip route add default via 192.0.2.254", EventPaths},
		{"rule", "ip rule add pref 99 table 99", EventPaths},
		{"forwarding", "sysctl -qw net.ipv4.ip_forward=1", EventSysctls},
		{"nft rule in our chain", "iptables-nft -t nat -A WEFT-POSTROUTING -j RETURN", EventChains},
		{"nft rule before our jump", "iptables-nft -t nat -I POSTROUTING -j ACCEPT", EventChains},
		{"IPv6 nft chain", "ip6tables-nft -N WEFT-FORWARD", EventChains},
		{"kubelet's mark", "iptables-nft -t mangle -N KUBE-IPTABLES-HINT", EventChains},
		{"nft flushed", "nft flush ruleset", EventChains},
		{"legacy rule in our chain", "iptables-legacy -t nat -A WEFT-POSTROUTING -j RETURN", EventChains},
		{"legacy rules swapped", "iptables-legacy -t nat -R WEFT-POSTROUTING 1 -j ACCEPT", EventChains},
		{"legacy table new", "ip6tables-legacy -A FORWARD -j ACCEPT", EventChains},
		{"uplink gone", "ip link del up0", EventLinks | EventPaths | EventRoutes},
	}
	for _, tt := range tests {
		sh(t, tt.cmds)
		t.Run(tt.name, func(t *testing.T) { await(t, ch, tt.want) })
		fence(t, ch)
	}
}

func TestWatchLeavesOutWhatDoesNotConcernUs(t *testing.T) {
	newNetns(t)
	sh(t, `ip link add up0 type veth peer name up1
		ip link set up0 up
		ip link set up1 up
		ip addr add 192.0.2.1/24 dev up0
		ip link add weft-vxlan type vxlan external dstport 8872
		ip link set weft-vxlan arp off up
		ip addr add 10.244.1.1/32 dev weft-vxlan
		ip route add 10.244.2.0/24 dev weft-vxlan
		iptables-nft -N KUBE-SERVICES
		iptables-nft -t nat -N WEFT-POSTROUTING`)
	ch := startWatch(t)
	fence(t, ch)
	for _, cmds := range []string{
		"ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev up0",
		"ip neigh del 192.0.2.9 dev up0",
		"ip addr change 192.0.2.1/24 dev up0",
		"ip link set up0 mtu 1500",
		"iptables-nft -A KUBE-SERVICES -j ACCEPT",
		"iptables-nft -F KUBE-SERVICES",
		"nft add table inet other\nnft add chain inet other c",
		"ip link add foreign0 type bridge",
	} {
		fence(t, ch)
		sh(t, cmds)
		// The first report of an address may come, repetitions may not.
		if e := fence(t, ch) &^ EventAddrs; e != 0 {
			t.Errorf("%s: got %s", cmds, e)
		}
	}
	conn, err := net.Dial("udp", "10.244.2.9:9")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	if s := sh(t, "ip neigh show nud noarp dev weft-vxlan"); !strings.Contains(s, "10.244.2.9") {
		t.Errorf("the kernel has made no neighbour: %q", s)
	}
	if e := fence(t, ch); e != 0 {
		t.Errorf("neighbour of the kernel's: got %s", e)
	}
	// Looking at our own chains writes nothing, or looking would never end.
	if _, err := NewChains().Dump(); err != nil {
		t.Fatal(err)
	}
	if e := fence(t, ch); e != 0 {
		t.Errorf("dump of the chains: got %s", e)
	}
}

func TestWatchSurvivesLoss(t *testing.T) {
	newNetns(t)
	f, err := subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 50 { // more than the buffer takes, before anybody reads
		sh(t, "ip route add 10.9.0.0/16 dev lo\nip route del 10.9.0.0/16 dev lo")
	}
	ctx, cancel := context.WithCancel(context.Background())
	box := &mailbox{ch: make(chan Event, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		readLoop(ctx, f, newRouteWatch(), box, slog.New(slog.DiscardHandler))
	}()
	await(t, box.ch, EventAll)
	// It goes on.
	sh(t, "ip route add 10.9.0.0/16 dev lo proto 87")
	await(t, box.ch, EventRoutes)
	cancel()
	f.Close()
	<-done
}

// Who relies on being told of changes must look for itself when nobody tells any more.
func TestEndOfAWatchMakesEverythingLookedAt(t *testing.T) {
	f, err := os.Open(t.TempDir()) // a folder cannot be read
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	box := &mailbox{ch: make(chan Event, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { readLoop(ctx, f, nftWatch{}, box, slog.New(slog.DiscardHandler)) })
	await(t, box.ch, EventAll)
	cancel()
	wg.Wait()

	ctx, cancel = context.WithCancel(t.Context())
	wg.Go(func() { unwatched(ctx, box, time.Millisecond) })
	for range 3 { // again and again
		await(t, box.ch, EventAll)
	}
	cancel()
	wg.Wait()
}

func TestMailboxMergesWhatIsNotRead(t *testing.T) {
	box := &mailbox{ch: make(chan Event, 1)}
	box.raise(EventLinks)
	box.raise(0)
	box.raise(EventChains)
	if got, want := <-box.ch, EventLinks|EventChains; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Messages come from the kernel, but a wrong length must not end the daemon.
func FuzzJudge(f *testing.F) {
	for _, typ := range []uint16{unix.RTM_NEWLINK, unix.RTM_NEWADDR, unix.RTM_NEWROUTE, unix.RTM_NEWNEIGH, unix.RTM_NEWNETCONF, unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE} {
		b := binary.NativeEndian.AppendUint32(nil, 40)
		b = binary.NativeEndian.AppendUint16(b, typ)
		f.Add(append(b, make([]byte, 34)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		judge(newRouteWatch(), b)
		judge(nftWatch{}, b)
		blankCounters(append([]byte(nil), b...), false)
		blankCounters(append([]byte(nil), b...), true)
	})
}

// The kernel notes a path's MTU without a netlink message.
func TestWatchHearsThatPacketsAreTooBig(t *testing.T) {
	newNetns(t)
	ch := startWatch(t)
	send := func(v6 bool, typ, code byte) {
		t.Helper()
		family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
		var to unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
		if v6 {
			family, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6 // the kernel fills in the checksum
			to = &unix.SockaddrInet6{Addr: [16]byte{15: 1}}
		}
		fd, err := unix.Socket(family, unix.SOCK_RAW, protocol)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		b := make([]byte, 8+48) // and the quoted packet, of which nothing is looked at
		b[0], b[1], b[6], b[7], b[8] = typ, code, 1300>>8, 1300&255, 0x45
		if !v6 {
			sum := checksum(b)
			b[2], b[3] = byte(sum>>8), byte(sum)
		}
		if err := unix.Sendto(fd, b, 0, to); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, "ip link set lo up")
	fence(t, ch)
	send(false, icmpUnreachable, icmpFragNeeded)
	await(t, ch, EventPaths)
	send(true, icmpv6TooBig, 0)
	await(t, ch, EventPaths)
	send(false, icmpUnreachable, 3) // port unreachable
	send(true, 1, 4)
	select {
	case e := <-ch:
		t.Errorf("got %s for ICMP errors that say nothing of the size", e)
	case <-time.After(300 * time.Millisecond): // nothing can be waited for
	}
}
