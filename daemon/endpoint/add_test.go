package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/ipam"
)

func wantCode(t *testing.T, err error, code uint) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got error %v, want one of code %d", err, code)
	}
}

func TestAddConnectsThePodWithItsNode(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	addrs := n.mustAdd(a)
	if len(addrs) != 2 {
		t.Fatalf("got addresses %v, want one of each family", addrs)
	}
	for i, gw := range n.net.Gateways {
		if err := connect(t, a.Netns, "", gw); err != nil {
			t.Errorf("from the pod to %s: %v", gw, err)
		}
		if err := connect(t, "", a.Netns, addrs[i]); err != nil {
			t.Errorf("from the node to %s: %v", addrs[i], err)
		}
	}
	if err := n.Check(context.Background(), a); err != nil {
		t.Errorf("check right after add: %v", err)
	}
	if !n.seen[a.ContainerID] {
		t.Error("Changed was not told of the pod")
	}
	name := hostName(ipam.Owner{ContainerID: a.ContainerID, IfName: "eth0"})
	if out := run(t, "ip -6 addr show dev "+name); strings.Contains(out, "fe80") {
		t.Errorf("host device has a link-local address:\n%s", out)
	}
}

func TestAddAnswersAllThatItMade(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	a.MAC = "02:00:00:00:00:07"
	a.DNS = []byte(`{"nameservers":["10.96.0.10"]}`)
	a.PrevResult = []byte(`{"cniVersion":"1.1.0","interfaces":[{"name":"lo","sandbox":"` + a.Netns + `"}],"ips":[{"address":"127.0.0.1/8","interface":0}]}`)
	r, err := n.Add(context.Background(), a)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Interfaces) != 3 || r.Interfaces[2].Mac != a.MAC || r.Interfaces[2].Mtu != 1450 || r.Interfaces[2].Sandbox != a.Netns || r.Interfaces[1].Sandbox != "" {
		t.Errorf("got interfaces %v", r.Interfaces)
	}
	if len(r.IPs) != 3 || *r.IPs[1].Interface != 2 || r.IPs[1].Gateway.String() != gateway4 || *r.IPs[0].Interface != 0 {
		t.Errorf("got ips %v", r.IPs)
	}
	if len(r.Routes) != 4 || r.Routes[1].MTU != 1450 || len(r.DNS.Nameservers) != 1 {
		t.Errorf("got routes %v and dns %v", r.Routes, r.DNS)
	}
	if out := in(t, a.Netns, "ip link show eth0"); !strings.Contains(out, a.MAC) {
		t.Errorf("eth0 has not the asked MAC:\n%s", out)
	}
}

func TestAddRefuses(t *testing.T) {
	n := newNode(t)
	live := attach(t)
	n.mustAdd(live)
	taken := attach(t)
	in(t, taken.Netns, "ip link add eth0 type ifb")
	empty := attach(t)
	empty.Netns = ""
	gone := attach(t)
	gone.Netns += "-not"
	file := attach(t)
	file.Netns = t.TempDir() + "/file"
	if err := os.WriteFile(file.Netns, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	home := attach(t)
	home.Netns = "/proc/self/ns/net"
	multicast := attach(t)
	multicast.MAC = "01:00:5e:00:00:01"
	outside := attach(t)
	outside.IPs = []netip.Addr{netip.MustParseAddr("192.0.2.7")}
	other := attach(t)
	other.ContainerID = live.ContainerID
	for _, tt := range []struct {
		name string
		a    api.Attach
		code uint
	}{
		{"a live attachment's repeat", live, api.CodeExists},
		{"a live attachment in another namespace", other, api.CodeExists},
		{"an interface of somebody else", taken, api.CodeExists},
		{"an empty namespace", empty, api.CodeBadEnv},
		{"a missing namespace", gone, api.CodeBadEnv},
		{"a plain file", file, api.CodeBadEnv},
		{"the node's own namespace", home, api.CodeBadEnv},
		{"a multicast MAC", multicast, api.CodeBadConfig},
		{"an address outside the pools", outside, api.CodeBadConfig},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(n.IPAM.Leases())
			_, err := n.Add(context.Background(), tt.a)
			wantCode(t, err, tt.code)
			if after := len(n.IPAM.Leases()); after != before {
				t.Errorf("leases: got %d, want %d as before", after, before)
			}
		})
	}
	if err := n.Check(context.Background(), live); err != nil {
		t.Errorf("the live attachment suffered: %v", err)
	}
}

func TestAddThatFailsLeavesNothing(t *testing.T) {
	n := newNode(t)
	n.rows.fail = errors.New("map is full")
	a := attach(t)
	_, err := n.Add(context.Background(), a)
	wantCode(t, err, api.CodeTryAgain)
	if !strings.Contains(err.Error(), "map is full") {
		t.Errorf("got %q, want the cause in it", err)
	}
	n.mustBeClean(a)
	n.rows.fail = nil
	n.mustAdd(a)
}

