package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/internal/reconcile"
)

// slotLab is a datapath whose pods' addresses have few slots to begin at.
type slotLab struct {
	*Datapath
	pod   Endpoint
	addrs []netip.Addr
}

// newSlotLab finds n addresses, of both families, whose first slots are among `homes`, the
// last ones of the map, so that rows go on at its beginning.
func newSlotLab(t testing.TB, room, homes uint32, n int) slotLab {
	t.Helper()
	l := slotLab{Datapath: open(t, Options{MaxEndpoints: room}), pod: Endpoint{IfIndex: loopback, MAC: mac{2, 0, 0, 0, 0, 5}}}
	table := slots{l.Datapath}
	for i := uint32(0); len(l.addrs) < n; i++ {
		b := [16]byte{0xfd, 0, 2, 0x44}
		binary.BigEndian.PutUint32(b[12:], i)
		for _, a := range []netip.Addr{netip.AddrFrom16(b), netip.AddrFrom4([4]byte{10, b[13], b[14], b[15]})} {
			if table.first(toAddr(a)) >= table.size()-homes && len(l.addrs) < n {
				l.addrs = append(l.addrs, a)
			}
		}
	}
	return l
}

// found says whether the programs have a row of an address: they let pass what comes from
// there.
func (l slotLab) found(t testing.TB, a netip.Addr) bool {
	t.Helper()
	dst := addr("198.51.100.9")
	if a.Is6() {
		dst = addr("2001:db8::9")
	}
	packet := datagram(UDP, netip.AddrPortFrom(a, 1), netip.AddrPortFrom(dst, 2), 64, 0, nil)
	verdict, _ := l.run(t, FromPod, ethernet(mac{2}, l.pod.MAC, ethType(packet), packet), 0)
	return verdict == verdictNext
}

// Whatever is set, replaced and deleted in whatever order: the programs find what Dump tells.
func TestProgramsFindEachRowThatIsSet(t *testing.T) {
	t.Parallel()
	l := newSlotLab(t, 64, 4, 20)
	want := map[netip.Addr]Endpoint{}
	for i := range 150 {
		a := l.addrs[rand.IntN(len(l.addrs))]
		if rand.IntN(3) == 0 {
			must(t, l.Endpoints().Delete(a))
			delete(want, a)
		} else {
			row := l.pod
			row.HostMAC[0] = byte(i)
			must(t, l.Endpoints().Set(a, row))
			want[a] = row
		}
		got, err := l.Endpoints().Dump()
		must(t, err)
		if d := cmp.Diff(got, want, addrs); d != "" {
			t.Fatalf("step %d: rows (-got +want):\n%s", i, d)
		}
		for _, a := range l.addrs {
			_, set := want[a]
			if got := l.found(t, a); got != set {
				t.Fatalf("step %d: the programs find %s: %v, want %v", i, a, got, set)
			}
		}
	}
	for a := range maps.Keys(want) {
		must(t, l.Endpoints().Delete(a))
	}
	var s weftEndpointSlot
	for at := range l.maps[weftMapEndpoints].MaxEntries() {
		must(t, l.maps[weftMapEndpoints].Lookup(&at, &s))
		if s.State >= slotLeft {
			t.Fatalf("slot %d has state %d after all is deleted, want it free", at, s.State)
		}
	}
}

// A row that is replaced is there all the time.
func TestRowIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	l := newSlotLab(t, 64, 1, 2)
	for _, a := range l.addrs {
		must(t, l.Endpoints().Set(a, l.pod))
	}
	var done sync.WaitGroup
	stop := make(chan struct{})
	done.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			row := l.pod
			row.HostMAC[0] = byte(i)
			if err := l.Endpoints().Set(l.addrs[1], row); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 2000 {
		if !l.found(t, l.addrs[1]) {
			t.Errorf("packet %d: no row of %s", i, l.addrs[1])
			break
		}
	}
	close(stop)
	done.Wait()
}

// A slot that someone else empties may hide others from the programs: their rows are told as
// missing, and set again.
func TestRowBehindAnEmptiedSlotIsMissing(t *testing.T) {
	t.Parallel()
	l := newSlotLab(t, 64, 1, 3)
	for _, a := range l.addrs {
		must(t, l.Endpoints().Set(a, l.pod))
	}
	at := slots{l.Datapath}.first(toAddr(l.addrs[0]))
	must(t, l.maps[weftMapEndpoints].Put(at, weftEndpointSlot{}))
	got, err := l.Endpoints().Dump()
	must(t, err)
	if len(got) > 0 {
		t.Errorf("rows %v, want none: the programs find none", got)
	}
	for _, a := range l.addrs {
		must(t, l.Endpoints().Set(a, l.pod))
		if !l.found(t, a) {
			t.Errorf("%s is not found after it is set again", a)
		}
	}
}

