package bpf

import (
	"fmt"
	"path/filepath"

	"github.com/weftnet/weft/internal/crash"
)

// reasons are the names of the counters (enum reason in src/reasons.h).
var reasons = [weftReasonREASONS]string{
	weftReasonOK: "",

	weftReasonDROP_TRUNCATED:        "truncated",
	weftReasonDROP_BAD_HEADER:       "bad-header",
	weftReasonDROP_BAD_LENGTH:       "bad-length",
	weftReasonDROP_BAD_CHECKSUM:     "bad-checksum",
	weftReasonDROP_NOT_IP:           "not-ip",
	weftReasonDROP_SPOOFED_ADDRESS:  "spoofed-address",
	weftReasonDROP_SPOOFED_MAC:      "spoofed-mac",
	weftReasonDROP_LINK_LOCAL:       "link-local",
	weftReasonDROP_BAD_NEIGHBOUR:    "bad-neighbour",
	weftReasonDROP_VXLAN_FLAGS:      "vxlan-flags",
	weftReasonDROP_VXLAN_VNI:        "vxlan-vni",
	weftReasonDROP_UNKNOWN_SENDER:   "unknown-sender",
	weftReasonDROP_NO_PEER:          "no-peer",
	weftReasonDROP_NO_TUNNEL:        "no-tunnel-key",
	weftReasonDROP_CONGESTION:       "congestion",
	weftReasonDROP_OVERLAY_PORT:     "overlay-port",
	weftReasonDROP_FRAGMENT:         "service-fragment",
	weftReasonDROP_SOURCE_RANGE:     "source-range",
	weftReasonDROP_NO_LOCAL_BACKEND: "no-local-backend",
	weftReasonDROP_FLOWS_FULL:       "flows-full",
	weftReasonDROP_FLOWS_BUSY:       "flows-busy",
	weftReasonDROP_PORTS_FULL:       "ports-full",
	weftReasonDROP_NO_ROUTE:         "no-route",
	weftReasonDROP_SERVICE_PROTOCOL: "service-protocol",
	weftReasonDROP_POLICY_INGRESS:   "policy-ingress",
	weftReasonDROP_POLICY_EGRESS:    "policy-egress",
	weftReasonDROP_POLICY_CLOSED:    "policy-unknown",
	weftReasonDROP_PASSAGE:          "passage",
	weftReasonDROP_INTERNAL:         "internal",

	weftReasonREJECT_NO_BACKEND:   "no-backend",
	weftReasonREJECT_NO_PORT:      "no-port",
	weftReasonREJECT_BACKEND_GONE: "backend-gone",
	weftReasonREJECT_TOO_BIG:      "too-big-for-backend",

	weftReasonSTACK_TTL:       "ttl",
	weftReasonSTACK_OPTIONS:   "options",
	weftReasonSTACK_TOO_BIG:   "too-big",
	weftReasonSTACK_FRAGMENT:  "outer-fragment",
	weftReasonSTACK_LIMITED:   "limited",
	weftReasonSTACK_SEGMENTS:  "segments",
	weftReasonSTACK_NO_LINK:   "no-link",
	weftReasonSTACK_NO_ROOM:   "no-room",
	weftReasonSTACK_NETFILTER: "netfilter",
}

// ReasonNumber is the key of a reason's row in the map `counters`.
func ReasonNumber(name string) (uint32, error) {
	for r, known := range reasons {
		if known == name && name != "" {
			return uint32(r), nil
		}
	}
	return 0, fmt.Errorf("no reason is called %q", name)
}

// Counters returns the number of packets for each reason since the layout was
// created, also those that are zero, in a fixed order. Packets that took the direct
// way, and those that are the stack's by their destination, are not counted.
func (d *Datapath) Counters() ([]Counter, error) {
	out := make([]Counter, 0, len(reasons)-1)
	for r, name := range reasons {
		if name == "" {
			continue
		}
		c, err := d.counter(weftReason(r))
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// CountersOf is [Datapath.Counters] of some reasons, in their order; a name that is none is
// an error. Each is a system call.
func (d *Datapath) CountersOf(names ...string) ([]Counter, error) {
	out := make([]Counter, 0, len(names))
	for _, name := range names {
		r, err := ReasonNumber(name)
		if err != nil {
			return nil, fmt.Errorf("read counter: %w", err)
		}
		c, err := d.counter(weftReason(r))
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func (d *Datapath) counter(r weftReason) (Counter, error) {
	var perCPU []uint64
	if err := d.maps[weftMapCounters].Lookup(uint32(r), &perCPU); err != nil {
		return Counter{}, fmt.Errorf("read counter %s: %w", reasons[r], err)
	}
	c := Counter{Kind: kindOf(r), Reason: reasons[r]}
	for _, n := range perCPU {
		c.Count += n
	}
	return c, nil
}

// kindOf is what becomes of packets with a reason, see [Counter].
func kindOf(r weftReason) string {
	switch {
	case r >= weftReasonSTACK_FIRST:
		return "stack"
	case r >= weftReasonREJECT_FIRST:
		return "reject"
	}
	return "drop"
}

// repin puts back the pin of a map that someone has removed: without it, the next
// daemon would begin with empty maps.
func (d *Datapath) repin(name string) error {
	path := d.pins[name]
	if exists(path) {
		return nil
	}
	// A clone does not know that it was pinned.
	m, err := d.maps[name].Clone()
	if err != nil {
		return fmt.Errorf("pin map %s again: %w", name, err)
	}
	defer m.Close()
	if err := mkdir(filepath.Dir(path)); err != nil {
		return err
	}
	if err := m.Pin(path); err != nil {
		return fmt.Errorf("pin map again: %w", err)
	}
	crash.Point("bpf pin map")
	d.log.Warn("a pin was gone and is back", "map", path)
	return nil
}
