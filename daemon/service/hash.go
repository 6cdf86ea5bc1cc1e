package service

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"

	"github.com/weftnet/weft/bpf"
)

// hashID names a set, or ranges, by what they are: the first 8 bytes of a SHA-256 of the
// parts, never 0. Who may name Services can choose the parts, and a name that is
// another's would give him that one's traffic: so it is a hash for which none can be
// found. That two of 131,072 sets meet by chance has a probability of 5e-10.
func hashID(parts ...string) bpf.SetID {
	var room [256]byte
	text := room[:0]
	for _, p := range parts {
		text = append(append(text, p...), 0)
	}
	sum := sha256.Sum256(text)
	return bpf.SetID(max(1, binary.LittleEndian.Uint64(sum[:])))
}

// generation tells one receiver from the next that has its address, never 0. Of a pod it
// must be the same wherever the pod serves, so that its rows in `alive` agree: uid is
// the pod's UID; without one, addr stands for it.
func generation(uid string, addr netip.Addr) uint32 {
	h := fnvOffset
	if uid == "" {
		for _, b := range addr.As16() {
			h = (h ^ uint64(b)) * fnvPrime
		}
	}
	for i := range len(uid) {
		h = (h ^ uint64(uid[i])) * fnvPrime
	}
	return max(1, uint32(mix(h)))
}

// FNV-1a, 64 bits (RFC 9923).
const (
	fnvOffset uint64 = 0xcbf29ce484222325
	fnvPrime  uint64 = 0x100000001b3
)

// mix spreads a difference in any bit over all of them (the finalizer of SplitMix64).
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