// If such a row is set again before anybody looks, it is in two slots: the programs find the
// new one, and nobody the old one after the next look.
func TestRowInTwoSlots(t *testing.T) {
	t.Parallel()
	l := newSlotLab(t, 64, 1, 3)
	for _, a := range l.addrs {
		must(t, l.Endpoints().Set(a, l.pod))
	}
	at := slots{l.Datapath}.first(toAddr(l.addrs[0]))
	must(t, l.maps[weftMapEndpoints].Put(at, weftEndpointSlot{}))
	row := l.pod
	row.HostMAC[0] = 7
	must(t, l.Endpoints().Set(l.addrs[2], row))
	for look := range 3 {
		got, err := l.Endpoints().Dump()
		must(t, err)
		if d := cmp.Diff(got, map[netip.Addr]Endpoint{l.addrs[1]: l.pod, l.addrs[2]: row}, addrs); d != "" {
			t.Errorf("look %d: rows (-got +want):\n%s", look, d)
		}
		if l.rows != 2 {
			t.Errorf("look %d: %d rows are counted, want 2", look, l.rows)
		}
	}
	must(t, l.Endpoints().Delete(l.addrs[2]))
	if l.found(t, l.addrs[2]) {
		t.Errorf("%s is found after it is deleted", l.addrs[2])
	}
}

// An address whose slots are all others' is refused, and nobody is pushed out.
func TestNoSlotForAnAddress(t *testing.T) {
	t.Parallel()
	l := newSlotLab(t, 200, 1, slotTries+1)
	for i, a := range l.addrs {
		if err := l.Endpoints().Set(a, l.pod); errors.Is(err, ErrFull) != (i == slotTries) {
			t.Fatalf("row %d: %v", i, err)
		}
	}
	for i, a := range l.addrs {
		if got, want := l.found(t, a), i < slotTries; got != want {
			t.Errorf("row %d is found: %v, want %v", i, got, want)
		}
	}
}

// Of as many addresses as there is room for, as clusters give them to pods, none is without
// a slot.
func TestSlotsSufficeForPods(t *testing.T) {
	t.Parallel()
	for _, rows := range []uint32{2, 16, 250, 1024, 8192} {
		size := slotsFor(rows)
		used := make([]bool, size)
		table := slots{&Datapath{maps: map[string]*ebpf.Map{}}}
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: size})
		must(t, err)
		table.d.maps[weftMapEndpoints] = m
		most := uint32(0)
		for i := range rows {
			a := netip.AddrFrom4([4]byte{10, 244, byte(i >> 9), byte(i >> 1)})
			if i%2 == 1 {
				a = netip.AddrFrom16([16]byte{0xfd, 0, 2, 0x44, 14: byte(i >> 9), 15: byte(i >> 1)})
			}
			tries, at := uint32(1), table.first(toAddr(a))
			for ; used[at]; tries++ {
				at = (at + 1) & (size - 1)
			}
			used[at] = true
			most = max(most, tries)
		}
		m.Close()
		t.Logf("%d rows in %d slots: at most %d tries", rows, size, most)
		if most > slotTries/4 {
			t.Errorf("%d rows: one is found by %d tries, want at most %d", rows, most, slotTries/4)
		}
	}
}

// BenchmarkSlots gives what a look for drift costs with 250 pods of two families, in a map
// for so many.
func BenchmarkSlots(b *testing.B) {
	for _, pods := range []uint32{1024, 16384} {
		b.Run(fmt.Sprintf("max-pods=%d", pods), func(b *testing.B) {
			d := open(b, Options{MaxEndpoints: 2*pods + 64})
			for i := range 250 {
				must(b, d.Endpoints().Set(netip.AddrFrom4([4]byte{10, 244, 1, byte(i)}), testRow))
				must(b, d.Endpoints().Set(netip.AddrFrom16([16]byte{0xfd, 15: byte(i)}), testRow))
			}
			for b.Loop() {
				if err := d.Endpoints().(reconcile.Ranger[netip.Addr, Endpoint]).Range(func(netip.Addr, Endpoint) {}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
