package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/internal/reconcile"
)

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols of Services.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Place is an address, port and protocol. Port and protocol 0: any other of an address
// that nobody but a Service has: a ClusterIP, or a load balancer's that Weft gives.
type Place struct {
	Addr     netip.Addr // unmapped
	Port     uint16
	Protocol Protocol
}

func (p Place) String() string {
	if p.Protocol == 0 {
		return p.Addr.String()
	}
	return netip.AddrPortFrom(p.Addr, p.Port).String() + "/" + p.Protocol.String()
}

// SetID names a set of backends: a hash of what it is, the same on every node and
// after every start. 0 is none.
type SetID uint64

// Frontend says which backends serve a place: the row of the map `frontends`.
type Frontend struct {
	Inside   SetID  // for what pods and the node itself send; 0: another program serves it
	Outside  SetID  // for what comes from elsewhere; 0: the place is not served there
	Host     SetID  // for what the node itself sends, at its sockets; 0: as Inside
	Ranges   SetID  // sources must be in the rows of `ranges` by this name; 0: any
	Affinity uint32 // seconds that a client stays with its backend; 0: none
	Flags    uint32 // FrontendPass, FrontendHostPort
}

// Flags of a [Frontend].
const (
	// FrontendPass: what comes from outside for a pod of another node is passed on to that
	// node as it is, which translates it and answers the client itself.
	FrontendPass uint32 = 1 << iota
	// FrontendHostPort: it is a pod's host port, Weft's also where another program serves
	// Services.
	FrontendHostPort
)

// Set is how many backends a set has: the row of the map `sets`.
type Set struct {
	Count  uint32 // slots 0 … Count-1 have backends
	Maglev uint32 // size of its Maglev table; 0: none
	Flags  uint32 // SetDrop
}

// Flags of a [Set].
const (
	// SetDrop: without backends here others may still have some (a traffic policy
	// Local): drop, do not reject.
	SetDrop uint32 = 1 << iota
)

// Slot is the key of the map `backends`.
type Slot struct {
	Set  SetID
	Slot uint32
}

// Backend is one place to choose: the row of the map `backends`.
type Backend struct {
	Addr       netip.Addr // unmapped
	Port       uint16
	Generation uint32 // of what has this address now
}

// MaglevBlock is how many entries one row of the map `maglev` has.
const MaglevBlock = len(weftMaglev{}.Slot)

// Block is the key of the map `maglev`: entries Block*MaglevBlock and on.
type Block struct {
	Set   SetID
	Block uint32
}

// MaglevRow is slots of the set; entries past the end of the table are 0.
type MaglevRow [MaglevBlock]uint16

// Range is the key of the map `ranges`.
type Range struct {
	Ranges SetID
	Prefix netip.Prefix // masked, unmapped
}

// Services are the tables of Services, in the order of reference.
type Services struct {
	Alive     reconcile.Target[Place, uint32] // generation by backend
	Backends  reconcile.Target[Slot, Backend]
	Maglev    reconcile.Target[Block, MaglevRow]
	Ranges    reconcile.Target[Range, struct{}]
	Sets      reconcile.Target[SetID, Set]
	Frontends reconcile.Target[Place, Frontend]
}

// Services returns the tables of Services. Each Set returns [ErrFull] if there is no
// room.
func (d *Datapath) Services() Services {
	return Services{
		Alive: alive{d, table[weftAliveKey, uint32, Place, uint32]{d, weftMapAlive, toAlive, alivePlace, same, same}},
		Backends: table[weftBackendKey, weftBackend, Slot, Backend]{d, weftMapBackends,
			func(k Slot) weftBackendKey { return weftBackendKey{Set: uint64(k.Set), Slot: k.Slot} },
			func(k weftBackendKey) Slot { return Slot{SetID(k.Set), k.Slot} },
			func(v Backend) weftBackend {
				return weftBackend{Addr: toAddr(v.Addr), Port: v.Port, Generation: v.Generation}
			},
			func(v weftBackend) Backend { return Backend{addrFrom(v.Addr), v.Port, v.Generation} },
		},
		Maglev: table[weftMaglevKey, weftMaglev, Block, MaglevRow]{d, weftMapMaglev,
			func(k Block) weftMaglevKey { return weftMaglevKey{Set: uint64(k.Set), Block: k.Block} },
			func(k weftMaglevKey) Block { return Block{SetID(k.Set), k.Block} },
			func(v MaglevRow) weftMaglev { return weftMaglev{Slot: v} },
			func(v weftMaglev) MaglevRow { return v.Slot },
		},
		Ranges: table[weftRangeKey, uint32, Range, struct{}]{d, weftMapRanges, toRange, rangeFrom,
			func(struct{}) uint32 { return 1 },
			func(uint32) struct{} { return struct{}{} },
		},
		Sets: table[uint64, weftSet, SetID, Set]{d, weftMapSets,
			func(k SetID) uint64 { return uint64(k) },
			func(k uint64) SetID { return SetID(k) },
			func(v Set) weftSet { return weftSet{Count: v.Count, Maglev: v.Maglev, Flags: v.Flags} },
			func(v weftSet) Set { return Set{v.Count, v.Maglev, v.Flags} },
		},
		Frontends: frontends{d, table[weftFrontendKey, weftFrontend, Place, Frontend]{d, weftMapFrontends,
			func(k Place) weftFrontendKey {
				return weftFrontendKey{Addr: toAddr(k.Addr), Port: k.Port, Proto: uint8(k.Protocol)}
			},
			func(k weftFrontendKey) Place { return Place{addrFrom(k.Addr), k.Port, Protocol(k.Proto)} },
			func(v Frontend) weftFrontend {
				return weftFrontend{Inside: uint64(v.Inside), Outside: uint64(v.Outside), Host: uint64(v.Host), Ranges: uint64(v.Ranges), Affinity: v.Affinity, Flags: v.Flags}
			},
			func(v weftFrontend) Frontend {
				return Frontend{SetID(v.Inside), SetID(v.Outside), SetID(v.Host), SetID(v.Ranges), v.Affinity, v.Flags}
			},
		}},
	}
}

