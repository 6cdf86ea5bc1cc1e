package daemon

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/announce"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/reconcile"
	"github.com/weftnet/weft/overlay"
)

// announceNodes are three nodes on one link, one that is excluded, and one of another family.
func announceNodes() []*source.Node {
	node := func(name string, labels map[string]string, addrs ...string) *source.Node {
		n := &source.Node{Name: name, Labels: labels}
		for _, a := range addrs {
			n.InternalIPs = append(n.InternalIPs, netip.MustParseAddr(a))
		}
		return n
	}
	return []*source.Node{
		node("a", nil, "10.0.0.1", "fd00::1"), node("b", nil, "10.0.0.2", "fd00::2"),
		node("c", map[string]string{excludeLabel: ""}, "10.0.0.3", "fd00::3"), node("d", nil, "fd00::4"), node("e", nil),
	}
}

func TestNodesAreProbedAtTheAddressesThatTheyKnowEachOtherBy(t *testing.T) {
	self := overlay.Node{Name: "a", Addrs: announceNodes()[0].InternalIPs}
	k := neighbours("a", self, announceNodes())
	probed := map[string]string{}
	for name, at := range k.probed {
		probed[name] = k.from[at].String() + " to " + at.String()
	}
	if diff := cmp.Diff(probed, map[string]string{
		"b": "10.0.0.1 to 10.0.0.2", "c": "10.0.0.1 to 10.0.0.3", "d": "fd00::1 to fd00::4",
	}); diff != "" {
		t.Errorf("probed (-got +want):\n%s", diff)
	}
	var names []string
	for _, n := range k.candidates {
		names = append(names, n.Name)
	}
	if !slices.Equal(names, []string{"a", "b", "d"}) {
		t.Errorf("candidates %v", names)
	}
}

func TestHowANodeStandsToAddresses(t *testing.T) {
	on, off, shared, own := netip.MustParseAddr("10.0.0.99"), netip.MustParseAddr("2001:db8::1"),
		netip.MustParseAddr("10.0.0.98"), netip.MustParseAddr("10.0.0.2")
	links := []overlay.Link{{Index: 4, Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}, Default4: true}}
	self := overlay.Node{Name: "a", Addrs: announceNodes()[0].InternalIPs}
	k := neighbours("a", self, announceNodes())
	needs := map[netip.Addr]announce.Need{
		on: {Services: []string{"x/on"}}, off: {Services: []string{"x/off"}}, own: {Services: []string{"x/own"}},
		shared: {Services: []string{"x/l", "x/m"}, Nodes: map[string]bool{"b": true}, Split: true},
	}
	got := placesOf("a", k.candidates, k.taken, links, needs, nil)
	for a, want := range map[netip.Addr]struct {
		may  bool
		link int
	}{on: {true, 4}, off: {false, 0}, shared: {false, 4}} {
		if p, ok := got[a]; !ok || p.May != want.may || p.link.Index != want.link {
			t.Errorf("%s: %+v, want %+v", a, p, want)
		}
	}
	if got[shared].first != "b" {
		t.Errorf("%s is announced by %q", shared, got[shared].first)
	}
	if _, ok := got[own]; ok {
		t.Errorf("%s is a node's own", own)
	}
	texts := nowhere(got)
	if len(texts) != 2 || !strings.HasPrefix(texts[0], "10.0.0.98 is shared") || !strings.HasPrefix(texts[1], "2001:db8::1 of x/off is on no link") {
		t.Errorf("problems %q", texts)
	}

	// What did not change is taken over; what did is not.
	former := map[netip.Addr]place{on: {need: needs[on], first: "kept"}, shared: {need: announce.Need{}, first: "old"}}
	got = placesOf("a", k.candidates, k.taken, links, needs, former)
	if got[on].first != "kept" || got[shared].first != "b" {
		t.Errorf("first of %s %q, of %s %q", on, got[on].first, shared, got[shared].first)
	}
}

// emptyTable is a kernel table that has no rows and takes all.
type emptyTable[K, V comparable] struct{}

func (emptyTable[K, V]) Dump() (map[K]V, error) { return nil, nil }
func (emptyTable[K, V]) Set(K, V) error         { return nil }
func (emptyTable[K, V]) Delete(K) error         { return nil }

