package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
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
	look := func() string {
		all := run(t, "ip -d link") + run(t, "ip route") + run(t, "ip -6 route") + in(t, a.Netns, "ip -d addr")
		return strings.ReplaceAll(all, " tentative", "") // duplicate address detection goes on by itself
	}
	testnet.Until(t, 20*time.Second, func() error { // the kernel takes note of carriers a moment later
		if strings.Contains(look(), "NO-CARRIER") {
			return errors.New("a device has no carrier")
		}
		return nil
	})
	before := look()
	n.restart()
	after := look()
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

// A plugin that was killed leaves half a tombstone.
func TestUnfinishedTombstonesGo(t *testing.T) {
	dir := t.TempDir()
	old, young := filepath.Join(dir, ".weft-tmp-1"), filepath.Join(dir, ".weft-tmp-2")
	for _, path := range []string{old, young} {
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-2 * unfinishedAfter)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{old, young, filepath.Join(dir, "gone")} {
		if err := removeUnfinished(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := os.Lstat(old); !os.IsNotExist(err) {
		t.Errorf("old file: got %v, want it removed", err)
	}
	if _, err := os.Lstat(young); err != nil {
		t.Errorf("file that may be being written: %v", err)
	}
}

// leaveTombstone is what the plugin does with a DEL that finds no daemon.
func (n *node) leaveTombstone(a api.Attach) {
	n.t.Helper()
	path := n.tombstonePath(ownerOfAttach(a))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		n.t.Fatal(err)
	}
	body, _ := json.Marshal(tombstone{a.ContainerID, a.IfName, a.Network})
	if err := os.WriteFile(path, body, 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func TestTombstonesAreWorkedOff(t *testing.T) {
	n := newNode(t)
	a, b := attach(t), attach(t)
	n.mustAdd(a)
	n.mustAdd(b)
	n.leaveTombstone(a)
	n.restart()
	n.mustNotKnow(a)
	// An ADD of the same container must not meet the DEL that came before it later.
	n.leaveTombstone(b)
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
