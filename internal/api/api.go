// Package api is what the CNI plugin, the CLI and the daemon say to each other:
// JSON over HTTP on the daemon's unix socket.
//
// It is the only package of Weft that the plugin imports, so it stays small and
// imports no Kubernetes, netlink or BPF package.
package api

import (
	"encoding/json"
	"net/netip"
	"time"
)

// Where things are unless the settings say otherwise.
const (
	DefaultSocket   = "/run/weft/weftd.sock"
	DefaultStateDir = "/var/lib/weft"
	// PluginType is the CNI type, and the name of the plugin's binary.
	PluginType = "weft-cni"
	// TombstoneDir, below the state directory, holds one file for each DEL that
	// found no daemon. The plugin writes them, the daemon works them off.
	TombstoneDir = "tombstones"
	// AttachmentDir, below the state directory, holds one file for each live
	// attachment. The daemon writes them; the plugin only looks whether any exist.
	AttachmentDir = "attachments"
)

// Paths on the socket. Bodies are JSON; a failed call answers with a status of
// 400 or more and an [Error].
const (
	PathAdd        = "/v1/cni/add"     // POST Attach → Result (CNI 1.1.0 result)
	PathDel        = "/v1/cni/del"     // POST Attach → {}
	PathCheck      = "/v1/cni/check"   // POST Attach, PrevResult set → {}
	PathGC         = "/v1/cni/gc"      // POST GC → {}
	PathCNIStatus  = "/v1/cni/status"  // GET → {} or Error with code 50 or 51
	PathStatus     = "/v1/status"      // GET → Status
	PathEndpoints  = "/v1/endpoints"   // GET → []Endpoint
	PathNodes      = "/v1/nodes"       // GET → []Node
	PathServices   = "/v1/services"    // GET → []Service; /NAME or /NAMESPACE/NAME below it: that one
	PathDrops      = "/v1/drops"       // GET → []Drop, the oldest first
	PathWatchDrops = "/v1/drops/watch" // GET → Drop as JSON, one a line, as they come
	PathPolicies   = "/v1/policy"      // GET → []Policy
	PathPodPolicy  = "/v1/policy/pod"  // /NAME or /NAMESPACE/NAME below it: GET → PodPolicy
	PathExplain    = "/v1/explain"     // POST ExplainRequest → Explanation
	PathMetrics    = "/metrics"        // GET → Prometheus text
)

// CNI error codes (CNI SPEC 1.1.0, "Error"). 100 and above are the plugin's own.
const (
	CodeIncompatible = 1
	CodeUnsupported  = 2
	CodeUnknown      = 3 // container unknown; no DEL needed
	CodeBadEnv       = 4
	CodeIO           = 5
	CodeDecode       = 6
	CodeBadConfig    = 7
	CodeTryAgain     = 11
	CodeNotAvailable = 50 // STATUS: ADD cannot be served
	CodeLimited      = 51 // STATUS: nor may existing pods have full connectivity
	CodeInternal     = 100
	CodeExists       = 101 // ADD: the interface exists already
	CodeMissing      = 102 // CHECK: something of ours is missing; the message names it
)

// Error is a failed call, and the CNI error it becomes.
type Error struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details,omitempty"`
}

func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + ": " + e.Details
}

// Attach names one attachment, and says what the runtime asked for it.
type Attach struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
	Netns       string `json:"netns,omitempty"` // path; empty is valid for DEL
	Network     string `json:"network"`         // name of the network configuration

	// From CNI_ARGS; empty where the runtime is not Kubernetes.
	PodNamespace string `json:"podNamespace,omitempty"`
	PodName      string `json:"podName,omitempty"`
	PodUID       string `json:"podUID,omitempty"`

	Labels       map[string]string `json:"labels,omitempty"` // args.cni.labels
	IPs          []netip.Addr      `json:"ips,omitempty"`    // capability ips, or args.cni.ips
	MAC          string            `json:"mac,omitempty"`    // capability mac
	PortMappings []PortMapping     `json:"portMappings,omitempty"`
	Bandwidth    *Bandwidth        `json:"bandwidth,omitempty"`
	DNS          json.RawMessage   `json:"dns,omitempty"` // CNI dns object for the Result

	// PrevResult is a CNI 1.1.0 result. CHECK always has it, ADD only in a chain.
	PrevResult json.RawMessage `json:"prevResult,omitempty"`
}

