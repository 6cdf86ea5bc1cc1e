package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// AwaitReturn makes the programs take note if the packet of this number comes back that
// another node is asked to return (PROBE_RETURN in src/announce.h). [Datapath.Returned] ends
// it.
func (d *Datapath) AwaitReturn(nonce uint64) error {
	if err := d.maps[weftMapReturned].Put(nonceKey(nonce), uint64(0)); err != nil {
		return fmt.Errorf("write map %s: %w", weftMapReturned, err)
	}
	return nil
}

// Returned says whether the packet has come back since [Datapath.AwaitReturn]. It is not
// awaited any more.
func (d *Datapath) Returned(nonce uint64) (bool, error) {
	var at uint64
	m, key := d.maps[weftMapReturned], nonceKey(nonce)
	if err := m.Lookup(key, &at); errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("read map %s: %w", weftMapReturned, err)
	}
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, fmt.Errorf("write map %s: %w", weftMapReturned, err)
	}
	return at != 0, nil
}

// nonceKey is the number as it is in a packet.
func nonceKey(nonce uint64) [8]byte {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], nonce)
	return b
}
