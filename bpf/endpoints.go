package bpf

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/crash"
	"github.com/weftnet/weft/internal/reconcile"
)

// ErrFull is returned by Set when a map has no room for another row: nothing is
// evicted for it.
var ErrFull = errors.New("map is full")

// endpoints is the typed table of the map `endpoints`.
type endpoints struct{ d *Datapath }

// Endpoints is the table of addresses that end on this node. IPv4 addresses are
// keyed unmapped. Its Set returns [ErrFull] if there is no room.
func (d *Datapath) Endpoints() reconcile.Target[netip.Addr, Endpoint] { return endpoints{d} }

func (t endpoints) Dump() (map[netip.Addr]Endpoint, error) {
	return gather(t.Range)
}

func (t endpoints) Range(f func(netip.Addr, Endpoint)) error {
	return slots(t).scan(func(k *weftAddr, v *weftEndpoint) { f(addrFrom(*k), v.row()) })
}

func (t endpoints) Get(a netip.Addr) (Endpoint, bool, error) {
	_, s, ok, err := slots(t).find(toAddr(a))
	if err != nil || !ok {
		return Endpoint{}, false, err
	}
	return s.Row[s.State&1].row(), true, nil
}

func (t endpoints) Set(a netip.Addr, e Endpoint) error {
	v := weftEndpoint{Ifindex: e.IfIndex, Flags: e.Flags, Ingress: uint64(e.Ingress), Egress: uint64(e.Egress)}
	v.Mac.B, v.HostMac.B = e.MAC, e.HostMAC
	return slots(t).set(toAddr(a), v)
}

func (t endpoints) Delete(a netip.Addr) error {
	return slots(t).delete(toAddr(a))
}

func (v *weftEndpoint) row() Endpoint {
	return Endpoint{
		IfIndex: v.Ifindex, MAC: v.Mac.B, HostMAC: v.HostMac.B, Flags: v.Flags,
		Ingress: RuleSet(v.Ingress), Egress: RuleSet(v.Egress),
	}
}

// toAddr is the form of an address in the maps; that of no address is all zero.
func toAddr(a netip.Addr) weftAddr {
	if !a.IsValid() {
		return weftAddr{}
	}
	return weftAddr{B: a.As16()}
}

func addrFrom(a weftAddr) netip.Addr {
	if a == (weftAddr{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(a.B).Unmap()
}

// scanBatch is how many rows one system call reads (BPF_MAP_LOOKUP_BATCH, Linux 5.6;
// for LPM tries 5.13). It is far more than a bucket of a hash holds, which must fit.
const scanBatch = 128

// scan reads a whole map, row by row. We are the only writer; if a row goes while we
// iterate, the kernel may start over, so a row may come twice.
func scan[K, V comparable](d *Datapath, name string, row func(*K, *V)) error {
	if err := d.repin(name); err != nil {
		return err
	}
	keys, values := make([]K, scanBatch), make([]V, scanBatch)
	var at ebpf.MapBatchCursor
	rows := 0
	for {
		n, err := d.maps[name].BatchLookup(&at, keys, values, nil)
		for i := range n {
			row(&keys[i], &values[i])
		}
		rows += n
		if errors.Is(err, ebpf.ErrKeyNotExist) { // that was the last
			if _, ok := checkedMaps[name]; ok {
				d.learnSize(name, rows)
			}
			return nil
		} else if err != nil {
			return fmt.Errorf("read map %s: %w", name, err)
		}
	}
}

// gather makes a table of what ranges tells.
func gather[K, V comparable](ranges func(func(K, V)) error) (map[K]V, error) {
	rows := map[K]V{}
	if err := ranges(func(k K, v V) { rows[k] = v }); err != nil {
		return nil, err
	}
	return rows, nil
}

func get[K, V comparable](d *Datapath, name string, key K) (V, bool, error) {
	var v V
	err := d.maps[name].Lookup(&key, &v)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return v, false, nil
	} else if err != nil {
		return v, false, fmt.Errorf("look up in map %s: %w", name, err)
	}
	return v, true, nil
}

func set[K, V comparable](d *Datapath, name string, key K, value V) error {
	if err := d.maps[name].Put(&key, &value); err != nil {
		return d.notSet(name, err)
	}
	crash.Point("bpf set " + name)
	return nil
}

// setAll sets rows until one fails, and returns how many are set and why the next is not.
// With a kernel that cannot take many at once none is set: [ebpf.ErrNotSupported].
func setAll[K, V comparable](d *Datapath, name string, keys []K, values []V) (int, error) {
	n, err := d.maps[name].BatchUpdate(keys, values, nil)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return 0, err
	} else if err != nil {
		if n == len(keys) { // refused as a whole: the kernel has not counted
			n = 0
		}
		return n, d.notSet(name, err)
	}
	crash.Point("bpf set " + name)
	return n, nil
}

// notSet says why a row is not set.
func (d *Datapath) notSet(name string, err error) error {
	if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("write map %s: %w (%d rows)", name, ErrFull, d.maps[name].MaxEntries())
	}
	return fmt.Errorf("write map %s: %w", name, err)
}

func remove[K comparable](d *Datapath, name string, key K) error {
	if err := d.maps[name].Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete from map %s: %w", name, err)
	}
	crash.Point("bpf delete " + name)
	return nil
}