// PortMapping is one entry of the capability portMappings (CNI CONVENTIONS.md).
type PortMapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol,omitempty"` // tcp, udp or sctp; default tcp
	HostIP        string `json:"hostIP,omitempty"`
}

// Bandwidth is the capability bandwidth (CNI CONVENTIONS.md): rates in bits per
// second, bursts in bits, 0 = no limit. Ingress is into the pod.
type Bandwidth struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"`
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

// GC lists the attachments of one network that are valid; all others of that
// network are to be removed.
type GC struct {
	Network string `json:"network"`
	Valid   []Ref  `json:"valid"`
}

// Ref names one attachment.
type Ref struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

func (r Ref) String() string { return r.ContainerID + "/" + r.IfName }

// Version of this build; set by the linker.
var Version = "unknown"

// Status is what `weft status` shows.
type Status struct {
	Node     string        `json:"node"`
	Version  string        `json:"version"`
	Since    time.Time     `json:"since"`
	Ready    bool          `json:"ready"`
	Problems []Problem     `json:"problems"` // empty when all is well
	Source   string        `json:"source"`
	Synced   bool          `json:"synced"`
	Overlay  string        `json:"overlay"` // vxlan, direct or auto
	Layout   string        `json:"layout"`  // BPF map layout in use
	MTU      int           `json:"mtu"`     // of the pods, bytes
	Pools    []Pool        `json:"pools"`
	Peers    int           `json:"peers"`
	Reach    []Reach       `json:"reach"` // how the peers answer
	Pods     int           `json:"pods"`
	Announce Announcements `json:"announce"`
	Counters []Counter     `json:"counters"` // packets by reason; zero ones left out
	Tables   []Table       `json:"tables"`
}

// Announcements is the load balancers' addresses that Weft announces.
type Announcements struct {
	Addresses int      `json:"addresses"`      // of the cluster
	Own       int      `json:"own"`            // that this node announces
	Dead      []string `json:"dead,omitempty"` // nodes that do not answer, of those that it probes
}

// Problem is something that a person should know, and what to do about it.
type Problem struct {
	What  string    `json:"what"` // a fixed name, e.g. "no-pod-cidr"
	Text  string    `json:"text"`
	Since time.Time `json:"since"`
}

// Reach is the peers that have one [Node].Reach.
type Reach struct {
	State string   `json:"state"`
	Nodes int      `json:"nodes"`
	Names []string `json:"names,omitempty"` // the first five; none where all is well
}

// Pool is the state of one address pool.
type Pool struct {
	Prefix  netip.Prefix `json:"prefix"`
	Used    int          `json:"used"`
	Cooling int          `json:"cooling"` // released, within the reuse delay
	Size    string       `json:"size"`    // allocatable addresses; decimal, may exceed 64 bits
}

// Counter is a count of packets. Kind is drop or stack (left to the kernel's stack).
type Counter struct {
	Kind   string `json:"kind"`
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// Table is a kernel table that the daemon keeps.
type Table struct {
	Name    string `json:"name"`
	Rows    int    `json:"rows"`
	Repairs uint64 `json:"repairs"` // rows found missing, wrong or left over by a resync
	Error   string `json:"error,omitempty"`
}

// Endpoint is one pod interface of this node, as `weft endpoints` shows it.
type Endpoint struct {
	Ref
	PodNamespace string       `json:"podNamespace,omitempty"`
	PodName      string       `json:"podName,omitempty"`
	PodUID       string       `json:"podUID,omitempty"` // as the runtime named it
	IPs          []netip.Addr `json:"ips"`
	MAC          string       `json:"mac"`
	HostIf       string       `json:"hostIf"`
	Netns        string       `json:"netns"`
	MTU          int          `json:"mtu"`
	Since        time.Time    `json:"since"`
	Bandwidth    *Bandwidth   `json:"bandwidth,omitempty"`
	State        string       `json:"state"` // ok, or what is wrong
}

// Node is one node as `weft nodes` shows it.
type Node struct {
	Name     string         `json:"name"`
	Self     bool           `json:"self"`
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
	Addr     netip.Addr     `json:"addr"`  // outer address
	Via      string         `json:"via"`   // vxlan, direct, or why not at all
	Link     string         `json:"link"`  // uplink device
	MTU      int            `json:"mtu"`   // inner, bytes
	Reach    string         `json:"reach"` // ok, no answer, checksum, mtu, unknown
	RTT      string         `json:"rtt,omitempty"`
}
