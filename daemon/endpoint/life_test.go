package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/ipam"
)

func ownerOfAttach(a api.Attach) ipam.Owner {
	return ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName}
}

func TestDelSucceedsWhateverIsLeft(t *testing.T) {
	for _, tt := range []struct {
		name string
		prep func(n *node, a *api.Attach)
	}{
		{"all of it", func(*node, *api.Attach) {}},
		{"no namespace named", func(_ *node, a *api.Attach) { a.Netns = "" }},
		{"namespace vanished", func(n *node, a *api.Attach) { endNetns(n.t, a.Netns) }},
		{"interface deleted", func(n *node, a *api.Attach) { in(n.t, a.Netns, "ip link del eth0") }},
		{"interface renamed", func(n *node, a *api.Attach) { in(n.t, a.Netns, "ip link set eth0 name eth9") }},
		{"host device renamed", func(n *node, a *api.Attach) {
			run(n.t, "ip link set "+hostName(ownerOfAttach(*a))+" name foreign1")
		}},
		{"daemon restarted", func(n *node, _ *api.Attach) { n.restart() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			a := limited(t)
			n.mustAdd(a)
			tt.prep(n, &a)
			for range 3 {
				if err := n.Del(context.Background(), a); err != nil {
					t.Fatal(err)
				}
			}
			n.mustBeClean(a)
			if n.seen[a.ContainerID] {
				t.Error("Changed was not told that the pod is gone")
			}
		})
	}
	t.Run("never added", func(t *testing.T) {
		n := newNode(t)
		if err := n.Del(context.Background(), attach(t)); err != nil {
			t.Fatal(err)
		}
	})
}

// restart is a new process over the same state, kernel and maps.
func (n *node) restart() {
	n.t.Helper()
	n.start(pools...)
	// The Node has not been read yet.
	known := n.net
	n.net = Net{Ready: errors.New("node is not known")}
	if err := n.Restore(context.Background()); err != nil {
		n.t.Fatalf("restore: %v", err)
	}
	n.net = known
	n.sync(true)
}

func (n *node) sync(full bool) {
	n.t.Helper()
	for _, s := range []interface {
		Refresh() error
		Write() error
		Prune() error
		AllowPrune()
	}{n.Routes, n.Neighs, n.Rows, n.Links} {
		s.AllowPrune()
		if full {
			if err := s.Refresh(); err != nil {
				n.t.Fatal(err)
			}
		}
		if err := s.Write(); err != nil {
			n.t.Fatal(err)
		}
		if err := s.Prune(); err != nil {
			n.t.Fatal(err)
		}
	}
}