// mustBeClean says what is left of an attachment that should have left nothing.
func (n *node) mustBeClean(a api.Attach) {
	n.t.Helper()
	o := ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName}
	if l, ok := n.IPAM.Get(o); ok {
		n.t.Errorf("lease is left: %v", l)
	}
	host, err := dial()
	if err != nil {
		n.t.Fatal(err)
	}
	defer host.close()
	for _, name := range []string{hostName(o), ifbName(o)} {
		if _, there, err := host.linkByName(name); there || err != nil {
			n.t.Errorf("device %s is left (%v)", name, err)
		}
	}
	if len(n.rows.m) > 0 || len(n.link.m) > 0 {
		n.t.Errorf("rows are left: %v %v", n.rows.m, n.link.m)
	}
	if out := run(n.t, "ip route show proto 87") + run(n.t, "ip -6 route show proto 87"); out != "" {
		n.t.Errorf("routes are left: %s", out)
	}
	if _, err := os.Stat(n.answeredPath(o)); err == nil {
		n.t.Error("note of answered ADD is left")
	}
}

func TestAddWhenThePoolIsEmpty(t *testing.T) {
	n := newNode(t, netip.MustParsePrefix("10.244.1.0/30")) // room for one pod
	a, b := attach(t), attach(t)
	n.mustAdd(a)
	_, err := n.Add(context.Background(), b)
	wantCode(t, err, api.CodeTryAgain)
	wantCode(t, n.Status(), api.CodeNotAvailable)
	if err := n.Del(context.Background(), a); err != nil {
		t.Fatal(err)
	}
	if err := n.Status(); err != nil {
		t.Errorf("status with an address in its reuse delay: %v", err)
	}
	n.mustAdd(b)
}

func TestAddAndDelInParallel(t *testing.T) {
	n := newNode(t)
	const pods = 32
	var wg sync.WaitGroup
	var mu sync.Mutex
	used := map[netip.Addr]string{}
	requests := make([]api.Attach, pods)
	for i := range requests {
		requests[i] = attach(t)
	}
	errs := make(chan error, 4*pods)
	for _, a := range requests {
		wg.Go(func() {
			for range 2 {
				r, err := n.Add(context.Background(), a)
				if err != nil {
					errs <- fmt.Errorf("add %s: %w", a.ContainerID, err)
					return
				}
				mu.Lock()
				for _, ip := range r.IPs {
					addr, _ := netip.AddrFromSlice(ip.Address.IP)
					if who := used[addr]; who != "" {
						errs <- fmt.Errorf("%s has the address %s of %s", a.ContainerID, addr, who)
					}
					used[addr] = a.ContainerID
				}
				mu.Unlock()
				if err := n.Check(context.Background(), a); err != nil {
					errs <- err
				}
				mu.Lock()
				for _, ip := range r.IPs {
					addr, _ := netip.AddrFromSlice(ip.Address.IP)
					delete(used, addr)
				}
				mu.Unlock()
				if err := n.Del(context.Background(), a); err != nil {
					errs <- err
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	for _, a := range requests {
		n.mustBeClean(a)
	}
}

// Whoever knows the address may send to it as soon as ADD has answered.
func TestPodHasItsAddressesWhenAddAnswers(t *testing.T) {
	n := newNode(t)
	for i := range 40 {
		a := attach(t)
		addrs := n.mustAdd(a)
		pod, err := openNetns(a.Netns)
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range addrs {
			replies, err := pod.exec(routeMessage(addr))
			if err != nil || !isLocal(replies[0]) {
				t.Errorf("pod %d: %s is not the pod's yet: %v, %v", i, addr, err, replies)
			}
		}
		pod.close()
	}
}

// ADD's cost is what the daemon promises least noisily: how many questions it asks
// the kernel, whatever else is on the node.
func TestAddCostDoesNotGrow(t *testing.T) {
	n := newNode(t)
	cost := func() (uint64, uint64) {
		a := attach(t)
		m, b := sentMessages.Load(), sentBatches.Load()
		n.mustAdd(a)
		return sentMessages.Load() - m, sentBatches.Load() - b
	}
	// The least of some: now and then the kernel is asked once more for an address that
	// its work queue was slow with, on a busy machine always.
	least := func(times int) (m, b uint64) {
		for i := range times {
			if mi, bi := cost(); i == 0 || mi < m {
				m, b = mi, bi
			}
		}
		return m, b
	}
	m1, b1 := least(3)
	least(16)
	m2, b2 := least(10)
	if m2 > m1+1 || b2 > b1+1 {
		t.Errorf("first pods: %d messages in %d calls; after 20: %d in %d", m1, b1, m2, b2)
	}
	t.Logf("%d messages in %d calls", m2, b2)
	if b2 > 6 {
		t.Errorf("got %d calls, want at most 6", b2)
	}
}
