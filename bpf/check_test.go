package bpf

import (
	"bytes"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weft/internal/reconcile"
)

// checkedTable is a table of which rows can be looked at, with rows for it.
type checkedTable struct {
	name  string
	begun int // bytes of the value that programs write
	fill  func(t *testing.T)
	holds func() (bool, error)
	count func() (int, bool, error)
	table interface {
		reconcile.Syncer
		Check(whole bool) error
	}
}

func checkedOf[K, V comparable](name string, target reconcile.Target[K, V], rows map[K]V) checkedTable {
	c := target.(reconcile.Checker[K, V])
	tab := reconcile.New(name, target)
	tab.AllowPrune()
	tab.Put("test", rows)
	return checkedTable{
		name:  name,
		fill:  func(t *testing.T) { must(t, reconcile.Group{tab}.Sync(true)) },
		holds: func() (bool, error) { return c.Holds(iter.Seq2[K, V](maps.All(rows))) },
		count: c.Count,
		table: tab,
	}
}

func (c checkedTable) isTrie() bool {
	return c.name == weftMapPeers || c.name == weftMapRanges || c.name == weftMapClasses
}

// checkedTables is all of them, each with rows, more than one run of the program looks at in
// some.
func checkedTables(d *Datapath) []checkedTable {
	v4, v6 := addr("10.96.0.10"), addr("fd00:96::a")
	peer := Peer{Remote: addr("192.0.2.2"), Local: addr("192.0.2.1"), NextHop: addr("192.0.2.9"), MAC: [6]byte{2, 3}, LinkIndex: 7, MTU: 1450}
	peers, alive, row := map[netip.Prefix]Peer{}, map[Place]uint32{}, MaglevRow{1, 2, 3}
	for i := range 700 {
		peers[netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)] = peer
		alive[Place{v4, uint16(i), TCP}] = uint32(i)
	}
	peers[netip.MustParsePrefix("fd00:7::/64")] = peer
	s := d.Services()
	frontends := checkedOf(weftMapFrontends, s.Frontends, map[Place]Frontend{{v4, 80, TCP}: {1, 2, 3, 4, 5, FrontendPass}, {Addr: v6}: {Outside: 9}})
	frontends.begun = 8
	return []checkedTable{
		checkedOf(weftMapPeers, d.Peers(), peers),
		checkedOf(weftMapNodes, d.Nodes(), map[netip.Addr]netip.Addr{v4: addr("192.0.2.9"), v6: {}}),
		checkedOf(weftMapAlive, s.Alive, alive),
		checkedOf(weftMapBackends, s.Backends, map[Slot]Backend{{1, 0}: {v4, 1, 2}, {1, 1}: {v6, 65535, 0}}),
		checkedOf(weftMapMaglev, s.Maglev, map[Block]MaglevRow{{1, 0}: row, {1, 1}: {}}),
		checkedOf(weftMapRanges, s.Ranges, map[Range]struct{}{{1, netip.MustParsePrefix("192.0.2.0/24")}: {}, {1, netip.MustParsePrefix("2001:db8::1/128")}: {}}),
		checkedOf(weftMapSets, s.Sets, map[SetID]Set{1: {3, 307, SetDrop}, 2: {}}),
		frontends,
		checkedOf(weftMapClasses, d.Classes(), map[netip.Prefix]Class{netip.MustParsePrefix("192.0.2.0/24"): 3, netip.MustParsePrefix("2001:db8::/32"): 1 << 60}),
		checkedOf(weftMapRules, d.Rules(), map[RuleKey]RuleRow{{1, 2, 0}: {{80, 90, 1, TCP, Allow}}, {1, 2, 1}: {}}),
		checkedOf(weftMapAnnounced, d.Announced(), map[netip.Addr]Announced{v4: {7, [6]byte{2}, true}, v6: {}}),
	}
}