func TestRestartChangesNothingOfLivePods(t *testing.T) {
	n := newNode(t)
	a, b := attach(t), limited(t)
	addrs := n.mustAdd(a)
	n.mustAdd(b)
	before := run(t, "ip -d link") + run(t, "ip route") + run(t, "ip -6 route") + in(t, a.Netns, "ip -d addr")
	n.restart()
	after := run(t, "ip -d link") + run(t, "ip route") + run(t, "ip -6 route") + in(t, a.Netns, "ip -d addr")
	if before != after {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	for _, x := range []api.Attach{a, b} {
		if err := n.Check(context.Background(), x); err != nil {
			t.Errorf("check after restart: %v", err)
		}
	}
	_, err := n.Add(context.Background(), a)
	wantCode(t, err, api.CodeExists)
	if r := n.Routes.Stats().Repairs + n.Rows.Stats().Repairs; r != 0 {
		t.Errorf("got %d repairs of what was right", r)
	}
	if got := n.List(); len(got) != 2 || got[0].IPs[0] != addrs[0] || got[0].State != "ok" {
		t.Errorf("got %+v", got)
	}
}

func TestGCRemovesWhatTheRuntimeDoesNotList(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	valid, stale, gone, foreign := attach(t), attach(t), attach(t), attach(t)
	foreign.Network = "other"
	for _, a := range []api.Attach{valid, stale, gone, foreign} {
		n.mustAdd(a)
	}
	endNetns(t, gone.Netns)
	if err := n.GC(ctx, api.GC{Network: "weft", Valid: []api.Ref{{ContainerID: valid.ContainerID, IfName: "eth0"}}}); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range n.List() {
		left = append(left, e.ContainerID)
	}
	if got, want := strings.Join(left, " "), valid.ContainerID+" "+foreign.ContainerID; got != want {
		t.Errorf("left: got %s, want %s", got, want)
	}
	if err := n.GC(ctx, api.GC{Network: "weft"}); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(ctx, foreign); err != nil {
		t.Errorf("attachment of another network: %v", err)
	}
	if err := n.Del(ctx, api.Attach{ContainerID: foreign.ContainerID, IfName: "eth0", Network: "weft"}); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(ctx, foreign); err != nil {
		t.Errorf("after DEL for another network: %v", err)
	}
}

func TestTombstonesAreWorkedOff(t *testing.T) {
	n := newNode(t)
	a, b := attach(t), attach(t)
	n.mustAdd(a)
	n.mustAdd(b)
	bury := func(a api.Attach) {
		path := n.tombstonePath(ownerOfAttach(a))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		body, _ := json.Marshal(tombstone{a.ContainerID, a.IfName, a.Network})
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bury(a)
	n.restart()
	n.mustNotKnow(a)
	// An ADD of the same container must not meet the DEL that came before it later.
	bury(b)
	n.mustAdd(b)
	if err := n.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(context.Background(), b); err != nil {
		t.Errorf("check after the sweep: %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Join(n.dir, api.TombstoneDir)); len(entries) > 0 {
		t.Errorf("%d tombstones are left", len(entries))
	}
	if err := os.WriteFile(filepath.Join(n.dir, api.TombstoneDir, "x.json"), []byte("{half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.Sweep(context.Background()); err == nil || !strings.Contains(err.Error(), "x.json") {
		t.Errorf("unreadable tombstone: got %v, want an error that names it", err)
	}
}

func (n *node) mustNotKnow(a api.Attach) {
	n.t.Helper()
	if l, ok := n.IPAM.Get(ownerOfAttach(a)); ok {
		n.t.Errorf("lease is left: %v", l)
	}
	if _, err := os.Stat("/sys/class/net/" + hostName(ownerOfAttach(a))); err == nil {
		n.t.Errorf("device of %s is left", a.ContainerID)
	}
}

func TestTheDeadAreReleasedAfterTwoObservations(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	dead, alive := attach(t), attach(t)
	n.mustAdd(dead)
	n.mustAdd(alive)
	endNetns(t, dead.Netns)
	name := hostName(ownerOfAttach(dead))
	until(t, "device vanishes with its namespace", func() bool {
		_, err := os.Stat("/sys/class/net/" + name)
		return err != nil
	})
	sweep := func() {
		t.Helper()
		if err := n.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	n.pass(5 * time.Second)
	sweep()
	if _, ok := n.IPAM.Get(ownerOfAttach(dead)); !ok {
		t.Fatal("released after 5 s")
	}
	n.pass(5 * time.Second)
	sweep()
	n.mustNotKnow(dead)
	if err := n.Check(ctx, alive); err != nil {
		t.Error(err)
	}
}

func TestSweepRemakesWhatALivePodLost(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	addrs := n.mustAdd(a)
	run(t, "ip link del "+hostName(ownerOfAttach(a)))
	if err := n.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(context.Background(), a); err != nil {
		t.Error(err)
	}
	if err := connect(t, "", a.Netns, addrs[1]); err != nil {
		t.Error(err)
	}
	if len(n.link.m) != 1 {
		t.Errorf("got %d program links, want 1", len(n.link.m))
	}
}

func TestSweepRemovesDevicesWithoutAttachmentButNoForeignOnes(t *testing.T) {
	n := newNode(t)
	orphan := ipam.Owner{ContainerID: "orphan", IfName: "eth0"}
	run(t, "ip link add "+hostName(orphan)+" type veth peer name p0")
	run(t, "ip link set "+hostName(orphan)+" alias "+alias(orphan))
	run(t, "ip link add weftforeign type veth peer name p1")
	t.Cleanup(func() { run(t, "ip link del weftforeign") })
	for range 2 {
		if err := n.Sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
		n.pass(deadAfter)
	}
	if _, err := os.Stat("/sys/class/net/" + hostName(orphan)); err == nil {
		t.Error("orphan is left")
	}
	if _, err := os.Stat("/sys/class/net/weftforeign"); err != nil {
		t.Error("foreign device was deleted")
	}
}

func TestSetMTUReachesLivePods(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	n.mustAdd(a)
	n.net.MTU = 1380
	if err := n.SetMTU(1380); err != nil {
		t.Fatal(err)
	}
	out := in(t, a.Netns, "ip link show eth0") + in(t, a.Netns, "ip route show default") + in(t, a.Netns, "ip -6 route show default")
	if strings.Count(out, "mtu 1380") != 3 {
		t.Errorf("got\n%s", out)
	}
	if err := n.Check(context.Background(), a); err != nil {
		t.Error(err)
	}
}

func TestGatewayThatChangesReachesLivePods(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	n.mustAdd(a)
	run(t, "ip addr add 10.244.1.254/32 dev lo")
	t.Cleanup(func() { run(t, "ip addr del 10.244.1.254/32 dev lo") })
	n.net.Gateways = []netip.Addr{netip.MustParseAddr("10.244.1.254"), n.net.Gateways[1]}
	if err := n.Repair(context.Background(), ownerOfAttach(a)); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(context.Background(), a); err != nil {
		t.Error(err)
	}
	if err := connect(t, a.Netns, "", n.net.Gateways[0]); err != nil {
		t.Error(err)
	}
	n.restart()
	if got := run(t, "ip route show proto 87"); !strings.Contains(got, "src 10.244.1.254") {
		t.Errorf("host route after restart: %s", got)
	}
}

func TestWatchMendsDriftAtOnce(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	addrs := n.mustAdd(a)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.Watch(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	well := func() bool { return n.Check(context.Background(), a) == nil }
	for _, damage := range []struct{ pod, host string }{
		{pod: "ip addr del ADDR4/32 dev eth0"},
		{pod: "ip -6 route del default"},
		{pod: "ip neigh del " + gateway6 + " dev eth0"},
		{host: "ip link set HOST down"},
		{host: "ip -6 route del ADDR6 dev HOST"},
		{host: "ip link del HOST"},
		{pod: "ip addr flush dev eth0"},
	} {
		// Watch subscribes some time after it was started: damage is done again until
		// it was seen. That is no race in a daemon, which has Sweep.
		until(t, "mend "+damage.pod+damage.host, func() bool {
			if damage.pod != "" {
				_, _ = tryIn(a.Netns, fill(damage.pod, a, addrs))
			} else {
				run(t, fill(damage.host, a, addrs)+"")
			}
			for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				if well() {
					return true
				}
			}
			return false
		})
	}
}

func TestSingleFamilies(t *testing.T) {
	for _, prefix := range pools {
		t.Run(prefix.String(), func(t *testing.T) {
			n := newNode(t, prefix)
			a := attach(t)
			addrs := n.mustAdd(a)
			if len(addrs) != 1 || !prefix.Contains(addrs[0]) {
				t.Fatalf("got %v", addrs)
			}
			if err := connect(t, a.Netns, "", n.net.Gateways[0]); err != nil {
				t.Error(err)
			}
			if err := n.Check(context.Background(), a); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSecondInterfaceLeavesTheFirstDefaultRoute(t *testing.T) {
	n := newNode(t)
	first := attach(t)
	second := first
	second.IfName = "net1"
	n.mustAdd(first)
	n.mustAdd(second)
	for _, a := range []api.Attach{first, second} {
		if err := n.Check(context.Background(), a); err != nil {
			t.Errorf("%s: %v", a.IfName, err)
		}
	}
	if out := in(t, first.Netns, "ip route get 192.0.2.1"); !strings.Contains(out, "dev eth0") {
		t.Errorf("the default route went to the second interface: %s", out)
	}
	if err := n.Del(context.Background(), first); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(context.Background(), second); err != nil {
		t.Errorf("after DEL of the first: %v", err)
	}
}

func TestAskedAddress(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	a.IPs = []netip.Addr{netip.MustParseAddr("10.244.1.77")}
	if got := n.mustAdd(a); got[0] != a.IPs[0] {
		t.Errorf("got %v, want %v", got, a.IPs)
	}
	b := attach(t)
	b.IPs = a.IPs
	_, err := n.Add(context.Background(), b)
	wantCode(t, err, api.CodeTryAgain)
}
