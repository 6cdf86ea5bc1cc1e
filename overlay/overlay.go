// Package overlay turns nodes into what one node's kernel needs to reach the
// pods of the others: routes, neighbours, addresses, sysctls, the VXLAN device
// and the chains. It knows neither Kubernetes nor the layout of BPF maps.
//
// [Compile] and its companions are pure. The New… functions return targets for
// the tables of package reconcile; they work in the network namespace of the
// process (of the calling thread at the first call).
package overlay

import (
	"errors"
	"fmt"
	"net/netip"
)

// Names and numbers by which kernel state is recognised as ours.
const (
	DeviceName  = "weft-vxlan"
	DeviceAlias = "weft:overlay"
	// Protocol is the protocol of our routes (rtnetlink.h: values above 4 are
	// not interpreted by the kernel).
	Protocol = 87

	DefaultVNI  = 87
	DefaultPort = 8872
	ProbePort   = 8873 // UDP, inside the overlay
)

// Mode says how packets get to other nodes.
type Mode string

const (
	ModeVXLAN  Mode = "vxlan"  // encapsulated
	ModeDirect Mode = "direct" // plainly routed; the network between must know the way
	ModeAuto   Mode = "auto"   // direct where the peer is on a link of ours, else vxlan
)

// ParseMode checks a setting. Empty is ModeVXLAN.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case "":
		return ModeVXLAN, nil
	case ModeVXLAN, ModeDirect, ModeAuto:
		return m, nil
	}
	return "", fmt.Errorf("overlay mode %q: want vxlan, direct or auto", s)
}

// Config is what the node's settings and its device say.
type Config struct {
	Mode   Mode // empty: ModeVXLAN
	MTU    int  // of the pods; 0: follow the uplinks
	Device int  // ifindex of weft-vxlan; 0 while it does not exist
}

// Node is one node of the cluster, as its Node object says.
type Node struct {
	Name     string
	Addrs    []netip.Addr   // InternalIPs, in order
	PodCIDRs []netip.Prefix // any number per family
}

// Path is the kernel's way to one outer address.
type Path struct {
	LinkIndex int
	LinkName  string
	LinkMTU   int        // the device's
	MTU       int        // of the way: the device's, the route's, or a PMTU exception's
	Src       netip.Addr // source the kernel would take
	NextHop   netip.Addr // the address itself if OnLink
	OnLink    bool
}

// Uplink is a device by which other nodes may be reached.
type Uplink struct {
	Index int
	Name  string
	MTU   int
}

// Peer is one pod prefix of another node, and the way there.
type Peer struct {
	Name      string // the node's
	Prefix    netip.Prefix
	Remote    netip.Addr // outer destination
	Local     netip.Addr // outer source: what the peer knows us by
	NextHop   netip.Addr // whose MAC the outer frame goes to
	MAC       [6]byte    // inner destination MAC: NodeMAC(Remote)
	LinkIndex int        // uplink
	MTU       int        // biggest inner IP packet
	Direct    bool       // not encapsulated
}

// RouteKey is what makes a route unique in the kernel's main table.
type RouteKey struct {
	Dst    netip.Prefix // masked
	Metric uint32       // 0: the kernel's default (IPv4 0, IPv6 1024)
}

// Route is the rest of a route of protocol 87 in the main table.
type Route struct {
	Unreachable bool // answered with ICMP; all other fields are zero
	LinkIndex   int
	Gateway     netip.Addr // zero: on link (scope link); may be IPv6 for an IPv4 Dst
	OnLink      bool       // Gateway is on the link whatever the routes say
	Src         netip.Addr // preferred source
	MTU         int        // 0: the device's
	// Odd is true in a dump if the route has anything that we never write. It
	// makes a damaged row differ from a wanted one.
	Odd bool
}

// MetricUnreachable is the metric of the unreachable routes for our own pod
// prefixes: behind any route that anybody sets.
const MetricUnreachable = 4278198272

// NeighKey is the key of a neighbour entry.
type NeighKey struct {
	LinkIndex int
	IP        netip.Addr
}

// NeighMAC is the MAC of a permanent neighbour entry.
type NeighMAC [6]byte

// AddrKey is an address on our device. The index makes the rows of a device
// that was made anew differ from those of the former one.
type AddrKey struct {
	LinkIndex int
	Prefix    netip.Prefix
}

var (
	// ErrNoAddress: a node has no address of a family that the other has.
	ErrNoAddress = errors.New("no common address family")
	// ErrOverlap: a peer claims pod addresses of our own.
	ErrOverlap = errors.New("pod prefix overlaps our own")
	// ErrMTU: the MTU is below what the family demands.
	ErrMTU = errors.New("mtu too small")
	// ErrLocal: an address that should be another node's is our own.
	ErrLocal = errors.New("address is this node's own")
)