// Of each map that is looked at, any byte that is another is seen, and a row less or more is
// counted.
func TestCheckSeesEveryByte(t *testing.T) {
	t.Parallel()
	d := open(t, Options{MaxPeers: DefaultMaxPeers})
	seen := map[string]bool{}
	for _, c := range checkedTables(d) {
		seen[c.name] = true
		if n, ok, err := c.count(); ok || err != nil {
			t.Errorf("%s: %d rows, %v, before it was read", c.name, n, err)
		}
		c.fill(t)
		want := c.table.Stats().Rows
		state := func() string {
			holds, err := c.holds()
			must(t, err)
			n, counts, err := c.count()
			must(t, err)
			if !counts {
				t.Fatalf("%s: this kernel does not count", c.name)
			}
			return fmt.Sprintf("%v %+d", holds, n-want)
		}
		if got := state(); got != "true +0" {
			t.Errorf("%s as it is: %s", c.name, got)
		}
		m := d.maps[c.name]
		var key, value []byte
		must(t, rowsOf(m, func(k, v []byte) error {
			key, value = bytes.Clone(k), bytes.Clone(v)
			return nil
		}))
		try := func(harm, want string) {
			if got := state(); got != want {
				t.Errorf("%s, %s: %s, want %s", c.name, harm, got, want)
			}
			must(t, c.table.Check(false))
			must(t, reconcile.Group{c.table}.Sync(false))
			if got := state(); got != "true +0" {
				t.Errorf("%s, %s, after a check: %s", c.name, harm, got)
			}
		}
		for i := range value {
			other := bytes.Clone(value)
			other[i] ^= 1
			must(t, put(m, key, other))
			try(fmt.Sprintf("byte %d of the value is another", i), fmt.Sprintf("%v +0", i < c.begun))
		}
		must(t, m.Delete(key))
		try("a row is gone", "false -1")
		for i := range key {
			other := bytes.Clone(key)
			other[i] ^= 0x80
			if c.isTrie() && i < 4 {
				other[i] = key[i] - 1 // of the length of the prefix
			}
			if c.isTrie() && (0 < i && i < 4 || i >= 4+int(key[0])/8) || m.Lookup(other, &value) == nil {
				continue // no prefix, or the same one, or a row that there is
			}
			must(t, put(m, other, value))
			try(fmt.Sprintf("there is a row with another byte %d of the key", i), "true +1")
		}
	}
	for name := range checkedMaps {
		if !seen[name] {
			t.Errorf("map %s is not tried", name)
		}
	}
}

// Where the program cannot be run, maps are read instead, and somebody may want to know.
func TestCheckThatCannotBeIsToldOnce(t *testing.T) {
	t.Parallel()
	var told bytes.Buffer
	d := open(t, Options{MaxPeers: DefaultMaxPeers, Log: slog.New(slog.NewTextHandler(&told, nil))})
	must(t, d.checker.program.Close())
	c := checkedTables(d)[0]
	c.fill(t)
	for range 2 {
		if ok, err := c.holds(); ok || err == nil {
			t.Fatalf("without the program: %v, %v, want an error", ok, err)
		}
		must(t, c.table.Check(false)) // which reads instead
	}
	if n := strings.Count(told.String(), "maps cannot be checked"); n != 1 {
		t.Errorf("told %d times, want once:\n%s", n, told.String())
	}
}

// A place that is not marked any more is marked again.
func TestCheckSeesPlaces(t *testing.T) {
	t.Parallel()
	d := open(t, Options{MaxPeers: DefaultMaxPeers})
	for _, c := range checkedTables(d) {
		if c.name != weftMapFrontends {
			continue
		}
		c.fill(t)
		var words []uint32
		for word := range d.places.words {
			words = append(words, word)
			must(t, d.maps[weftMapPlaces].Put(word, uint64(0)))
		}
		if holds, err := c.holds(); holds || err != nil {
			t.Errorf("without marks: %v, %v", holds, err)
		}
		must(t, c.table.Check(false))
		must(t, c.table.Write())
		if holds, err := c.holds(); !holds || err != nil {
			t.Errorf("with marks: %v, %v", holds, err)
		}
		for _, word := range words {
			var bits uint64
			must(t, d.maps[weftMapPlaces].Lookup(word, &bits))
			if bits == 0 {
				t.Errorf("word %d has no mark", word)
			}
		}
	}
}

// BenchmarkCheck looks for damage in what a node with 1,000 peers, and one with many Services
// has: by a check, and by reading the maps.
func BenchmarkCheck(b *testing.B) {
	d := open(b, Options{MaxPeers: DefaultMaxPeers})
	peer := Peer{Remote: addr("192.0.2.2"), Local: addr("192.0.2.1")}
	peers, backends, none := map[netip.Prefix]Peer{}, map[Slot]Backend{}, map[Place]Frontend{}
	for i := range 1000 {
		var v6 [16]byte
		v6[0], v6[6], v6[7] = 0xfd, byte(i>>8), byte(i)
		peers[netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)] = peer
		peers[netip.PrefixFrom(netip.AddrFrom16(v6), 64)] = peer
	}
	for i := range 8000 {
		backends[Slot{SetID(i / 4), uint32(i % 4)}] = Backend{Addr: addr("10.0.0.1"), Port: uint16(i)}
	}
	for _, c := range []checkedTable{
		checkedOf("peers", d.Peers(), peers),
		checkedOf("backends", d.Services().Backends, backends),
		checkedOf("frontends", d.Services().Frontends, none),
	} {
		if err := (reconcile.Group{c.table}).Sync(true); err != nil {
			b.Fatal(err)
		}
		b.Run(c.name+"/check", func(b *testing.B) {
			for b.Loop() {
				must(b, c.table.Check(false))
			}
		})
		b.Run(c.name+"/read", func(b *testing.B) {
			for b.Loop() {
				must(b, c.table.Refresh())
			}
		})
	}
}