// announcerOf is that of a node that asks nobody.
func announcerOf(t *testing.T, state *source.State) *announcer {
	a := &announcer{
		cfg: Config{NodeName: "n1"}, source: func() source.State { return *state },
		self: func() overlay.Node {
			return overlay.Node{Name: "n1", Addrs: []netip.Addr{netip.MustParseAddr("fd00::1")}}
		},
		sockets: newAnnounceSockets(0), groups: overlay.NewGroups(filepath.Join(t.TempDir(), groupsFile)),
		rows:     reconcile.New("announced", emptyTable[netip.Addr, bpf.Announced]{}),
		hooks:    reconcile.New("links", emptyTable[bpf.Hook, struct{}]{}),
		problems: newProblems(slog.New(slog.DiscardHandler)),
		machine:  announce.New("n1", time.Now(), nil, nonce), places: map[netip.Addr]place{},
		watch: announce.NewWatch("n1", nonce), lose: func(map[string]bool, bool) {},
	}
	t.Cleanup(a.sockets.close)
	return a
}

// A cluster without load balancers' addresses does not pay for its nodes with each change
// of a Service, and its first address is found all the same.
func TestWithoutAddressesNodesAreNotLookedAt(t *testing.T) {
	state := source.State{Complete: true}
	for i := range 1000 {
		state.Nodes = append(state.Nodes, &source.Node{
			Name: fmt.Sprint("n", i), InternalIPs: []netip.Addr{netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)})},
		})
	}
	a := announcerOf(t, &state)
	a.update(time.Now()) // takes away what a former daemon left
	if got := testing.AllocsPerRun(20, func() { a.update(time.Now()) }); got > 10 {
		t.Errorf("with 1000 nodes: got %.0f allocations for a change, want at most 10", got)
	}
	on := source.LoadBalancerIP{IP: netip.MustParseAddr("10.9.0.1")}
	state.Services = []*source.Service{{Namespace: "x", Name: "s", Type: "LoadBalancer", LoadBalancerIPs: []source.LoadBalancerIP{on}}}
	a.cfg.LoadBalancerDefault = true
	a.update(time.Now())
	if got := len(a.places); got != 1 {
		t.Errorf("with a Service's address: got %d places, want 1", got)
	}
	state.Services = nil
	for range 2 {
		a.update(time.Now())
	}
	if len(a.places) != 0 || !a.settled {
		t.Errorf("when it is gone: got %d places, settled %v, want 0, true", len(a.places), a.settled)
	}
}

// A file that cannot be read, put into the folder while daemons run, must not keep addresses
// where they are: of other Services all is known.
func TestAddressesAreFollowedWhileALaterFileCannotBeRead(t *testing.T) {
	service := func(name, ip string) *source.Service {
		return &source.Service{Namespace: "x", Name: name, Type: "LoadBalancer", LoadBalancerIPs: []source.LoadBalancerIP{{IP: netip.MustParseAddr(ip)}}}
	}
	state := source.State{Services: []*source.Service{service("a", "10.9.0.1")}}
	a := announcerOf(t, &state)
	a.cfg.LoadBalancerDefault = true
	a.update(time.Now())
	if len(a.places) != 0 {
		t.Errorf("before the source has told all: %d places, want none", len(a.places))
	}
	state.Complete = true
	a.update(time.Now())
	state.Complete, state.Services = false, []*source.Service{service("b", "10.9.0.2")}
	a.update(time.Now())
	if _, there := a.places[netip.MustParseAddr("10.9.0.2")]; !there || len(a.places) != 1 {
		t.Errorf("places %v, want that of 10.9.0.2", slices.Collect(maps.Keys(a.places)))
	}
}

// A node that has nobody to watch steps at common moments, and whenever something may have
// changed. Wherever between two moments it gave a sign of life, it must give the next in time.
func TestSignsOfLifeComeInTime(t *testing.T) {
	const late = 2 * time.Second // of a timer
	for beat := time.Duration(0); beat < beatIdle; beat += 10 * time.Millisecond {
		for step := beatIdle; ; step += beatIdle {
			if beatDue(step-beat, false) {
				if step-beat+late > adoptWithin {
					t.Fatalf("%s after a moment: silent for %s", beat, step-beat)
				}
				break
			}
		}
	}
}
