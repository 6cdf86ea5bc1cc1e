package bpf

import (
	"net/netip"
)

// Endpoint is what the programs know of one address that ends on this node: the
// row of the map `endpoints`.
type Endpoint struct {
	IfIndex uint32  // host end of the pod's veth; 0 for an address of the node
	MAC     [6]byte // of the pod
	HostMAC [6]byte // of the host end
	Flags   uint32  // EndpointStack, EndpointHost
	// What may reach the pod and what it may reach; 0: everything.
	Ingress, Egress RuleSet
}

// Flags of an [Endpoint].
const (
	// EndpointStack: what this pod sends and what it is sent goes through the
	// kernel's stack and the devices' queueing disciplines, never past them.
	EndpointStack uint32 = 1 << iota
	// EndpointHost: the address is the node's own.
	EndpointHost
)

// Peer is how the pods of another node are reached, and who may send as them: the
// row of the map `peers`, keyed by pod prefix.
//
// Addresses are unmapped (a plain IPv4 address, not ::ffff:a.b.c.d), so that what
// Dump returns compares equal to what was Set.
type Peer struct {
	Remote    netip.Addr // outer address of that node
	Local     netip.Addr // outer address of this node towards it; same family
	NextHop   netip.Addr // neighbour on LinkIndex that leads to Remote
	MAC       [6]byte    // inner destination MAC: that node's weft-vxlan
	LinkIndex uint32     // uplink
	MTU       uint32     // biggest inner IP packet, bytes
	Flags     uint32     // PeerDirect, PeerMute
}

// Flags of a [Peer].
const (
	// PeerDirect: no encapsulation; the packet goes to NextHop as it is.
	PeerDirect uint32 = 1 << iota
	// PeerMute: what it sends from addresses that are not its own, as a Service's, does not
	// arrive: it cannot answer clients itself.
	PeerMute
)

// Program is one program of the datapath.
type Program string

// The programs and where they are attached (TCX).
const (
	FromPod     Program = "from_pod"     // ingress of the host end of a pod's veth
	ToPod       Program = "to_pod"       // egress of it
	FromUplink  Program = "from_uplink"  // ingress of the devices that carry the node's addresses
	ToUplink    Program = "to_uplink"    // egress of them
	ToOverlay   Program = "to_overlay"   // egress of weft-vxlan
	FromOverlay Program = "from_overlay" // ingress of weft-vxlan
)

// The programs of sockets, attached to a cgroup. The kernel keeps 15 bytes of a name.
const (
	SockConnect4 Program = "sock_connect4" // connect
	SockConnect6 Program = "sock_connect6"
	SockSend4    Program = "sock_send4" // sendto, sendmsg
	SockSend6    Program = "sock_send6"
	SockRecv4    Program = "sock_recv4" // recvfrom, recvmsg
	SockRecv6    Program = "sock_recv6"
	SockPeer4    Program = "sock_peer4" // getpeername
	SockPeer6    Program = "sock_peer6"
	SockRelease  Program = "sock_release" // the last close
)

// Hook is one program on one device. (Of programs of sockets it names the link: they
// have no device, and their table is keyed by [Program].)
type Hook struct {
	Program Program
	IfIndex int
}

// Config is what the programs know from the moment they are loaded.
type Config struct {
	VNI  uint32 // of the overlay, 24 bits; the next one is that of what is passed on
	Port uint16 // UDP port of the overlay
	// AnnouncePort is the UDP port of the nodes' probes; 0: DefaultAnnouncePort.
	AnnouncePort uint16
	// Netfilter says that another program serves Services by the node's netfilter
	// (kube-proxy), or did before this daemon: until [Datapath.TakeOver] pods' packets
	// pass the node's stack, so that it sees whole flows, and its flows go on there.
	Netfilter bool
	// NetnsCookie (SO_NETNS_COOKIE) is that of the node's own network namespace; 0: the
	// one that the caller of Open is in.
	NetnsCookie uint64
}

// DefaultAnnouncePort is the UDP port of probes between nodes; see src/announce.h.
const DefaultAnnouncePort = 8874

// Counter is a number of packets since the layout was created.
type Counter struct {
	Kind   string // "drop", or "stack": left to the kernel's stack
	Reason string
	Count  uint64
}