func same(v uint32) uint32 { return v }

func toAlive(k Place) weftAliveKey {
	return weftAliveKey{Addr: toAddr(k.Addr), Port: k.Port, Proto: uint8(k.Protocol)}
}

func alivePlace(k weftAliveKey) Place { return Place{addrFrom(k.Addr), k.Port, Protocol(k.Proto)} }

func toRange(k Range) weftRangeKey {
	p := toPrefix(k.Prefix)
	out := weftRangeKey{Bits: 64 + p.Bits, Addr: p.Addr}
	for i := range out.Ranges {
		out.Ranges[i] = byte(k.Ranges >> (8 * i))
	}
	return out
}

func rangeFrom(k weftRangeKey) Range {
	r := Range{Prefix: prefixFrom(weftPrefix{Bits: k.Bits - 64, Addr: k.Addr})}
	for i, b := range k.Ranges {
		r.Ranges |= SetID(b) << (8 * i)
	}
	return r
}

// table is a map as a target: K and V as the kernel has them, RowK and RowV as we do.
type table[K, V, RowK, RowV comparable] struct {
	d        *Datapath
	name     string
	key      func(RowK) K
	rowKey   func(K) RowK
	value    func(RowV) V
	rowValue func(V) RowV
}

func (t table[K, V, RowK, RowV]) Dump() (map[RowK]RowV, error) {
	return gather(func(f func(RowK, RowV)) error {
		return scan(t.d, t.name, func(k *K, v *V) {
			if key := t.rowKey(*k); t.key(key) == *k {
				f(key, t.rowValue(*v))
			}
		})
	})
}

// Range also puts right what nobody of us writes, as something in padding: a key with that is none
// of the table's, its row goes.
func (t table[K, V, RowK, RowV]) Range(f func(RowK, RowV)) error {
	var strange []K
	var mended map[K]V
	err := scan(t.d, t.name, func(k *K, v *V) {
		key, value := t.rowKey(*k), t.rowValue(*v)
		if t.key(key) != *k {
			strange = append(strange, *k)
			return
		}
		if w := t.value(value); w != *v && t.name != weftMapFrontends { // in which programs count
			if mended == nil {
				mended = map[K]V{}
			}
			mended[*k] = w
		}
		f(key, value)
	})
	for _, k := range strange {
		err = errors.Join(err, remove(t.d, t.name, k))
	}
	for k, v := range mended {
		err = errors.Join(err, set(t.d, t.name, k, v))
	}
	return err
}

func (t table[K, V, RowK, RowV]) Get(k RowK) (RowV, bool, error) {
	v, ok, err := get[K, V](t.d, t.name, t.key(k))
	return t.rowValue(v), ok, err
}

func (t table[K, V, RowK, RowV]) Set(k RowK, v RowV) error {
	return set(t.d, t.name, t.key(k), t.value(v))
}

// SetAll sets many rows at once (BPF_MAP_UPDATE_BATCH, Linux 5.6; one by one where the
// kernel or the map's type has it not).
func (t table[K, V, RowK, RowV]) SetAll(keys []RowK, values []RowV) (int, error) {
	ks, vs := make([]K, len(keys)), make([]V, len(keys))
	for i := range keys {
		ks[i], vs[i] = t.key(keys[i]), t.value(values[i])
	}
	n, err := setAll(t.d, t.name, ks, vs)
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return n, err
	}
	for i := range ks {
		if err := set(t.d, t.name, ks[i], vs[i]); err != nil {
			return i, err
		}
	}
	return len(ks), nil
}

// Holds is that of [reconcile.Checker].
func (t table[K, V, RowK, RowV]) Holds(rows iter.Seq2[RowK, RowV]) (bool, error) {
	return holds(t.d, t.name, func(yield func(K, V) bool) {
		for k, v := range rows {
			if !yield(t.key(k), t.value(v)) {
				return
			}
		}
	})
}

// Count is that of [reconcile.Checker].
func (t table[K, V, RowK, RowV]) Count() (int, bool, error) { return t.d.count(t.name) }

func (t table[K, V, RowK, RowV]) Delete(k RowK) error { return remove(t.d, t.name, t.key(k)) }

// frontends marks the address of each row it writes.
type frontends struct {
	d *Datapath
	table[weftFrontendKey, weftFrontend, Place, Frontend]
}

// Range marks the addresses that are not marked any more.
func (t frontends) Range(f func(Place, Frontend)) error {
	if err := t.d.readPlaces(); err != nil {
		return err
	}
	var unmarked error
	err := t.table.Range(func(k Place, v Frontend) {
		unmarked = cmp.Or(t.d.markPlace(toAddr(k.Addr)), unmarked)
		f(k, v)
	})
	return errors.Join(err, unmarked)
}

func (t frontends) Set(k Place, v Frontend) error {
	if err := t.d.markPlace(toAddr(k.Addr)); err != nil {
		return err
	}
	return t.table.Set(k, v)
}

func (t frontends) SetAll(keys []Place, values []Frontend) (int, error) {
	for i, k := range keys {
		if err := t.d.markPlace(toAddr(k.Addr)); err != nil {
			n, setErr := t.table.SetAll(keys[:i], values[:i])
			return n, cmp.Or(setErr, err)
		}
	}
	return t.table.SetAll(keys, values)
}
