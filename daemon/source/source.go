// Package source tells the daemon what the cluster looks like, from a folder of
// Kubernetes YAML that all nodes see (or that is copied to them).
//
// The folder's own files (*.yaml, *.yml, *.json; not those of folders below) hold
// Node, Pod, Namespace, Service, EndpointSlice, NetworkPolicy and ClusterNetworkPolicy
// objects as the API server would show them, in any order, one or many to a file, also as a
// List. Other kinds are counted and ignored. A Service with a selector and without an EndpointSlice gets its endpoints from
// the pods, as Kubernetes' controller would make them. Below the folder,
// status/<node>/ is written by the daemon of that node alone: one Pod object for each
// interface it attached, with the addresses.
//
// A file is the unit of trust: while it cannot be read, what it said last stays, and
// the reason is a Problem; so it is if a Node loses its pod CIDRs or its address, or a
// Service its clusterIP or its ports. Of a policy in a file that was never well, what can be
// read counts, and allows no more than the policy was meant to. When a file is removed, its objects are gone. While
// the whole folder is missing everything stays as it was.
package source

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/weftnet/weft/internal/api"
)

// What a Problem of this package is called (api.Problem.What).
const (
	ProblemMissing   = "source-missing"   // the folder is not there, or cannot be listed
	ProblemFile      = "source-file"      // a file cannot be read
	ProblemDuplicate = "source-duplicate" // two files hold the same object
	ProblemNode      = "source-node"      // a Node lacks something that peers need
	ProblemService   = "source-service"   // a Service or its endpoints lack something
	ProblemPolicy    = "source-policy"    // a policy cannot be read wholly, or not be done
	ProblemStatus    = "source-status"    // our own status files cannot be written
	ProblemWatch     = "source-watch"     // no notification of changes; the folder is polled
)

// Options of [Open].
type Options struct {
	// Node is our own name: the folder below status/ that we write.
	Node string
	Log  *slog.Logger // default: discard
	// Poll is how often the folder is looked through although no change was
	// notified. Default: 16 s.
	Poll time.Duration
	// Labels gives the labels of an attachment whose Pod is not in the folder
	// (args.cni.labels); may be nil. It is called without locks held.
	Labels func(api.Ref) map[string]string
}

// Node is what is kept of a Node object.
type Node struct {
	Name, UID   string
	Labels      map[string]string
	PodCIDRs    []netip.Prefix // masked, at most one of each family
	InternalIPs []netip.Addr   // in the object's order; the first is the outer address
	// Problem says what is missing for peers to reach this node's pods; "" if nothing.
	Problem string
}

// Pod is what is kept of a Pod object. Labels are those of the folder's Pod if there is
// one, addresses those that the pod's node wrote below status/ if it did.
type Pod struct {
	Namespace, Name, UID string
	Labels               map[string]string
	Node                 string // "" until it is bound
	HostNetwork          bool
	IPs                  []netip.Addr
	Announced            []netip.Addr // by its node at ADD, while the status has none; see docs/policy.md
	Ports                []SlicePort  // those of the containers that have a name
	Ready                bool         // unless status.conditions says otherwise
	Terminating          bool         // it was deleted, but still runs
	Finished             bool         // it succeeded or failed
	// Attachment is the interface that has IPs; the zero Ref if no daemon wrote it.
	Attachment api.Ref
	Declared   bool // by the folder when it was attached
}

// Namespace is what is kept of a Namespace object.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// State is everything that is known at one time. It is shared: what it points to must
// not be changed. An object that has not changed keeps its pointer.
type State struct {
	Nodes      []*Node      // by name
	Pods       []*Pod       // by namespace and name; package kube's: see there
	Namespaces []*Namespace // by name
	Services   []*Service   // by namespace and name
	// Slices, by namespace and name, are those of the folder and, for Services with a
	// selector that have none there, those derived from Pods.
	Slices          List[EndpointSlice]
	flat            []*EndpointSlice // Slices, while a folder's state is made
	derived         []*Service       // whose Slices were derived
	Policies        []*NetworkPolicy // by namespace and name
	ClusterPolicies []*ClusterPolicy // by name
	// PoliciesComplete says that Policies, ClusterPolicies, Namespaces and the Pods of all
	// nodes have been all that there are, once since the start. Until then what policies say
	// is not known.
	PoliciesComplete bool

	Problems []api.Problem
	Ignored  int // objects that are not read: of other kinds, or slices of no Service
	// Complete says that each file has been read at least once since the start. Until
	// then objects may be missing that exist: nothing should be pruned for their sake.
	Complete bool
}

// Unpoliced says that all that policies need is known, and that there are none.
func (s State) Unpoliced() bool {
	return s.PoliciesComplete && len(s.Policies)+len(s.ClusterPolicies) == 0
}
