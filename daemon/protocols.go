package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/bpf"
)

// protocolText names a packet's protocol, and what of it a person may want to know.
func protocolText(p bpf.Packet) (name, detail string) {
	types := icmpTypes
	switch p.Protocol {
	case bpf.TCP, bpf.UDP, bpf.SCTP:
		return p.Protocol.String(), ""
	case unix.IPPROTO_ICMP:
		name = "ICMP"
	case unix.IPPROTO_ICMPV6:
		name, types = "ICMPv6", icmp6Types
	default:
		return fmt.Sprintf("protocol %d", p.Protocol), ""
	}
	if detail = types[p.ICMPType]; detail == "" {
		detail = fmt.Sprintf("type %d", p.ICMPType)
	}
	return name, detail
}

// Types of messages (IANA, "ICMP Parameters" and "ICMPv6 Parameters").
var (
	icmpTypes  = map[uint8]string{0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
	icmp6Types = map[uint8]string{
		1: "unreachable", 2: "packet too big", 3: "time exceeded", 128: "echo request", 129: "echo reply",
		130: "multicast listener query", 131: "multicast listener report", 133: "router solicitation", 134: "router advertisement",
		135: "neighbour solicitation", 136: "neighbour advertisement", 137: "redirect", 143: "multicast listener report",
	}
)
