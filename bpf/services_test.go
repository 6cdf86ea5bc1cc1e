package bpf

import (
	"errors"
	"math"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/internal/reconcile"
)

// Every row comes back as it was set, single and in a dump, and goes.
func TestServiceTables(t *testing.T) {
	t.Parallel()
	s := open(t, Options{}).Services()
	v4, v6 := netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::a")
	const id SetID = math.MaxUint64 - 2
	var row MaglevRow
	for i := range row {
		row[i] = uint16(i * 1000)
	}
	testTable(t, s.Alive, map[Place]uint32{{v4, 8080, TCP}: 1, {v6, 53, UDP}: math.MaxUint32, {v6, 53, SCTP}: 3})
	testTable(t, s.Backends, map[Slot]Backend{{id, 0}: {v4, 1, 2}, {id, math.MaxUint32}: {v6, 65535, 0}, {1, 0}: {}})
	testTable(t, s.Maglev, map[Block]MaglevRow{{id, 0}: row, {id, 1}: {}})
	testTable(t, s.Ranges, map[Range]struct{}{
		{id, netip.MustParsePrefix("0.0.0.0/0")}: {}, {id, netip.MustParsePrefix("::/0")}: {},
		{1, netip.MustParsePrefix("192.0.2.0/24")}: {}, {2, netip.MustParsePrefix("192.0.2.0/24")}: {}, {1, netip.MustParsePrefix("2001:db8::1/128")}: {},
	})
	testTable(t, s.Sets, map[SetID]Set{id: {3, 307, SetDrop}, 1: {}})
	testTable(t, s.Frontends, map[Place]Frontend{
		{v4, 80, TCP}: {id, 1, 3, 2, 10800, FrontendPass}, {Addr: v4}: {}, {v6, 80, UDP}: {Outside: id},
	})
}

// Addresses of other nodes, those of the overlay and others.
func TestNodesHoldWhatIsSet(t *testing.T) {
	t.Parallel()
	d := open(t, Options{})
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	testTable(t, d.Nodes(), map[netip.Addr]netip.Addr{v4: addr("192.0.2.9"), v6: {}, addr("2001:db8::2"): addr("2001:db8::9")})
}

func testTable[K, V comparable](t *testing.T, table reconcile.Target[K, V], rows map[K]V) {
	t.Helper()
	for k, v := range rows {
		must(t, table.Set(k, v))
	}
	got, err := table.Dump()
	must(t, err)
	if d := cmp.Diff(got, rows, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("dump (-got +want):\n%s", d)
	}
	for k, v := range rows {
		got, ok, err := table.(reconcile.Getter[K, V]).Get(k)
		if err != nil || !ok || got != v {
			t.Errorf("get %v: got %v, %v, %v, want %v", k, got, ok, err, v)
		}
		must(t, table.Delete(k))
		must(t, table.Delete(k))
	}
	if got, err := table.Dump(); err != nil || len(got) > 0 {
		t.Errorf("after deletes: got %v, %v, want no rows", got, err)
	}
}

// Rows that are set together are as those that are set alone, and a full map takes what
// there is room for and no more; what it had stays.
func TestManyServiceRowsAtOnce(t *testing.T) {
	t.Parallel()
	d := open(t, Options{})
	s := d.Services()
	places, backends := make([]Place, 300), make([]Backend, 300)
	frontends, slots := make([]Frontend, 300), make([]Slot, 300)
	wantPlaces, wantSlots := map[Place]Frontend{}, map[Slot]Backend{}
	for i := range places {
		a := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})
		places[i], frontends[i] = Place{a, 80, TCP}, Frontend{Inside: SetID(i + 1)}
		slots[i], backends[i] = Slot{Set: SetID(i + 1)}, Backend{a, 8080, uint32(i)}
		wantPlaces[places[i]], wantSlots[slots[i]] = frontends[i], backends[i]
	}
	setMany(t, s.Frontends, places, frontends, wantPlaces)
	setMany(t, s.Backends, slots, backends, wantSlots)
	for _, p := range places {
		hash := mix(words(toAddr(p.Addr)))
		if d.places.words[uint32(hash>>50)]>>(hash>>44&63)&1 == 0 {
			t.Fatalf("%v has a row and its address is not marked", p)
		}
	}

	prefixes, nothing, wantRanges := make([]Range, 20), make([]struct{}, 20), map[Range]struct{}{}
	for i := range prefixes {
		prefixes[i] = Range{7, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 16)}
		wantRanges[prefixes[i]] = struct{}{}
	}
	setMany(t, s.Ranges, prefixes, nothing, wantRanges)

	const room = 2
	small := open(t, Options{MaxPeers: room})
	keys, values := make([]weftAddr, 5), make([]weftAddr, 5)
	for i := range keys {
		keys[i] = toAddr(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	n, err := setAll(small, weftMapNodes, keys, values)
	if n != room || !errors.Is(err, ErrFull) {
		t.Errorf("5 rows into a map of %d: set %d, %v, want %d and ErrFull", room, n, err, room)
	}
}

func setMany[K, V comparable](t *testing.T, table reconcile.Target[K, V], keys []K, values []V, want map[K]V) {
	t.Helper()
	n, err := table.(reconcile.Batcher[K, V]).SetAll(keys, values)
	if n != len(keys) || err != nil {
		t.Fatalf("set %d of %d rows: %v", n, len(keys), err)
	}
	got, err := table.Dump()
	must(t, err)
	if d := cmp.Diff(got, want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("dump (-got +want):\n%s", d)
	}
}
