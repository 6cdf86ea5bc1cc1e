package announce

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// What nodes send each other, in UDP datagrams of 40 bytes (struct probe in
// bpf/src/announce.h): "weft", a kind, flags, two zeros; a number that only who was asked
// can know; the silence of the asked node's daemon in ms; four zeros; the address that is
// spoken of, IPv4 as ::ffff:a.b.c.d. Numbers are in network order.
const wireLen = 40

const (
	kindQuestion = 1 // answered by the BPF program of the asked node
	kindAnswer   = 2
	kindYield    = 3 // the sender has announced the address and leaves it to the receiver
	// 4 is daemon/returns'.
	kindLook = 5 // the node with the address does not answer the sender any more; with flagOn, it does again
)

const (
	flagOn   = 1 << 0 // the asked node answers for the address
	flagHeld = 1 << 1 // or could
)

// neverHeard is the silence of a node that never had a daemon.
const neverHeard = time.Duration(1<<63 - 1)

// Datagram is what one node tells another.
type Datagram struct {
	Kind, Flags byte
	Nonce       uint64
	Silence     time.Duration
	Addr        netip.Addr
}

// Encode returns the datagram's bytes.
func (d Datagram) Encode() []byte {
	b := make([]byte, wireLen)
	copy(b, "weft")
	b[4], b[5] = d.Kind, d.Flags
	binary.BigEndian.PutUint64(b[8:], d.Nonce)
	ms := uint32(1<<32 - 1)
	if d.Silence != neverHeard {
		ms = uint32(d.Silence.Milliseconds())
	}
	binary.BigEndian.PutUint32(b[16:], ms)
	at := d.Addr.As16()
	copy(b[24:], at[:])
	return b
}

// Decode reads a datagram; false: it is none of ours.
func Decode(b []byte) (Datagram, bool) {
	if len(b) != wireLen || string(b[:4]) != "weft" {
		return Datagram{}, false
	}
	d := Datagram{
		Kind: b[4], Flags: b[5], Nonce: binary.BigEndian.Uint64(b[8:]),
		Addr: netip.AddrFrom16([16]byte(b[24:])).Unmap(),
	}
	if ms := binary.BigEndian.Uint32(b[16:]); ms == 1<<32-1 {
		d.Silence = neverHeard
	} else {
		d.Silence = time.Duration(ms) * time.Millisecond
	}
	return d, true
}
